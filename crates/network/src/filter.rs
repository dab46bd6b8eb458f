//! What a guest may send to the user-mode stack.
//!
//! The stack turns whatever destination it reads in a packet into a socket's address
//! on the host, also 127.0.0.1. It believes the addresses that packets come from, and
//! it takes a fragment for a whole. A hostile guest sends all of these, so that each
//! frame is looked at before the stack gets it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use caisson_netlink::Mac;

use crate::Egress;

pub(crate) const ETHERNET: usize = 14;
pub(crate) const ARP: [u8; 2] = [0x08, 0x06];
pub(crate) const IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// Neighbour discovery (RFC 4861).
const ROUTER_ADVERTISEMENT: u8 = 134;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Rules for the frames of one guest.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) mac: Mac,
    pub(crate) ipv4: Ipv4Addr,
    /// The stack's IPv6 addresses, if it has any.
    pub(crate) ipv6: Option<Ipv6>,
    pub(crate) egress: Egress,
    /// Ports of the container from which datagrams are answered.
    pub(crate) udp_ports: BTreeSet<u16>,
}

/// IPv6 addresses of a guest and of its gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ipv6 {
    pub(crate) global: Ipv6Addr,
    pub(crate) link_local: Ipv6Addr,
    pub(crate) gateway: Ipv6Addr,
}

impl Filter {
    /// Whether the guest may send this frame.
    pub(crate) fn allows(&self, frame: &[u8]) -> bool {
        self.judge(frame).unwrap_or(false)
    }

    /// `None` is a frame that ends too early.
    fn judge(&self, frame: &[u8]) -> Option<bool> {
        if frame.get(6..12)? != self.mac {
            return Some(false);
        }
        let payload = frame.get(ETHERNET..)?;
        match <[u8; 2]>::try_from(frame.get(12..14)?).ok()? {
            ARP => self.arp(payload),
            IPV4 => self.ipv4(payload),
            IPV6 => self.ipv6(payload),
            _ => Some(false),
        }
    }

    /// RFC 826: the sender's addresses must be the guest's own.
    fn arp(&self, packet: &[u8]) -> Option<bool> {
        let sender: [u8; 4] = packet.get(14..18)?.try_into().ok()?;
        let sender = Ipv4Addr::from(sender);
        Some(packet.get(8..14)? == self.mac && (sender == self.ipv4 || sender.is_unspecified()))
    }

    /// RFC 791.
    fn ipv4(&self, packet: &[u8]) -> Option<bool> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
        let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        let destination = Ipv4Addr::from(destination);
        let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?);
        /// All but "do not fragment".
        const FRAGMENTED: u16 = 0x3fff;
        if Ipv4Addr::from(source) != self.ipv4
            || fragment & FRAGMENTED != 0
            || header < 20
            || !reachable_ipv4(destination)
        {
            return Some(false);
        }
        let protocol = *packet.get(9)?;
        if protocol != ICMP && protocol != TCP && protocol != UDP {
            return Some(false);
        }
        self.transport(destination.into(), protocol, packet.get(header..)?)
    }

    /// RFC 8200. Extension headers are for nothing that the stack knows.
    fn ipv6(&self, packet: &[u8]) -> Option<bool> {
        let ours = self.ipv6?;
        let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
        let source = Ipv6Addr::from(source);
        let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
        let destination = Ipv6Addr::from(destination);
        if source != ours.global && source != ours.link_local {
            return Some(false);
        }
        let segment = packet.get(40..)?;
        match *packet.get(6)? {
            ICMPV6 if destination.is_multicast() || destination.is_unicast_link_local() => {
                self.discovery(ours, segment)
            }
            // It stands for the host's own addresses, which connect but are not connected to.
            protocol if destination == ours.gateway => self.answers(protocol, segment),
            protocol @ (TCP | UDP | ICMPV6) if reachable_ipv6(destination) => {
                self.transport(destination.into(), protocol, segment)
            }
            _ => Some(false),
        }
    }

    /// RFC 4861: a guest is no router, and advertises itself only.
    fn discovery(&self, ours: Ipv6, message: &[u8]) -> Option<bool> {
        match *message.first()? {
            ROUTER_ADVERTISEMENT | REDIRECT => Some(false),
            ADVERTISEMENT => {
                let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
                let target = Ipv6Addr::from(target);
                Some(target == ours.global || target == ours.link_local)
            }
            _ => Some(true),
        }
    }

    /// Whether this belongs to what somebody else has begun, as far as can be seen.
    fn answers(&self, protocol: u8, segment: &[u8]) -> Option<bool> {
        match protocol {
            TCP => {
                const SYN: u8 = 0x02;
                const ACK: u8 = 0x10;
                Some(segment.get(13)? & (SYN | ACK) != SYN)
            }
            UDP => Some(self.udp_ports.contains(&port(segment, 0)?)),
            _ => Some(false),
        }
    }

    fn transport(&self, to: IpAddr, protocol: u8, segment: &[u8]) -> Option<bool> {
        if self.answers(protocol, segment)? {
            return Some(true);
        }
        let port = match protocol {
            TCP | UDP => Some(port(segment, 2)?),
            _ => None,
        };
        Some(self.egress.permits(to, port))
    }

    /// Frames by which the stack learns where its guest is, as if the guest had sent
    /// them: otherwise nobody could connect to a guest that has not sent anything.
    pub(crate) fn introductions(&self) -> Vec<Vec<u8>> {
        /// "Use for experimentation and testing" (RFC 3692): the stack takes note of
        /// the addresses and drops the packet.
        const NOTHING: u8 = 253;
        /// The same of ICMPv6 (RFC 4443): over IPv6, the stack takes 253 for a header before
        /// another one, finds none, and drops the packet before it takes note of anything.
        const EXPERIMENT: u8 = 200;
        let ethernet = |kind: [u8; 2]| {
            let mut frame = vec![0xff; 6];
            frame.extend_from_slice(&self.mac);
            frame.extend_from_slice(&kind);
            frame
        };
        let mut ipv4 = ethernet(IPV4);
        ipv4.extend_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 1, NOTHING, 0, 0]);
        ipv4.extend_from_slice(&self.ipv4.octets());
        ipv4.extend_from_slice(&self.ipv4.octets());
        ipv4.extend_from_slice(&[0; 8]);
        let mut frames = vec![ipv4];
        if let Some(ours) = self.ipv6 {
            for address in [ours.global, ours.link_local] {
                let mut ipv6 = ethernet(IPV6);
                ipv6.extend_from_slice(&[0x60, 0, 0, 0, 0, 8, ICMPV6, 1]);
                ipv6.extend_from_slice(&address.octets());
                ipv6.extend_from_slice(&address.octets());
                ipv6.extend_from_slice(&[EXPERIMENT, 0, 0, 0, 0, 0, 0, 0]);
                frames.push(ipv6);
            }
        }
        frames
    }
}

