//! Which of a guest's frames need the user-mode stack.
//!
//! An interface that comes up is never quiet: the guest asks for routers, joins groups and
//! announces itself. The stack answers none of it, and need not run for it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::filter::{ARP, ETHERNET, Filter, ICMPV6, IPV6};

/// Whether the stack may have an answer to what the filter allows, or anybody behind it.
pub(crate) fn needs_stack(frame: &[u8], filter: &Filter) -> bool {
    filter.allows(frame) && may_be_answered(frame, filter).unwrap_or(true)
}

/// `None` is a frame that ends too early.
fn may_be_answered(frame: &[u8], filter: &Filter) -> Option<bool> {
    let packet = frame.get(ETHERNET..)?;
    match <[u8; 2]>::try_from(frame.get(12..14)?).ok()? {
        ARP => asks_for_another(packet, filter),
        IPV6 if *packet.get(6)? == ICMPV6 => {
            let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let destination = Ipv6Addr::from(destination);
            if destination.is_multicast() || destination.is_unicast_link_local() {
                is_answered_on_link(packet.get(40..)?, filter)
            } else {
                Some(true)
            }
        }
        // The filter lets packets to single hosts through only.
        _ => Some(true),
    }
}

/// RFC 826: neither an answer, nor an announcement, nor a question whether the guest's own
/// address is taken.
fn asks_for_another(packet: &[u8], filter: &Filter) -> Option<bool> {
    const REQUEST: [u8; 2] = [0, 1];
    let wanted: [u8; 4] = packet.get(24..28)?.try_into().ok()?;
    Some(packet.get(6..8)? == REQUEST && Ipv4Addr::from(wanted) != filter.ipv4)
}

/// RFC 4443, RFC 4861. The stack is started without router advertisements, and knows of no groups
/// of hosts (RFC 2710, RFC 3810).
fn is_answered_on_link(message: &[u8], filter: &Filter) -> Option<bool> {
    const ECHO_REQUEST: u8 = 128;
    const SOLICITATION: u8 = 135;
    match *message.first()? {
        ECHO_REQUEST => Some(true),
        SOLICITATION => {
            let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
            let target = Ipv6Addr::from(target);
            let own = filter.ipv6.map(|ours| [ours.global, ours.link_local]);
            Some(!own.is_some_and(|own| own.contains(&target)))
        }
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::IPV4;
    use crate::filter::tests::{MAC, filter};

    const US: [u8; 4] = [10, 0, 2, 15];
    const GATEWAY: [u8; 4] = [10, 0, 2, 2];

    fn needs(frame: &[u8]) -> bool {
        needs_stack(frame, &filter())
    }

    fn frame(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6], &MAC[..], &kind, payload].concat()
    }

    fn arp(operation: u8, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        frame(ARP, &[&head[..], &MAC, &from, &[0; 6], &to].concat())
    }

    fn ipv6(from: &str, to: &str, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let octets = |text: &str| text.parse::<Ipv6Addr>().expect(text).octets();
        let head = [0x60, 0, 0, 0, 0, 0, protocol, 255];
        frame(
            IPV6,
            &[&head[..], &octets(from), &octets(to), segment].concat(),
        )
    }

    fn solicitation(target: &str) -> Vec<u8> {
        let target = target.parse::<Ipv6Addr>().expect(target).octets();
        [&[135, 0, 0, 0, 0, 0, 0, 0], &target[..]].concat()
    }

    #[test]
    fn questions_need_it() {
        assert!(needs(&arp(1, US, GATEWAY)));
        assert!(needs(&arp(1, US, [10, 0, 2, 3])));
        for to in ["ff02::1:ff00:1", "fe80::1"] {
            let question = solicitation("fe80::1");
            assert!(needs(&ipv6("fe80::9", to, ICMPV6, &question)), "{to}");
            assert!(needs(&ipv6("fd00::15", to, ICMPV6, &question)), "{to}");
        }
        let echo = [128, 0, 0, 0, 0, 1, 0, 1];
        for to in ["ff02::1", "fe80::1", "2001:db8::1"] {
            assert!(needs(&ipv6("fe80::9", to, ICMPV6, &echo)), "{to}");
        }
    }

    #[test]
    fn packets_to_others_need_it() {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend_from_slice(&US);
        packet.extend_from_slice(&[1, 1, 1, 1]);
        packet.extend_from_slice(&[0, 9, 0, 53, 0, 8, 0, 0]);
        assert!(needs(&frame(IPV4, &packet)));
        packet[16] = 127;
        assert!(!needs(&frame(IPV4, &packet)), "what is not allowed");
        packet[16] = 224;
        assert!(!needs(&frame(IPV4, &packet)), "a group (IGMP, mDNS)");
        let datagram = [0, 9, 0, 53, 0, 8, 0, 0];
        assert!(needs(&ipv6("fd00::15", "2001:db8::1", 17, &datagram)));
        assert!(!needs(&ipv6("fd00::15", "ff02::fb", 17, &datagram)));
    }

    #[test]
    fn an_interface_that_comes_up_does_not_need_it() {
        assert!(!needs(&arp(1, US, US)), "an announcement");
        assert!(!needs(&arp(1, [0; 4], US)), "is it taken?");
        assert!(!needs(&arp(2, US, GATEWAY)), "an answer");
        for own in ["fe80::9", "fd00::15"] {
            let taken = solicitation(own);
            assert!(!needs(&ipv6("::", "ff02::1:ff00:9", ICMPV6, &taken)));
            assert!(!needs(&ipv6("fe80::9", "ff02::1:ff00:9", ICMPV6, &taken)));
            let mut announced = taken.clone();
            announced[0] = 136;
            assert!(!needs(&ipv6(own, "ff02::1", ICMPV6, &announced)));
        }
        let solicitation = [133, 0, 0, 0, 0, 0, 0, 0];
        assert!(!needs(&ipv6("fe80::9", "ff02::2", ICMPV6, &solicitation)));
        // Listeners report behind an extension header, or without one.
        for message in [131, 132, 143] {
            let report = [message, 0, 0, 0, 0, 0, 0, 0];
            assert!(!needs(&ipv6("fe80::9", "ff02::16", ICMPV6, &report)));
            let behind = [&[ICMPV6, 0, 5, 2, 0, 0, 1, 0], &report[..]].concat();
            assert!(!needs(&ipv6("fe80::9", "ff02::16", 0, &behind)));
        }
    }
}
