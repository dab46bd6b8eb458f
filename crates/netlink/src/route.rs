//! Routes.

use std::io;
use std::net::IpAddr;

use crate::Socket;
use crate::address::number;
use crate::cidr::{Cidr, family, from_octets, octets};
use crate::message::{Message, Reply};

/// Bytes of `struct rtmsg`.
const BODY: usize = 12;

/// `RTNH_F_ONLINK` of `linux/rtnetlink.h`.
const ON_LINK: u32 = 4;

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Number of the device that it leads out of.
    pub link: u32,
    /// Where it leads.
    pub destination: Cidr,
    /// The next hop; none if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The next hop is on the link, whatever the other routes say.
    pub on_link: bool,
    /// Address to send from.
    pub source: Option<IpAddr>,
    /// Lower is better; 0 is the family's default.
    pub metric: u32,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// Who made it: `RTPROT_*`.
    pub protocol: u8,
}

impl Route {
    fn read(reply: &Reply) -> Option<Self> {
        let ipv6 = i32::from(reply.byte(0)?) == libc::AF_INET6;
        let (table, protocol) = (reply.byte(4)?, reply.byte(5)?);
        let (scope, kind) = (reply.byte(6)?, reply.byte(7)?);
        if table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
            return None;
        }
        let mut route = Self {
            link: 0,
            destination: Cidr::everything(ipv6),
            gateway: None,
            on_link: reply.number(8)? & ON_LINK != 0,
            source: None,
            metric: 0,
            scope,
            protocol,
        };
        route.destination.prefix = reply.byte(1)?;
        for (kind, value) in reply.attributes(BODY) {
            match kind {
                libc::RTA_DST => route.destination.address = from_octets(value)?,
                libc::RTA_GATEWAY => route.gateway = from_octets(value),
                libc::RTA_PREFSRC => route.source = from_octets(value),
                libc::RTA_OIF => route.link = number(value),
                libc::RTA_PRIORITY => route.metric = number(value),
                _ => {}
            }
        }
        // Several next hops (RTA_MULTIPATH) have no device here.
        (route.link != 0).then_some(route)
    }

    fn message(&self, kind: u16, flags: i32) -> Message {
        let mut body = [0; BODY];
        body[0] = family(self.destination.address);
        body[1] = self.destination.prefix;
        body[4] = libc::RT_TABLE_MAIN;
        body[5] = self.protocol;
        body[6] = self.scope;
        body[7] = libc::RTN_UNICAST;
        if self.on_link {
            body[8..12].copy_from_slice(&ON_LINK.to_ne_bytes());
        }
        let mut message = Message::new(kind, flags, &body).number(libc::RTA_OIF, self.link);
        if self.destination.prefix > 0 {
            message = message.attribute(libc::RTA_DST, &self.destination.octets());
        }
        if let Some(gateway) = self.gateway {
            message = message.attribute(libc::RTA_GATEWAY, &octets(gateway));
        }
        if let Some(source) = self.source {
            message = message.attribute(libc::RTA_PREFSRC, &octets(source));
        }
        if self.metric > 0 {
            message = message.number(libc::RTA_PRIORITY, self.metric);
        }
        message
    }
}

impl Socket {
    /// Unicast routes of the main tables of both families.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let message = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &[0; BODY]);
        let replies = self.dump(message)?;
        Ok(replies.iter().filter_map(Route::read).collect())
    }

    /// Adds a route. One that is there already is right.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.request(route.message(libc::RTM_NEWROUTE, flags))
    }

    /// Removes a route. One that is not there is no error.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        self.remove(route.message(libc::RTM_DELROUTE, libc::NLM_F_ACK))
    }
}
