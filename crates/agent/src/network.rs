//! Interfaces, addresses, routes and neighbours: the guest takes the place that its
//! container has in the host's network.

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use caisson_netlink::{Cidr, Link, Mac, Neighbour, Route, Socket};
use caisson_protocol::agent::{self as api, InterfaceStats, Network, UpdateNetworkRequest};

use crate::device;
use crate::error::{Error, Result};
use crate::interface::Interfaces;

/// Longest name of an interface (`IFNAMSIZ` without the zero).
const NAME_LIMIT: usize = 15;

/// The interface that this machine had as a template, until it is given its place.
static TEMPLATE: Mutex<Option<Prepared>> = Mutex::new(None);

/// An interface of a template, which each fork has, with a hardware address of its own.
#[derive(Debug)]
struct Prepared {
    link: Link,
    /// All that it has been given but that address.
    network: Network,
    /// For giving it that one.
    interfaces: Interfaces,
}

/// Looks for the interface of a machine that is to be frozen, and gives it what it is
/// expected to have.
pub fn prepare(expected: Option<&Network>) -> Result<()> {
    let mut socket = open()?;
    let mut links = links(&mut socket)?;
    links.retain(|link| !link.loopback);
    let Some(mut link) = links.pop() else {
        return Ok(());
    };
    let mut network = expected.cloned().unwrap_or_default();
    if let (Some(mac), [interface]) = (link.mac, &mut network.interfaces[..]) {
        interface.mac = mac.to_vec();
        set_up_links(&mut socket, std::slice::from_ref(&link), &network)?;
    }
    network = without_mac(&network);
    // Its name may have become another.
    link.name = network
        .interfaces
        .first()
        .map_or(link.name, |named| named.name.clone());
    let interfaces = Interfaces::open().map_err(Error::system("open a socket"))?;
    *template() = Some(Prepared {
        link,
        network,
        interfaces,
    });
    Ok(())
}

fn template() -> MutexGuard<'static, Option<Prepared>> {
    TEMPLATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn without_mac(network: &Network) -> Network {
    let mut network = network.clone();
    for interface in &mut network.interfaces {
        interface.mac.clear();
    }
    network
}

impl Prepared {
    /// Gives the interface its hardware address, and takes what it has from it unless that
    /// is all that it is to have. Returns whether it is.
    fn become_part(&mut self, network: &Network) -> Result<bool> {
        let [interface] = &network.interfaces[..] else {
            return Ok(false);
        };
        let mac = mac(&interface.mac)?;
        let index = self.link.index;
        let doing = format!("give {} its hardware address", self.link.name);
        self.interfaces
            .set_mac(&self.link.name, mac)
            .map_err(Error::system(doing))?;
        self.link.mac = Some(mac);
        if self.network == without_mac(network) {
            return Ok(true);
        }
        if self.network.interfaces.is_empty() {
            return Ok(false);
        }
        let mut socket = open()?;
        for address in self.network.interfaces.iter().flat_map(|of| &of.addresses) {
            let doing = format!("take the address {address} from {}", self.link.name);
            socket
                .remove_address(index, cidr(address)?)
                .map_err(Error::system(doing))?;
        }
        let doing = format!("take {} down", self.link.name);
        socket.set_down(index).map_err(Error::system(doing))?;
        Ok(false)
    }
}

/// Sets up all that there is to be. Some of it may be there.
pub fn set_up(network: &Network) -> Result<()> {
    if network.interfaces.is_empty() {
        return Ok(());
    }
    let mut only = None;
    // That of a template is the only one of its fork.
    if let Some(mut prepared) = template().take() {
        if prepared.become_part(network)? {
            return Ok(());
        }
        only = Some(prepared.link).filter(|_| network.interfaces.len() == 1);
    }
    let mut socket = open()?;
    let links = match only {
        Some(link) => vec![link],
        None => links(&mut socket)?,
    };
    set_up_links(&mut socket, &links, network)
}

