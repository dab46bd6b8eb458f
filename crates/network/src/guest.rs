//! What a guest is told of its networks.

use std::net::{IpAddr, Ipv6Addr};

use caisson_netlink::{Cidr, Mac};

/// The guest's network, as its agent sets it up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// Interfaces besides the loopback.
    pub interfaces: Vec<Interface>,
    /// Routes that do not come with an address.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

/// An interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, by which the guest finds it.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
}

/// A route of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Name of the interface.
    pub interface: String,
    /// Where it leads.
    pub destination: Cidr,
    /// The next hop; none if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The next hop is on the link, whatever the other routes say.
    pub on_link: bool,
    /// Address to send from.
    pub source: Option<IpAddr>,
    /// Lower is better; 0 is the default.
    pub metric: u32,
}

/// A permanent neighbour of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Name of the interface.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// The address that a kernel makes out of a hardware address (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        ((a ^ 2) << 8) | b,
        (c << 8) | 0xff,
        0xfe00 | d,
        (e << 8) | f,
    )
}
