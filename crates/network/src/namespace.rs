//! Network namespaces: each interface found in one is joined to a machine.
//!
//! An interface and a tap beside it are joined by traffic control: what arrives at one
//! goes out of the other (`ingress`, `u32`, `mirred`). The guest behind the tap takes
//! the interface's place with its hardware address, addresses, routes and neighbours;
//! the host's stack in the namespace sees nothing of the traffic. A guest that must not
//! pretend to be another has a program on the way (see [`Spoofing`]).

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caisson_netlink::{Changes, Cidr, Instruction, Link as Device, Socket};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::attachment::Holder;
use crate::change::Change;
use crate::found::Found;
use crate::{Attachment, Error, Guest, Link, Result, Spoofing, guard, tap};

/// A network namespace. One that was made here ends with its last descriptor, and so
/// do the interfaces in it: nothing is left when its holder is killed.
#[derive(Debug)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
}

/// A namespace whose interfaces are joined to a machine.
#[derive(Debug)]
pub(crate) struct Joined {
    namespace: Namespace,
    changes: Changes,
    spoofing: Spoofing,
    state: Mutex<State>,
}

/// What is joined.
#[derive(Debug, Default)]
struct State {
    guest: Guest,
    /// One for each of the guest's interfaces, in their order.
    members: Vec<Member>,
}

/// An interface and the tap beside it.
#[derive(Debug, Clone)]
struct Member {
    /// Number of the interface.
    device: u32,
    /// Number of the tap.
    tap: u32,
    /// The tap, which is there as long as somebody has it open.
    fd: Arc<OwnedFd>,
    /// Addresses from which its guest may send, if that matters.
    addresses: Vec<Cidr>,
}

impl Namespace {
    /// Makes a new one with nothing but a loopback, which is up. Needs root.
    pub fn new() -> Result<Self> {
        let make = || -> io::Result<Self> {
            // SAFETY: this thread is ours alone and has no descriptors or memory that it
            // unshares: only its network namespace is another one from here on.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            // Whoever hands out addresses here knows that they are unique.
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").or_else(ignore_missing)?;
            let mut socket = Socket::open()?;
            for link in socket.links()?.iter().filter(|link| link.loopback) {
                socket.set_up(link.index)?;
            }
            Ok(Self {
                fd: Arc::new(File::open("/proc/thread-self/ns/net")?.into()),
            })
        };
        in_thread(make).map_err(Error::host("make a network namespace"))
    }

    /// Opens one that somebody else has made.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = File::open(path);
        let file = opened.map_err(Error::host(format!("open {}", path.display())))?;
        Ok(Self {
            fd: Arc::new(file.into()),
        })
    }

    /// Whether it is the one that the calling thread is in.
    pub fn is_own(&self) -> Result<bool> {
        let same = || -> io::Result<bool> {
            let (ours, theirs) = (
                rustix::fs::stat("/proc/thread-self/ns/net")?,
                rustix::fs::fstat(&self.fd)?,
            );
            Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
        };
        same().map_err(Error::host("compare network namespaces"))
    }

    /// A path by which programs that this process starts find it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into()
    }

    /// Runs something in the namespace, in a thread of its own.
    pub(crate) fn enter<T: Send>(
        &self,
        doing: &str,
        run: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T> {
        let namespace = self.fd.as_fd();
        in_thread(move || {
            rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            run()
        })
        .map_err(Error::host(doing))
    }

    /// Joins every interface that is up to a tap of its own.
    pub fn join(self, spoofing: Spoofing) -> Result<Attachment> {
        let changes = self.enter("watch the network namespace", Changes::open)?;
        let joined = Joined {
            namespace: self,
            changes,
            spoofing,
            state: Mutex::default(),
        };
        let mut change = joined.update()?;
        match change.refused.pop() {
            Some(error) => {
                joined.end();
                Err(error)
            }
            None => Ok(Attachment::new(Holder::Namespace(joined))),
        }
    }

    /// Gives the interfaces back to the host's stack, for a machine that cannot any more.
    pub fn part(&self) -> Result<()> {
        self.enter("part interfaces and taps", || {
            let mut socket = Socket::open()?;
            let links = socket.links()?;
            let mut others = links.iter().filter(|link| !link.loopback);
            others.try_for_each(|link| socket.end_redirect(link.index))
        })
    }
}

impl Joined {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn guest(&self) -> Guest {
        self.state().guest.clone()
    }

    pub(crate) fn links(&self) -> Vec<Link> {
        let state = self.state();
        let links = state.members.iter().map(|member| member.fd.clone());
        links.map(Link::Tap).collect()
    }

    pub(crate) fn namespace(&self) -> Arc<OwnedFd> {
        self.namespace.fd.clone()
    }

    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    pub(crate) fn connect(&self, to: SocketAddr, patience: Duration) -> Result<TcpStream> {
        let doing = format!("connect to {to} in the network namespace");
        self.namespace
            .enter(&doing, || TcpStream::connect_timeout(&to, patience))
    }

