//! The user-mode network: passt(1) makes ordinary sockets of the host out of what the
//! guest sends. It needs no privileges and no set-up.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use caisson_netlink::{Cidr, Mac};
use rustix::fs::Access;
use rustix::io::Errno;

use crate::attachment::Holder;
use crate::filter::{Filter, Ipv6};
use crate::relay::{Begin, Relay};
use crate::stack::{CONNECTION, Launch, STARTED, Stack};
use crate::{
    Attachment, Egress, Error, Guest, Interface, Link, PortMapping, Protocol, Result, Route, host,
};

/// The guest's IPv4 address. The stack's network is seen by one guest only, so that
/// all guests may have the same.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// The gateway, and whoever connects from the host's own addresses.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Answers DNS questions by asking the host's resolver, where that is on the host itself.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

const PREFIX: u8 = 24;

/// As [`ADDRESS`], from a network that is nobody's (RFC 4193).
pub const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xca15, 0x50, 0, 0, 0, 0, 0x15);

/// The guest's address on its link, of which no hardware address is a part: it is the same
/// for all guests, too.
pub const LINK_LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);

/// As [`GATEWAY`].
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The stack's own hardware address.
const STACK_MAC: &str = "02:00:00:00:00:01";

/// Largest packet that the stack takes; the larger, the fewer.
const MTU: u32 = 65_520;

/// A user-mode network to be made.
#[derive(Debug, Clone)]
pub struct Config {
    /// `passt`, version 2023-03 or later.
    pub program: PathBuf,
    /// The guest's hardware address.
    pub mac: Mac,
    /// Published ports, none of them open; see [`crate::reserve`].
    pub ports: Vec<PortMapping>,
    /// The host's first resolver is on the host itself: pass questions to [`RESOLVER`] on.
    pub forward_dns: bool,
    /// Where the guest may connect to.
    pub egress: Egress,
}

/// A user-mode network that runs.
#[derive(Debug)]
pub(crate) struct UserMode {
    relay: Mutex<Option<Relay>>,
    pub(crate) stack: Arc<Stack>,
}

/// Starts a user-mode network. It is usable once [`Attachment::ready`] says so.
///
/// With published ports, the stack runs from now on. Without any, nobody can connect to the guest,
/// and the stack is started when the guest first sends something that needs it.
pub fn start(config: &Config) -> Result<Attachment> {
    let ipv6_from = host::ipv6_interface();
    let ipv6 = ipv6_from.is_some().then_some(Ipv6 {
        global: ADDRESS_V6,
        link_local: LINK_LOCAL_V6,
        gateway: GATEWAY_V6,
    });
    let pair = || UnixStream::pair().map_err(Error::host("make a socket pair"));
    let (machine, machine_end) = pair()?;
    let (ours, stack_end) = pair()?;
    let stack = Stack::new(Launch {
        program: find(&config.program)?,
        arguments: arguments(config, ipv6_from.as_deref()),
        connection: stack_end.into(),
    });
    let user = UserMode {
        relay: Mutex::new(None),
        stack: Arc::clone(&stack),
    };
    let filter = Filter {
        mac: config.mac,
        ipv4: ADDRESS,
        ipv6,
        egress: config.egress.clone(),
        udp_ports: config
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Udp)
            .map(|port| port.container)
            .collect(),
    };
    let begin: Option<Begin> = if config.ports.is_empty() {
        Some(Box::new(move || stack.start()))
    } else {
        stack.start()?;
        None
    };
    *lock(&user.relay) = Some(Relay::start(machine, ours, filter, begin)?);
    Ok(Attachment::new(Holder::UserMode {
        user,
        guest: guest(config.mac, ipv6.is_some()),
        link: Link::Stream(Arc::new(machine_end.into())),
    }))
}

/// What a guest in a user-mode network is told, but for its hardware address.
pub fn expected_guest() -> Guest {
    guest(Mac::default(), host::ipv6_interface().is_some())
}