fn set_up_links(socket: &mut Socket, links: &[Link], network: &Network) -> Result<()> {
    let named = Named::find(links, &network.interfaces)?;
    named.rename(socket, links)?;
    for (interface, (_, index)) in network.interfaces.iter().zip(&named.0) {
        raise(socket, interface, *index)?;
    }
    for neighbour in &network.neighbours {
        let entry = named.neighbour(neighbour)?;
        let doing = || format!("add the neighbour {}", entry.address);
        socket
            .add_neighbour(&entry)
            .map_err(Error::system(doing()))?;
    }
    // The way to a gateway before what goes through it.
    let (direct, indirect): (Vec<_>, Vec<_>) = network
        .routes
        .iter()
        .partition(|route| route.gateway.is_empty());
    for wanted in direct.into_iter().chain(indirect) {
        let route = named.route(wanted)?;
        let doing = || format!("add the route to {}", route.destination);
        socket.add_route(&route).map_err(Error::system(doing()))?;
    }
    Ok(())
}

/// Follows a change.
pub fn update(request: &UpdateNetworkRequest) -> Result<()> {
    remove(&request.removed)?;
    for address in &request.unplugged {
        unplug(address)?;
    }
    for number in &request.plugged {
        device::bind(*number)?;
    }
    set_up(&request.added)
}

fn remove(network: &Network) -> Result<()> {
    if network.interfaces.is_empty() {
        return Ok(());
    }
    let mut socket = open()?;
    let named = Named::find(&links(&mut socket)?, &network.interfaces)?;
    for wanted in &network.routes {
        let route = named.route(wanted)?;
        let doing = || format!("remove the route to {}", route.destination);
        socket
            .remove_route(&route)
            .map_err(Error::system(doing()))?;
    }
    for neighbour in &network.neighbours {
        let entry = named.neighbour(neighbour)?;
        let doing = || format!("remove the neighbour {}", entry.address);
        socket
            .remove_neighbour(&entry)
            .map_err(Error::system(doing()))?;
    }
    for (interface, (name, index)) in network.interfaces.iter().zip(&named.0) {
        for address in &interface.addresses {
            let doing = || format!("take the address {address} from {name}");
            socket
                .remove_address(*index, cidr(address)?)
                .map_err(Error::system(doing()))?;
        }
    }
    Ok(())
}

/// Takes everything from the interfaces of a guest that is a copy of another, and gives
/// those that it shall have their hardware addresses. A copy's devices are in the places
/// that the other's had, so that they go by their names.
pub fn take_down(network: &Network) -> Result<()> {
    let mut socket = open()?;
    let links = socket.links().map_err(Error::system("list interfaces"))?;
    let addresses = socket
        .addresses()
        .map_err(Error::system("list addresses"))?;
    for link in links.iter().filter(|link| !link.loopback) {
        for address in addresses
            .iter()
            .filter(|address| address.link == link.index)
        {
            let doing = format!("take the address {} from {}", address.cidr, link.name);
            socket
                .remove_address(address.link, address.cidr)
                .map_err(Error::system(doing))?;
        }
        let doing = format!("take {} down", link.name);
        socket.set_down(link.index).map_err(Error::system(doing))?;
        // One that the copy has been given itself.
        if network
            .interfaces
            .iter()
            .any(|interface| is_of(link, interface))
        {
            continue;
        }
        let wanted = |interface: &&api::Interface| interface.name == link.name;
        if let Some(interface) = network.interfaces.iter().find(wanted) {
            let doing = format!("give {} its hardware address", link.name);
            socket
                .set_mac(link.index, mac(&interface.mac)?)
                .map_err(Error::system(doing))?;
        }
    }
    Ok(())
}

