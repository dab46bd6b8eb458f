//! Network devices.

use std::io;

use crate::message::{Attributes, Message, Reply, text, u32_at};
use crate::{Mac, Socket};

/// Bytes of `struct ifinfomsg`.
const BODY: usize = 16;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; none if it has none of Ethernet's length.
    pub mac: Option<Mac>,
    /// Largest packet.
    pub mtu: u32,
    /// `veth`, `macvlan`, `tun`...; empty for hardware and the loopback.
    pub kind: String,
    /// It is the loopback.
    pub loopback: bool,
    /// It is up.
    pub up: bool,
    /// Bytes and packets received and sent since it exists.
    pub counters: Counters,
}

/// What went through a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets that were damaged on arrival.
    pub received_errors: u64,
    /// Packets that there was no room for.
    pub received_dropped: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that could not be sent.
    pub sent_errors: u64,
    /// Packets that there was no room for.
    pub sent_dropped: u64,
}

impl Link {
    fn read(reply: &Reply) -> Option<Self> {
        let flags = reply.number(8)?.cast_signed();
        let mut link = Self {
            index: reply.number(4)?,
            name: String::new(),
            mac: None,
            mtu: 0,
            kind: String::new(),
            loopback: flags & libc::IFF_LOOPBACK != 0,
            up: flags & libc::IFF_UP != 0,
            counters: Counters::default(),
        };
        for (kind, value) in reply.attributes(BODY) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                libc::IFLA_STATS64 => link.counters = Counters::read(value)?,
                libc::IFLA_LINKINFO => {
                    link.kind = Attributes(value)
                        .find(|(kind, _)| *kind == libc::IFLA_INFO_KIND)
                        .map(|(_, name)| text(name))
                        .unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

impl Counters {
    /// The first eight of `struct rtnl_link_stats64`.
    fn read(bytes: &[u8]) -> Option<Self> {
        let at = |index: usize| -> Option<u64> {
            let bytes = bytes.get(8 * index..8 * index + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        Some(Self {
            received_packets: at(0)?,
            sent_packets: at(1)?,
            received_bytes: at(2)?,
            sent_bytes: at(3)?,
            received_errors: at(4)?,
            sent_errors: at(5)?,
            received_dropped: at(6)?,
            sent_dropped: at(7)?,
        })
    }
}

/// `struct ifinfomsg` with the device's number, its flags, and which of them to change.
fn body(index: u32, flags: i32, change: i32) -> [u8; BODY] {
    let mut body = [0; BODY];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

impl Socket {
    /// Every device of the namespace.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &body(0, 0, 0));
        let replies = self.dump(message)?;
        Ok(replies.iter().filter_map(Link::read).collect())
    }

    /// Gives a device another name. It must be down.
    pub fn rename(&mut self, index: u32, name: &str) -> io::Result<()> {
        self.change(index, |message| message.text(libc::IFLA_IFNAME, name))
    }

    /// Stops a device; its routes and neighbours go.
    pub fn set_down(&mut self, index: u32) -> io::Result<()> {
        let body = body(index, 0, libc::IFF_UP);
        self.request(Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body))
    }

    /// Gives a device another hardware address.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        self.change(index, |message| message.attribute(libc::IFLA_ADDRESS, &mac))
    }

    /// Starts a device.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let body = body(index, libc::IFF_UP, libc::IFF_UP);
        self.request(Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body))
    }

    /// Starts a device that has no addresses but those that it will be given: no
    /// link-local one is made up. An `mtu` of 0 leaves it as it is.
    pub fn set_up_bare(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        let body = body(index, libc::IFF_UP, libc::IFF_UP);
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body).nested(
            libc::IFLA_AF_SPEC,
            |families| {
                families.nested(libc::AF_INET6 as u16, |ipv6| {
                    ipv6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
                })
            },
        );
        if mtu > 0 {
            message = message.number(libc::IFLA_MTU, mtu);
        }
        self.request(message)
    }

    fn change(&mut self, index: u32, fill: impl FnOnce(Message) -> Message) -> io::Result<()> {
        let body = body(index, 0, 0);
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body);
        self.request(fill(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found() {
        let links = Socket::open().and_then(|mut socket| socket.links());
        let links = links.expect("links");
        let loopback = links.iter().find(|link| link.loopback).expect("a loopback");
        assert_eq!((loopback.name.as_str(), loopback.kind.as_str()), ("lo", ""));
        assert_eq!(loopback.mac, Some([0; 6]));
        assert!(loopback.mtu > 0);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut socket = Socket::open().expect("a socket");
        let error = socket.set_up(u32::MAX >> 1).expect_err("no such device");
        assert!(matches!(
            error.raw_os_error(),
            Some(libc::ENODEV | libc::EPERM)
        ));
        // The socket is as good as before.
        assert!(!socket.links().expect("links").is_empty());
    }
}
