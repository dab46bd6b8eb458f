//! Network namespaces: each interface found in one is joined to a machine.
//!
//! An interface and a tap beside it are joined by traffic control: what arrives at one
//! goes out of the other (`ingress`, `u32`, `mirred`). The guest behind the tap takes
//! the interface's place with its hardware address, addresses, routes and neighbours;
//! the host's stack in the namespace sees nothing of the traffic.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caisson_netlink::{Cidr, Link as Device, Socket};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::attachment::Holder;
use crate::{Attachment, Error, Guest, Interface, Link, Neighbour, Result, Route, tap};

/// A network namespace. One that was made here ends with its last descriptor, and so
/// do the interfaces in it: nothing is left when its holder is killed.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

/// What must be undone in a namespace that stays.
#[derive(Debug)]
pub(crate) struct Joined {
    namespace: Namespace,
    /// Numbers of the interfaces.
    interfaces: Vec<u32>,
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
                fd: File::open("/proc/thread-self/ns/net")?.into(),
            })
        };
        in_thread(make).map_err(Error::host("make a network namespace"))
    }

    /// Opens one that somebody else has made.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = File::open(path);
        let file = opened.map_err(Error::host(format!("open {}", path.display())))?;
        Ok(Self { fd: file.into() })
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
    pub fn join(self) -> Result<Attachment> {
        let found = self.enter("read the network namespace", Found::read)?;
        let mut links = Vec::new();
        let mut interfaces = Vec::new();
        for device in &found.devices {
            if device.mac.is_none() {
                return Err(Error::Interface {
                    name: device.name.clone(),
                    kind: device.kind.clone(),
                });
            }
            let doing = format!("join the interface {} to a tap", device.name);
            let tap = self.enter(&doing, || join(device))?;
            links.push(Link::Tap(Arc::new(tap)));
            interfaces.push(device.index);
        }
        let joined = Joined {
            namespace: self,
            interfaces,
        };
        Ok(Attachment::new(
            found.guest(),
            links,
            Holder::Namespace(joined),
        ))
    }
}

impl Joined {
    /// Gives the interfaces back to the host's stack.
    pub(crate) fn end(&self) {
        let interfaces = self.interfaces.clone();
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

/// What a namespace has.
struct Found {
    devices: Vec<Device>,
    addresses: Vec<caisson_netlink::Address>,
    routes: Vec<caisson_netlink::Route>,
    neighbours: Vec<caisson_netlink::Neighbour>,
}

impl Found {
    fn read() -> io::Result<Self> {
        let mut socket = Socket::open()?;
        let mut devices = socket.links()?;
        // Tunnels that the kernel makes by itself are down.
        devices.retain(|device| device.up && !device.loopback);
        Ok(Self {
            devices,
            addresses: socket.addresses()?,
            routes: socket.routes()?,
            neighbours: socket.neighbours()?,
        })
    }

    fn guest(&self) -> Guest {
        let name = |index: u32| {
            let device = self.devices.iter().find(|device| device.index == index);
            device.map(|device| device.name.clone())
        };
        let addresses = |index: u32| -> Vec<Cidr> {
            let ours = self
                .addresses
                .iter()
                .filter(|address| address.link == index);
            ours.map(|address| address.cidr).collect()
        };
        // These come with the addresses.
        let given = |route: &&caisson_netlink::Route| route.protocol != libc::RTPROT_KERNEL;
        Guest {
            interfaces: self
                .devices
                .iter()
                .map(|device| Interface {
                    name: device.name.clone(),
                    mac: device.mac.unwrap_or_default(),
                    mtu: device.mtu,
                    addresses: addresses(device.index),
                })
                .collect(),
            routes: self
                .routes
                .iter()
                .filter(given)
                .filter_map(|route| {
                    Some(Route {
                        interface: name(route.link)?,
                        destination: route.destination,
                        gateway: route.gateway,
                        on_link: route.on_link,
                        source: route.source,
                        metric: route.metric,
                    })
                })
                .collect(),
            neighbours: self
                .neighbours
                .iter()
                .filter_map(|neighbour| {
                    Some(Neighbour {
                        interface: name(neighbour.link)?,
                        address: neighbour.address,
                        mac: neighbour.mac,
                    })
                })
                .collect(),
        }
    }
}

/// Makes a tap beside an interface of this thread's namespace and joins them.
fn join(device: &Device) -> io::Result<OwnedFd> {
    let (tap, name) = tap::open("caisson%d")?;
    let mut socket = Socket::open()?;
    let index = socket
        .links()?
        .into_iter()
        .find(|link| link.name == name)
        .map(|link| link.index)
        .ok_or(io::ErrorKind::NotFound)?;
    socket.set_up_bare(index, device.mtu)?;
    // Of a machine that was killed before it could part them.
    socket.end_redirect(device.index)?;
    socket.redirect(device.index, index)?;
    socket.redirect(index, device.index)?;
    Ok(tap)
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