fn guest(mac: Mac, ipv6: bool) -> Guest {
    const NAME: &str = "eth0";
    let cidr = |address: IpAddr, prefix| Cidr { address, prefix };
    let default = |gateway: IpAddr| Route {
        interface: NAME.to_owned(),
        destination: Cidr::everything(gateway.is_ipv6()),
        gateway: Some(gateway),
        on_link: false,
        source: None,
        metric: 0,
    };
    let mut addresses = vec![cidr(ADDRESS.into(), PREFIX)];
    let mut routes = vec![default(GATEWAY.into())];
    if ipv6 {
        addresses.push(cidr(ADDRESS_V6.into(), 64));
        addresses.push(cidr(LINK_LOCAL_V6.into(), 64));
        routes.push(default(GATEWAY_V6.into()));
    }
    Guest {
        interfaces: vec![Interface {
            name: NAME.to_owned(),
            mac,
            mtu: MTU,
            addresses,
        }],
        routes,
        neighbours: Vec::new(),
    }
}

/// A path, or a name that is looked up in `PATH`. What a start would say of the file is said now:
/// the start may be long after the container's.
fn find(program: &Path) -> Result<PathBuf> {
    let missing = || Error::ProgramMissing {
        program: program.display().to_string(),
        remedy: "install it with `apt-get install passt`, or use `--network none`",
    };
    let found = if program.components().count() > 1 {
        program.exists().then(|| program.to_owned())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
    };
    let program = found.ok_or_else(missing)?;
    let executable = match rustix::fs::access(&program, Access::EXEC_OK) {
        Ok(()) if !program.is_file() => Err(Errno::ACCESS),
        other => other,
    };
    match executable {
        Ok(()) => Ok(program),
        Err(errno) => Err(Error::Spawn {
            program,
            source: errno.into(),
        }),
    }
}

fn arguments(config: &Config, ipv6_from: Option<&str>) -> Vec<OsString> {
    // The guest is told everything by its agent, and the stack leads to no host but
    // others: the gateway is not the host's loopback.
    let mut arguments: Vec<String> = [
        "--foreground",
        "--quiet",
        "--stderr",
        "--no-map-gw",
        "--no-dhcp",
        "--no-dhcpv6",
        "--no-ra",
    ]
    .map(str::to_owned)
    .into();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--fd", CONNECTION.to_string());
    option("--pid", format!("/proc/self/fd/{STARTED}"));
    option("--mac-addr", STACK_MAC.to_owned());
    option("--mtu", MTU.to_string());
    option("--address", ADDRESS.to_string());
    option("--netmask", PREFIX.to_string());
    option("--gateway", GATEWAY.to_string());
    // All that it takes from the interface is its link-local address: given a name, it
    // does not insist on a default route.
    match ipv6_from {
        Some(interface) => {
            option("--address", ADDRESS_V6.to_string());
            option("--gateway", GATEWAY_V6.to_string());
            option("--interface", interface.to_owned());
        }
        None => option("--interface", "lo".to_owned()),
    }
    if config.forward_dns {
        option("--dns-forward", RESOLVER.to_string());
    }
    for (protocol, name) in [
        (Protocol::Tcp, "--tcp-ports"),
        (Protocol::Udp, "--udp-ports"),
    ] {
        for run in runs(&config.ports, protocol) {
            option(name, run);
        }
    }
    if ipv6_from.is_none() {
        arguments.push("--ipv4-only".to_owned());
    }
    arguments.into_iter().map(Into::into).collect()
}

/// Port specifiers; neighbouring ports are one.
fn runs(ports: &[PortMapping], protocol: Protocol) -> Vec<String> {
    let mut runs: Vec<(PortMapping, u16)> = Vec::new();
    for port in ports.iter().filter(|port| port.protocol == protocol) {
        match runs.last_mut() {
            Some((first, more))
                if first.address == port.address
                    && port.host.checked_sub(first.host) == Some(*more + 1)
                    && port.container.checked_sub(first.container) == Some(*more + 1) =>
            {
                *more += 1;
            }
            _ => runs.push((*port, 0)),
        }
    }
    let show = |(first, more): (PortMapping, u16)| {
        let address = first.address.map(|address| format!("{address}/"));
        format!(
            "{}{}-{}:{}-{}",
            address.unwrap_or_default(),
            first.host,
            first.host + more,
            first.container,
            first.container + more
        )
    };
    runs.into_iter().map(show).collect()
}

impl UserMode {
    /// Ends the stack and waits until nothing of it is left.
    pub(crate) fn end(&self) {
        // It ends with its connection; it is killed all the same, in case it hangs. If the relay
        // is about to start it, that is done before the relay has ended.
        drop(lock(&self.relay).take());
        self.stack.end();
    }
}

impl Drop for UserMode {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
