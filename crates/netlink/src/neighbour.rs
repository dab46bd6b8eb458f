//! Neighbours: who has which hardware address.

use std::io;
use std::net::IpAddr;

use crate::cidr::{family, from_octets, octets};
use crate::message::{Message, Reply};
use crate::{Mac, Socket};

/// Bytes of `struct ndmsg`.
const BODY: usize = 12;

/// An entry that was made by hand, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Number of the device.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

impl Neighbour {
    fn read(reply: &Reply) -> Option<Self> {
        let state = u16::from_ne_bytes(reply.body(8..10)?.try_into().ok()?);
        if state & libc::NUD_PERMANENT == 0 {
            return None;
        }
        let link = reply.number(4)?;
        let (mut address, mut mac) = (None, None);
        for (kind, value) in reply.attributes(BODY) {
            match kind {
                libc::NDA_DST => address = from_octets(value),
                libc::NDA_LLADDR => mac = value.try_into().ok(),
                _ => {}
            }
        }
        Some(Self {
            link,
            address: address?,
            mac: mac?,
        })
    }
}

impl Socket {
    /// Permanent entries of the namespace.
    pub fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let message = Message::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &[0; BODY]);
        let replies = self.dump(message)?;
        Ok(replies.iter().filter_map(Neighbour::read).collect())
    }

    /// Adds a permanent entry.
    pub fn add_neighbour(&mut self, neighbour: &Neighbour) -> io::Result<()> {
        let mut body = [0; BODY];
        body[0] = family(neighbour.address);
        body[4..8].copy_from_slice(&neighbour.link.to_ne_bytes());
        body[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.request(
            Message::new(libc::RTM_NEWNEIGH, flags, &body)
                .attribute(libc::NDA_DST, &octets(neighbour.address))
                .attribute(libc::NDA_LLADDR, &neighbour.mac),
        )
    }
    /// Removes an entry. One that is not there is no error.
    pub fn remove_neighbour(&mut self, neighbour: &Neighbour) -> io::Result<()> {
        let mut body = [0; BODY];
        body[0] = family(neighbour.address);
        body[4..8].copy_from_slice(&neighbour.link.to_ne_bytes());
        self.remove(
            Message::new(libc::RTM_DELNEIGH, libc::NLM_F_ACK, &body)
                .attribute(libc::NDA_DST, &octets(neighbour.address)),
        )
    }
}