/// Lets go of the device behind an interface. One that is not there is let go of.
fn unplug(address: &[u8]) -> Result<()> {
    let mac = mac(address)?;
    let links = links(&mut open()?)?;
    let Some(link) = links.iter().find(|link| is(link, mac)) else {
        return Ok(());
    };
    let name = &link.name;
    let doing = || format!("let go of the interface {name}");
    // virtio-mmio.N/virtioM, which has the interface.
    let path = fs::canonicalize(format!("/sys/class/net/{name}/device"))
        .map_err(Error::system(doing()))?;
    let platform = path.parent().and_then(Path::file_name);
    let platform = platform.and_then(OsStr::to_str);
    device::let_go(platform.ok_or_else(|| Error::Missing(format!("device of {name}")))?)
}

/// What went through each interface but the loopback.
pub fn stats() -> Result<Vec<InterfaceStats>> {
    let links = links(&mut open()?)?;
    let links = links.into_iter().filter(|link| !link.loopback);
    Ok(links
        .map(|link| InterfaceStats {
            name: link.name,
            received_bytes: link.counters.received_bytes,
            received_packets: link.counters.received_packets,
            received_errors: link.counters.received_errors,
            received_dropped: link.counters.received_dropped,
            sent_bytes: link.counters.sent_bytes,
            sent_packets: link.counters.sent_packets,
            sent_errors: link.counters.sent_errors,
            sent_dropped: link.counters.sent_dropped,
            ..Default::default()
        })
        .collect())
}

fn open() -> Result<Socket> {
    Socket::open().map_err(Error::system("open a netlink socket"))
}

fn links(socket: &mut Socket) -> Result<Vec<Link>> {
    socket.links().map_err(Error::system("list interfaces"))
}

fn is(link: &Link, mac: Mac) -> bool {
    !link.loopback && link.mac == Some(mac)
}

fn is_of(link: &Link, interface: &api::Interface) -> bool {
    mac(&interface.mac).is_ok_and(|mac| is(link, mac))
}

fn find<'a>(links: &'a [Link], interface: &api::Interface) -> Result<&'a Link> {
    let mac = mac(&interface.mac)?;
    let mut fitting = links.iter().filter(|link| is(link, mac));
    match (fitting.next(), fitting.next()) {
        (Some(link), None) => Ok(link),
        (None, _) => Err(Error::Missing(format!(
            "interface with the hardware address {mac:02x?}"
        ))),
        (Some(_), Some(_)) => Err(Error::Invalid(format!(
            "several interfaces have the hardware address {mac:02x?}"
        ))),
    }
}

/// Interfaces by the names that the host has for them, with their numbers. They are found
/// by their hardware address, for the kernel names them in the order in which it finds them.
struct Named<'a>(Vec<(&'a str, u32)>);

impl<'a> Named<'a> {
    fn find(links: &[Link], interfaces: &'a [api::Interface]) -> Result<Self> {
        let named = interfaces.iter().map(|interface| {
            let link = find(links, interface)?;
            Ok((interface.name.as_str(), link.index))
        });
        named.collect::<Result<_>>().map(Self)
    }

    fn index(&self, name: &str) -> Result<u32> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, index)| *index)
            .ok_or_else(|| Error::Missing(format!("interface {name:?}")))
    }

    /// Gives each interface its name. Two may have to swap theirs. One that is up has been
    /// given its name: if it has another one now, the container wants it so.
    fn rename(&self, socket: &mut Socket, links: &[Link]) -> Result<()> {
        let mut rename = |index: u32, name: &str| {
            let doing = || format!("name an interface {name:?}");
            socket.rename(index, name).map_err(Error::system(doing()))
        };
        let is_wrong = |(name, index): &&(&str, u32)| {
            let link = links.iter().find(|link| link.index == *index);
            link.is_some_and(|link| !link.up && link.name != *name)
        };
        let wrong: Vec<_> = self.0.iter().filter(is_wrong).collect();
        for (_, index) in &wrong {
            rename(*index, &format!("caisson{index}"))?;
        }
        for (name, index) in wrong {
            if name.is_empty() || name.len() > NAME_LIMIT {
                return Err(Error::Invalid(format!("no interface is named {name:?}")));
            }
            rename(*index, name)?;
        }
        Ok(())
    }

    fn neighbour(&self, neighbour: &api::Neighbour) -> Result<Neighbour> {
        Ok(Neighbour {
            link: self.index(&neighbour.interface)?,
            address: address(&neighbour.address)?,
            mac: mac(&neighbour.mac)?,
        })
    }

    fn route(&self, wanted: &api::Route) -> Result<Route> {
        route(wanted, self.index(&wanted.interface)?)
    }
}

