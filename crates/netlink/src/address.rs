//! Addresses of devices.

use std::io;

use crate::Socket;
use crate::cidr::{Cidr, family, from_octets};
use crate::message::{Message, Reply, u32_at};

/// Bytes of `struct ifaddrmsg`.
const BODY: usize = 8;

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Number of the device.
    pub link: u32,
    /// The address and the length of its network's prefix.
    pub cidr: Cidr,
    /// Where it is known: `RT_SCOPE_*`.
    pub scope: u8,
}

impl Address {
    fn read(reply: &Reply) -> Option<Self> {
        let prefix = reply.byte(1)?;
        let scope = reply.byte(3)?;
        let link = reply.number(4)?;
        let mut address = None;
        for (kind, value) in reply.attributes(BODY) {
            match kind {
                // On a point-to-point link, IFA_ADDRESS is the other end.
                libc::IFA_LOCAL => address = from_octets(value),
                libc::IFA_ADDRESS if address.is_none() => address = from_octets(value),
                _ => {}
            }
        }
        let address = address?;
        Some(Self {
            link,
            cidr: Cidr { address, prefix },
            scope,
        })
    }
}

impl Socket {
    /// Every address of the namespace.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let message = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; BODY]);
        let replies = self.dump(message)?;
        Ok(replies.iter().filter_map(Address::read).collect())
    }

    /// Gives a device an address. It is used at once: whoever gives it knows that it
    /// is unique (no duplicate address detection). One that is there already is right.
    pub fn add_address(&mut self, link: u32, cidr: Cidr) -> io::Result<()> {
        let mut body = [0; BODY];
        body[0] = family(cidr.address);
        body[1] = cidr.prefix;
        body[4..8].copy_from_slice(&link.to_ne_bytes());
        let octets = cidr.octets();
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = Message::new(libc::RTM_NEWADDR, flags, &body)
            .attribute(libc::IFA_LOCAL, &octets)
            .attribute(libc::IFA_ADDRESS, &octets)
            .number(libc::IFA_FLAGS, libc::IFA_F_NODAD);
        if let (std::net::IpAddr::V4(address), prefix @ ..31) = (cidr.address, cidr.prefix) {
            let broadcast = address.to_bits() | (u32::MAX >> prefix);
            message = message.attribute(libc::IFA_BROADCAST, &broadcast.to_be_bytes());
        }
        self.request(message)
    }

    /// Takes an address from a device. One that is not there is no error.
    pub fn remove_address(&mut self, link: u32, cidr: Cidr) -> io::Result<()> {
        let mut body = [0; BODY];
        body[0] = family(cidr.address);
        body[1] = cidr.prefix;
        body[4..8].copy_from_slice(&link.to_ne_bytes());
        let octets = cidr.octets();
        self.remove(
            Message::new(libc::RTM_DELADDR, libc::NLM_F_ACK, &body)
                .attribute(libc::IFA_LOCAL, &octets)
                .attribute(libc::IFA_ADDRESS, &octets),
        )
    }
}

/// Number at the beginning of an attribute; 0 if it is cut.
pub(crate) fn number(value: &[u8]) -> u32 {
    u32_at(value, 0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_its_address() {
        let addresses = Socket::open().and_then(|mut socket| socket.addresses());
        let found = addresses
            .expect("addresses")
            .into_iter()
            .find(|address| address.cidr == "127.0.0.1/8".parse().expect("an address"));
        assert_eq!(found.expect("127.0.0.1/8").scope, libc::RT_SCOPE_HOST);
    }
}