/// A port of TCP or UDP: the source's at 0, the destination's at 2.
fn port(segment: &[u8], at: usize) -> Option<u16> {
    let bytes = segment.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Not the host's own loopback, which 0.0.0.0 is too, and no group of hosts.
fn reachable_ipv4(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && !address.is_loopback() && first < 224
}

/// Neither the loopback, nor a disguise of an IPv4 address, nor the host's links.
fn reachable_ipv6(address: Ipv6Addr) -> bool {
    // ::/32 has ::, ::1, ::a.b.c.d and ::ffff:a.b.c.d.
    let disguised = address.segments()[..2] == [0, 0];
    !disguised && !address.is_multicast() && !address.is_unicast_link_local()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Rule;

    pub(crate) const MAC: Mac = [2, 0, 0, 0, 0, 9];

    pub(crate) fn filter() -> Filter {
        Filter {
            mac: MAC,
            ipv4: Ipv4Addr::new(10, 0, 2, 15),
            ipv6: Some(Ipv6 {
                global: "fd00::15".parse().expect("an address"),
                link_local: "fe80::9".parse().expect("an address"),
                gateway: "fe80::1".parse().expect("an address"),
            }),
            egress: Egress::default(),
            udp_ports: BTreeSet::new(),
        }
    }

    fn frame(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&[0; 6], &MAC[..], &kind, payload].concat()
    }

    fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, segment: &[u8]) -> Vec<u8> {
        let head = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
        frame(IPV4, &[&head[..], &from, &to, segment].concat())
    }

    fn ipv6(from: &str, to: &str, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let octets = |text: &str| text.parse::<Ipv6Addr>().expect(text).octets();
        let head = [0x60, 0, 0, 0, 0, 0, protocol, 64];
        frame(
            IPV6,
            &[&head[..], &octets(from), &octets(to), segment].concat(),
        )
    }

    fn tcp(port: u16, flags: u8) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[2..4].copy_from_slice(&port.to_be_bytes());
        segment[13] = flags;
        segment
    }

    const US: [u8; 4] = [10, 0, 2, 15];

    #[test]
    fn the_loopback_of_the_host_is_out_of_reach() {
        let filter = filter();
        for to in [
            [127, 0, 0, 1],
            [127, 9, 9, 9],
            [0, 0, 0, 0],
            [0, 0, 0, 1],
            [224, 0, 0, 1],
            [255; 4],
        ] {
            for protocol in [ICMP, TCP, UDP] {
                assert!(
                    !filter.allows(&ipv4(US, to, protocol, &tcp(80, 2))),
                    "{to:?}"
                );
            }
        }
        for to in [
            "::1",
            "::",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "ff02::1",
            "fe80::2",
        ] {
            for protocol in [TCP, UDP] {
                let frame = ipv6("fd00::15", to, protocol, &tcp(80, 2));
                assert!(!filter.allows(&frame), "{to}");
            }
        }
        assert!(!filter.allows(&ipv6("fd00::15", "::1", ICMPV6, &[128; 8])));
        assert!(filter.allows(&ipv4(US, [192, 0, 2, 2], TCP, &tcp(80, 2))));
        assert!(filter.allows(&ipv6("fd00::15", "2001:db8::1", TCP, &tcp(80, 2))));
        assert!(filter.allows(&ipv6("fe80::9", "fe80::1", TCP, &tcp(80, 0x12))));
        assert!(!filter.allows(&ipv6("fe80::9", "fe80::1", TCP, &tcp(80, 2))));
    }

    #[test]
    fn a_guest_speaks_for_itself_only() {
        let filter = filter();
        let mut foreign = ipv4(US, [1, 1, 1, 1], TCP, &tcp(80, 2));
        assert!(filter.allows(&foreign));
        foreign[11] = 8;
        assert!(!filter.allows(&foreign), "another hardware address");
        assert!(!filter.allows(&ipv4([10, 0, 2, 16], [1, 1, 1, 1], TCP, &tcp(80, 2))));
        assert!(!filter.allows(&ipv6("fd00::16", "2001:db8::1", TCP, &tcp(80, 2))));
        assert!(!filter.allows(&ipv6("::", "ff02::1", ICMPV6, &[0; 8])));
        let arp = |mac: Mac, address: [u8; 4]| {
            let packet = [&[0, 1, 8, 0, 6, 4, 0, 1], &mac[..], &address, &[0; 10]].concat();
            frame(ARP, &packet)
        };
        assert!(filter.allows(&arp(MAC, US)));
        assert!(!filter.allows(&arp(MAC, [10, 0, 2, 2])));
        assert!(!filter.allows(&arp([2, 0, 0, 0, 0, 8], US)));
    }

    #[test]
    fn neighbour_discovery_is_about_the_guest() {
        let filter = filter();
        let message = |kind: u8, target: &str| {
            let target = target.parse::<Ipv6Addr>().expect(target).octets();
            let message = [&[kind, 0, 0, 0, 0, 0, 0, 0], &target[..]].concat();
            ipv6("fe80::9", "ff02::1", ICMPV6, &message)
        };
        assert!(filter.allows(&message(135, "fe80::1")), "a question");
        assert!(filter.allows(&message(136, "fe80::9")));
        assert!(filter.allows(&message(136, "fd00::15")));
        assert!(!filter.allows(&message(136, "fe80::1")), "the gateway");
        assert!(!filter.allows(&message(134, "fe80::9")), "a router");
        assert!(!filter.allows(&message(137, "fe80::9")), "a redirect");
        let cut = message(136, "fe80::9");
        assert!(!filter.allows(&cut[..cut.len() - 1]), "cut short");
    }

    #[test]
    fn fragments_and_strangers_are_dropped() {
        let filter = filter();
        let mut fragment = ipv4(US, [1, 1, 1, 1], UDP, &[0; 8]);
        assert!(filter.allows(&fragment));
        fragment[ETHERNET + 6] = 0x20;
        assert!(!filter.allows(&fragment), "more fragments");
        fragment[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&[0, 1]);
        assert!(!filter.allows(&fragment), "not the first fragment");
        assert!(!filter.allows(&ipv4(US, [1, 1, 1, 1], 47, &[0; 8])), "GRE");
        assert!(!filter.allows(&frame([0x81, 0x00], &[0; 64])), "VLAN");
    }

    #[test]
    fn rules_are_for_beginnings() {
        let mut filter = filter();
        filter.egress.allowed = Some(vec![Rule {
            network: "1.1.1.1/32".parse().expect("a network"),
            ports: Some(443..=443),
        }]);
        let to = |address, port, flags| ipv4(US, address, TCP, &tcp(port, flags));
        assert!(filter.allows(&to([1, 1, 1, 1], 443, 2)));
        assert!(!filter.allows(&to([1, 1, 1, 1], 80, 2)));
        assert!(!filter.allows(&to([1, 1, 1, 2], 443, 2)));
        assert!(filter.allows(&to([9, 9, 9, 9], 5000, 0x12)), "an answer");
        let datagram = ipv4(US, [9, 9, 9, 9], UDP, &[0, 53, 0, 99, 0, 8, 0, 0]);
        assert!(!filter.allows(&datagram));
        filter.udp_ports.insert(53);
        assert!(filter.allows(&datagram), "an answer from a published port");
    }

    proptest! {
        #[test]
        fn no_frame_leads_to_the_loopback(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), kind in 0..4) {
            // Random bytes hardly ever get past the hardware address.
            if bytes.len() > 40 {
                bytes[6..12].copy_from_slice(&MAC);
                match kind {
                    0 => bytes[12..14].copy_from_slice(&IPV6),
                    1 => bytes[12..14].copy_from_slice(&ARP),
                    2 => {
                        bytes[12..14].copy_from_slice(&IPV4);
                        bytes[26..30].copy_from_slice(&US);
                        bytes[30] = 127;
                    }
                    _ => {}
                }
            }
            let allowed = filter().allows(&bytes);
            prop_assert!(kind != 2 || !allowed);
        }
    }
}