fn raise(socket: &mut Socket, interface: &api::Interface, index: u32) -> Result<()> {
    let name = &interface.name;
    socket
        .set_up_bare(index, interface.mtu)
        .map_err(Error::system(format!("start {name}")))?;
    for address in &interface.addresses {
        let doing = || format!("give {name} the address {address}");
        socket
            .add_address(index, cidr(address)?)
            .map_err(Error::system(doing()))?;
    }
    Ok(())
}

fn route(wanted: &api::Route, link: u32) -> Result<Route> {
    let optional = |text: &str| -> Result<Option<IpAddr>> {
        (!text.is_empty()).then(|| address(text)).transpose()
    };
    let gateway = optional(&wanted.gateway)?;
    Ok(Route {
        link,
        destination: cidr(&wanted.destination)?,
        gateway,
        on_link: wanted.on_link,
        source: optional(&wanted.source)?,
        metric: wanted.metric,
        scope: match gateway {
            Some(_) => libc::RT_SCOPE_UNIVERSE,
            None => libc::RT_SCOPE_LINK,
        },
        protocol: libc::RTPROT_BOOT,
    })
}

fn cidr(text: &str) -> Result<Cidr> {
    text.parse().map_err(Error::Invalid)
}

/// Reads an address.
pub fn address(text: &str) -> Result<IpAddr> {
    text.parse()
        .map_err(|_| Error::Invalid(format!("{text:?} is no address")))
}

fn mac(bytes: &[u8]) -> Result<Mac> {
    bytes
        .try_into()
        .map_err(|_| Error::Invalid(format!("{bytes:02x?} is no hardware address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let wanted = api::Route {
            destination: "::/0".to_owned(),
            gateway: "fe80::1".to_owned(),
            metric: 7,
            ..Default::default()
        };
        let found = route(&wanted, 2).expect("a route");
        assert_eq!(found.gateway, Some("fe80::1".parse().expect("an address")));
        assert_eq!(
            (found.link, found.metric, found.scope),
            (2, 7, libc::RT_SCOPE_UNIVERSE)
        );
        let on_link = api::Route {
            destination: "10.1.0.0/16".to_owned(),
            ..Default::default()
        };
        let found = route(&on_link, 2).expect("a route");
        assert_eq!((found.gateway, found.scope), (None, libc::RT_SCOPE_LINK));
        let hostile = api::Route {
            destination: "everywhere".to_owned(),
            ..Default::default()
        };
        assert!(route(&hostile, 2).is_err());
    }

    #[test]
    fn interfaces_are_found_by_hardware_address() {
        let link = |index, mac: Mac| Link {
            index,
            name: format!("eth{index}"),
            mac: Some(mac),
            mtu: 1500,
            kind: String::new(),
            loopback: index == 1,
            up: false,
            counters: Default::default(),
        };
        let links = [
            link(1, [0; 6]),
            link(2, [2; 6]),
            link(3, [3; 6]),
            link(4, [3; 6]),
        ];
        let wanted = |mac: &[u8]| api::Interface {
            mac: mac.to_vec(),
            ..Default::default()
        };
        assert_eq!(find(&links, &wanted(&[2; 6])).expect("found").index, 2);
        for bad in [&[0; 6][..], &[3; 6], &[4; 6], &[2; 5]] {
            assert!(find(&links, &wanted(bad)).is_err(), "{bad:?}");
        }
    }
}