    /// Joins what has come, lets go of what has gone.
    pub(crate) fn update(&self) -> Result<Change> {
        let mut state = self.state();
        // First, so that what changes while we look is looked at again.
        self.changes.forget();
        let taps: Vec<u32> = state.members.iter().map(|member| member.tap).collect();
        let mut found = self
            .namespace
            .enter("read the network namespace", || Found::read(&taps))?;
        let mut refused = found.refuse();
        let mut members = Vec::new();
        let mut plugged = Vec::new();
        for device in std::mem::take(&mut found.devices) {
            let addresses = found.addresses(device.index);
            let member = match state.member(&device) {
                Some(member) => Ok(self.keep(&device, member, addresses, &mut refused)),
                None => self.add(&device, addresses).inspect(|member| {
                    plugged.push((device.index, Link::Tap(member.fd.clone())));
                }),
            };
            match member {
                Ok(member) => {
                    members.push(member);
                    found.devices.push(device);
                }
                Err(error) => refused.push(error),
            }
        }
        let guest = found.guest();
        let mut change = Change::between(&state.guest, &guest);
        let named = guest.interfaces.iter().zip(&members);
        change.plugged = named
            .filter_map(|(interface, member)| {
                let (_, link) = plugged
                    .iter()
                    .find(|(device, _)| *device == member.device)?;
                Some((interface.clone(), link.clone()))
            })
            .collect();
        change.refused = refused;
        *state = State { guest, members };
        Ok(change)
    }

    fn add(&self, device: &Device, addresses: Vec<Cidr>) -> Result<Member> {
        match self.spoofing {
            Spoofing::Allowed => {
                let doing = format!("join the interface {} to a tap", device.name);
                self.namespace.enter(&doing, || join(device, true, None))
            }
            Spoofing::Refused | Spoofing::Strict => {
                let program = honest(device, &addresses);
                let offloads = self.spoofing == Spoofing::Refused;
                let joined = self
                    .namespace
                    .enter(&guarding(device), || join(device, offloads, Some(&program)));
                joined.map(|member| Member {
                    addresses,
                    ..member
                })
            }
        }
    }

    /// A member whose addresses may have changed. It sends from the new ones before its
    /// guest is told of them, and from those that have gone no more.
    fn keep(
        &self,
        device: &Device,
        mut member: Member,
        addresses: Vec<Cidr>,
        refused: &mut Vec<Error>,
    ) -> Member {
        if self.spoofing == Spoofing::Allowed || member.addresses == addresses {
            return member;
        }
        let program = honest(device, &addresses);
        let replaced = self.namespace.enter(&guarding(device), || {
            Socket::open()?.accept(member.tap, device.index, &program)
        });
        match replaced {
            Ok(()) => member.addresses = addresses,
            Err(error) => refused.push(error),
        }
        member
    }

    /// Gives the interfaces back to the host's stack.
    pub(crate) fn end(&self) {
        let interfaces: Vec<_> = {
            let state = self.state();
            state.members.iter().map(|member| member.device).collect()
        };
        let ended = self.namespace.enter("part interfaces and taps", || {
            let mut socket = Socket::open()?;
            interfaces
                .iter()
                .try_for_each(|&index| socket.end_redirect(index))
        });
        if let Err(error) = ended {
            tracing::warn!(%error, "something is left in a network namespace");
        }
    }
}

impl State {
    /// The member that a device is. With another name or hardware address it is another.
    fn member(&self, device: &Device) -> Option<Member> {
        let mut all = self.guest.interfaces.iter().zip(&self.members);
        all.find(|(interface, member)| {
            member.device == device.index
                && interface.name == device.name
                && Some(interface.mac) == device.mac
        })
        .map(|(_, member)| member.clone())
    }
}

/// Makes a tap beside an interface of this thread's namespace and joins them. With a
/// program, its guest sends what that accepts.
fn join(device: &Device, offloads: bool, program: Option<&[Instruction]>) -> io::Result<Member> {
    let (fd, name) = caisson_netlink::open_tap(&format!("{}%d", tap::PREFIX), offloads)?;
    let mut socket = Socket::open()?;
    let tap = socket
        .links()?
        .into_iter()
        .find(|link| link.name == name)
        .map(|link| link.index)
        .ok_or(io::ErrorKind::NotFound)?;
    socket.set_up_bare(tap, device.mtu)?;
    // Of a machine that was killed before it could part them.
    socket.end_redirect(device.index)?;
    socket.redirect(device.index, tap)?;
    match program {
        Some(program) => socket.redirect_accepted(tap, device.index, program)?,
        None => socket.redirect(tap, device.index)?,
    }
    Ok(Member {
        device: device.index,
        tap,
        fd: Arc::new(fd),
        addresses: Vec::new(),
    })
}

/// A program for what the guest behind an interface may send.
fn honest(device: &Device, addresses: &[Cidr]) -> Vec<Instruction> {
    let addresses = addresses.iter().map(|cidr| cidr.address);
    guard::program(device.mac.unwrap_or_default(), addresses)
}

fn guarding(device: &Device) -> String {
    format!(
        "keep a guest from forging addresses on the interface {} (this needs cls_bpf in the \
         host's kernel; anti_spoof = \"off\" does without)",
        device.name
    )
}

/// A thread whose namespaces are changed is good for nothing else.
fn in_thread<T: Send>(run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, run)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
