//! What a guest may send when it must not pretend to be another.
//!
//! Its frames come from its own hardware address and carry IPv4, IPv6 or ARP of its own
//! addresses; whatever else there is under Ethernet (VLAN tags, bridges' own protocols) is
//! dropped. Of neighbour discovery (RFC 4861) it says only what is about itself: it is no
//! router, and advertises none but its own addresses. What hides such messages from a look
//! at fixed offsets, extension headers, is dropped too; in fragments they are void
//! (RFC 6980). `::` and 0.0.0.0 are for asking whether an own address is unique.
//!
//! Nothing leads to 127.0.0.0/8: portmap sets `route_localnet` for the bridge when a port is
//! published, and from then on the host's kernel takes such packets for its loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use caisson_netlink::{Instruction, Mac};

use crate::guest::link_local;
use crate::program::{Label, Program, Test};

/// Whether a guest may pretend to be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoofing {
    /// It may send whatever it likes; the network has its own rules.
    Allowed,
    /// It may send from its own addresses only. What it leaves to the host to be written into
    /// a frame later, a checksum, may still change its source where somebody writes it.
    Refused,
    /// As before, and it leaves nothing to the host: it computes checksums and cuts its data into
    /// packets itself, which takes longer.
    Strict,
}

const SOURCE: u32 = 6;
const KIND: u32 = 12;
const PAYLOAD: u32 = 14;

const ARP: Test = Test::half(KIND, 0x0806);
const IPV4: Test = Test::half(KIND, 0x0800);
const IPV6: Test = Test::half(KIND, 0x86dd);

/// RFC 826.
const ARP_OPERATION: u32 = PAYLOAD + 6;
const ARP_SENDER_MAC: u32 = PAYLOAD + 8;
const ARP_SENDER: u32 = PAYLOAD + 14;
const ARP_TARGET: u32 = PAYLOAD + 24;

/// RFC 791.
const IPV4_SOURCE: u32 = PAYLOAD + 12;
const IPV4_DESTINATION: u32 = PAYLOAD + 16;

/// First byte of the loopback's addresses.
const LOOPBACK: u8 = 127;

/// RFC 8200.
const IPV6_NEXT: u32 = PAYLOAD + 6;
const IPV6_SOURCE: u32 = PAYLOAD + 8;
const IPV6_PAYLOAD: u32 = PAYLOAD + 40;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const ICMPV6: u8 = 58;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// RFC 4861.
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const TARGET: u32 = IPV6_PAYLOAD + 8;

/// Reports and ends of memberships (RFC 2710, RFC 3810).
const MEMBERSHIP: [u8; 3] = [131, 132, 143];

/// The IP version that a packet says it has.
const fn version(number: u8) -> Test {
    Test::byte(PAYLOAD, number << 4).masked(0xf0)
}

/// A program that accepts the honest frames of a guest with these addresses.
pub(crate) fn program(mac: Mac, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Instruction> {
    let mut ipv4 = Vec::new();
    // The guest's kernel makes this one of its hardware address, whatever it is told.
    let mut ipv6 = vec![link_local(mac)];
    for address in addresses {
        match address {
            IpAddr::V4(address) => ipv4.push(address),
            IpAddr::V6(address) if !ipv6.contains(&address) => ipv6.push(address),
            IpAddr::V6(_) => {}
        }
    }
    let mut program = Program::default();
    let [own, accept, drop] = [(); 3].map(|()| program.label());
    let hardware = [vec![Test::untagged()], Test::bytes(SOURCE, &mac)].concat();
    program.when(&hardware, own);
    program.go(drop);
    program.mark(own);
    let [arp_begins, ipv4_begins, ipv6_begins] = [(); 3].map(|()| program.label());
    program.when(&[IPV4, version(4)], ipv4_begins);
    program.when(&[IPV6, version(6)], ipv6_begins);
    program.when(&[ARP], arp_begins);
    program.go(drop);
    program.mark(ipv4_begins);
    program.when(&[Test::byte(IPV4_DESTINATION, LOOPBACK)], drop);
    for address in &ipv4 {
        program.when(&Test::bytes(IPV4_SOURCE, &address.octets()), accept);
    }
    program.go(drop);
    program.mark(arp_begins);
    arp(&mut program, mac, &ipv4, accept);
    program.go(drop);
    program.mark(ipv6_begins);
    discovery(&mut program, &ipv6, accept, drop);
    program.mark(drop);
    program.verdict(false);
    program.mark(accept);
    program.verdict(true);
    program.finish()
}

fn arp(program: &mut Program, mac: Mac, ipv4: &[Ipv4Addr], accept: Label) {
    /// Ethernet and IPv4, with the lengths of their addresses.
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let head = [
        Test::bytes(PAYLOAD, &ETHERNET_IPV4),
        Test::bytes(ARP_SENDER_MAC, &mac),
    ]
    .concat();
    for address in ipv4 {
        let own = Test::bytes(ARP_SENDER, &address.octets());
        program.when(&[head.clone(), own].concat(), accept);
        // A probe (RFC 5227).
        let probe = vec![Test::half(ARP_OPERATION, 1), Test::word(ARP_SENDER, 0)];
        let own = Test::bytes(ARP_TARGET, &address.octets());
        program.when(&[head.clone(), probe, own].concat(), accept);
    }
}

fn discovery(program: &mut Program, ipv6: &[Ipv6Addr], accept: Label, drop: Label) {
    let [own, target] = [(); 2].map(|()| program.label());
    let message = |kind: u8| {
        vec![
            Test::byte(IPV6_NEXT, ICMPV6),
            Test::byte(IPV6_PAYLOAD, kind),
        ]
    };
    for address in ipv6 {
        program.when(&Test::bytes(IPV6_SOURCE, &address.octets()), own);
    }
    let nobody = Test::bytes(IPV6_SOURCE, &Ipv6Addr::UNSPECIFIED.octets());
    program.when(&[message(SOLICITATION), nobody].concat(), target);
    program.go(drop);

    program.mark(own);
    program.when(&message(ADVERTISEMENT), target);
    program.when(&message(ROUTER_ADVERTISEMENT), drop);
    program.when(&message(REDIRECT), drop);
    for kind in MEMBERSHIP {
        // What multicast listeners must put before their messages: the router alert.
        let alert = Test::bytes(IPV6_PAYLOAD, &[ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
        let head = vec![Test::byte(IPV6_NEXT, HOP_BY_HOP)];
        let kind = vec![Test::byte(IPV6_PAYLOAD + 8, kind)];
        program.when(&[head, alert, kind].concat(), accept);
    }
    for extension in [HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION] {
        program.when(&[Test::byte(IPV6_NEXT, extension)], drop);
    }
    program.go(accept);

    program.mark(target);
    for address in ipv6 {
        program.when(&Test::bytes(TARGET, &address.octets()), accept);
    }
    program.go(drop);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];
    const OWN: [u8; 4] = [10, 0, 0, 9];
    const NEIGHBOUR: [u8; 4] = [10, 0, 0, 8];

    /// A program in the kernel that it is meant for: on a socket it judges as on a device.
    struct Kernel(UnixDatagram, UnixDatagram);

    impl Kernel {
        fn new(addresses: &[&str]) -> Self {
            let addresses = addresses.iter().map(|text| text.parse().expect(text));
            let mut program = program(MAC, addresses);
            let (guest, host) = UnixDatagram::pair().expect("a pair");
            host.set_nonblocking(true).expect("set");
            let attached = libc::sock_fprog {
                len: program.len() as u16,
                filter: program.as_mut_ptr(),
            };
            // SAFETY: the kernel reads a `sock_fprog`, whose size is given, and the
            // instructions that it points to; both outlive the call.
            let result = unsafe {
                libc::setsockopt(
                    host.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_ATTACH_FILTER,
                    (&raw const attached).cast(),
                    size_of_val(&attached) as libc::socklen_t,
                )
            };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            Self(guest, host)
        }

        fn accepts(&self, frame: &[u8]) -> bool {
            // Some kernels tell the sender of a datagram that it was dropped.
            let _ = self.0.send(frame);
            self.1.recv(&mut [0; 2048]).is_ok()
        }
    }

    fn kernel() -> Kernel {
        Kernel::new(&["10.0.0.9", "10.0.0.19", "fd00::9", "fd00::19"])
    }

    fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6], &MAC[..], &kind.to_be_bytes(), payload].concat()
    }

    fn arp(operation: u8, mac: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        frame(
            0x0806,
            &[&head[..], &mac, &sender, &[0; 6], &target].concat(),
        )
    }

    fn ipv4(source: [u8; 4]) -> Vec<u8> {
        let head = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        frame(0x0800, &[&head[..], &source, &NEIGHBOUR, &[0; 8]].concat())
    }

    fn ipv6(source: &str, next: u8, rest: &[u8]) -> Vec<u8> {
        let octets = |text: &str| text.parse::<Ipv6Addr>().expect(text).octets();
        let head = [0x60, 0, 0, 0, 0, rest.len() as u8, next, 255];
        let addresses = [octets(source), octets("ff02::1")].concat();
        frame(0x86dd, &[&head[..], &addresses, rest].concat())
    }

    fn about(kind: u8, target: &str) -> Vec<u8> {
        let target = target.parse::<Ipv6Addr>().expect(target).octets();
        [&[kind, 0, 0, 0, 0, 0, 0, 0], &target[..]].concat()
    }

    const LINK_LOCAL: &str = "fe80::ff:fe00:9";

    #[test]
    fn a_guest_speaks_ipv4_for_itself() {
        let kernel = kernel();
        assert!(kernel.accepts(&ipv4(OWN)));
        assert!(kernel.accepts(&ipv4([10, 0, 0, 19])), "its second address");
        assert!(!kernel.accepts(&ipv4(NEIGHBOUR)));
        assert!(!kernel.accepts(&ipv4([0; 4])), "DHCP");
        let mut foreign = ipv4(OWN);
        foreign[11] = 8;
        assert!(!kernel.accepts(&foreign), "another hardware address");
        let mut loopback = ipv4(OWN);
        loopback[30] = 127;
        assert!(!kernel.accepts(&loopback), "the host's loopback");
        let mut disguised = ipv4(OWN);
        disguised[14] = 0x65;
        assert!(!kernel.accepts(&disguised), "IPv6 by its version");
        for kind in [0x8100, 0x88a8, 0x8847, 0x8035, 0x88cc, 38, 0] {
            assert!(!kernel.accepts(&frame(kind, &[0; 64])), "{kind:x}");
        }
        assert!(!kernel.accepts(&ipv4(OWN)[..29]), "cut short");
        assert!(!Kernel::new(&[]).accepts(&ipv4(OWN)));
    }

    #[test]
    fn arp_is_about_the_guest() {
        let kernel = kernel();
        assert!(kernel.accepts(&arp(1, MAC, OWN, NEIGHBOUR)), "a question");
        assert!(kernel.accepts(&arp(2, MAC, OWN, NEIGHBOUR)), "an answer");
        assert!(kernel.accepts(&arp(1, MAC, OWN, OWN)), "an announcement");
        assert!(kernel.accepts(&arp(1, MAC, [0; 4], OWN)), "a probe");
        assert!(!kernel.accepts(&arp(2, MAC, NEIGHBOUR, NEIGHBOUR)));
        assert!(!kernel.accepts(&arp(1, MAC, NEIGHBOUR, OWN)));
        assert!(!kernel.accepts(&arp(1, MAC, [0; 4], NEIGHBOUR)), "a claim");
        assert!(!kernel.accepts(&arp(2, MAC, [0; 4], OWN)));
        assert!(!kernel.accepts(&arp(2, [2, 0, 0, 0, 0, 8], OWN, NEIGHBOUR)));
    }

    #[test]
    fn neighbour_discovery_is_about_the_guest() {
        let kernel = kernel();
        for own in ["fd00::9", "fd00::19", LINK_LOCAL] {
            assert!(kernel.accepts(&ipv6(own, 17, &[0; 8])), "{own}");
            assert!(kernel.accepts(&ipv6(own, ICMPV6, &[128; 8])), "an echo");
            assert!(kernel.accepts(&ipv6(own, ICMPV6, &about(135, "fd00::8"))));
            assert!(kernel.accepts(&ipv6(LINK_LOCAL, ICMPV6, &about(136, own))));
            assert!(kernel.accepts(&ipv6("::", ICMPV6, &about(135, own))));
        }
        assert!(kernel.accepts(&ipv6(LINK_LOCAL, ICMPV6, &[133; 8])));
        for (source, kind, target) in [
            ("fd00::9", 136, "fd00::8"),
            (LINK_LOCAL, 136, "fe80::1"),
            ("fd00::8", 136, "fd00::8"),
            ("fd00::8", 135, "fd00::9"),
            ("::", 135, "fd00::8"),
            ("::", 136, "fd00::9"),
            (LINK_LOCAL, 134, "::"),
            (LINK_LOCAL, 137, "fd00::9"),
        ] {
            let frame = ipv6(source, ICMPV6, &about(kind, target));
            assert!(!kernel.accepts(&frame), "{source}, {kind} of {target}");
        }
        for source in ["::", "fd00::8", "fe80::8", "::1", "ff02::1"] {
            assert!(!kernel.accepts(&ipv6(source, 17, &[0; 8])), "{source}");
        }
    }

    #[test]
    fn nothing_hides_behind_extension_headers() {
        let kernel = kernel();
        let forged = about(136, "fd00::8");
        let padding = [ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        for extension in [HOP_BY_HOP, ROUTING, DESTINATION, AUTHENTICATION] {
            let rest = [&padding[..], &forged].concat();
            assert!(!kernel.accepts(&ipv6(LINK_LOCAL, extension, &rest)));
        }
        let alert = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
        let report = [&alert[..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(kernel.accepts(&ipv6(LINK_LOCAL, HOP_BY_HOP, &report)));
        assert!(!kernel.accepts(&ipv6("::", HOP_BY_HOP, &report)));
        let forged = [&alert[..], &forged].concat();
        assert!(!kernel.accepts(&ipv6(LINK_LOCAL, HOP_BY_HOP, &forged)));
    }

    #[test]
    fn many_addresses_have_room() {
        let many: Vec<_> = (0..100)
            .map(|number| format!("fd00::1:{number:x}"))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let kernel = Kernel::new(&many);
        for own in many {
            assert!(kernel.accepts(&ipv6(own, 6, &[0; 20])), "{own}");
            assert!(kernel.accepts(&ipv6(LINK_LOCAL, ICMPV6, &about(136, own))));
        }
        assert!(!kernel.accepts(&ipv6("fd00::1:64", 6, &[0; 20])));
    }

    /// Frames of which an honest one is as likely as one that is nearly so.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let honest = vec![
            ipv4(OWN),
            arp(1, MAC, OWN, NEIGHBOUR),
            arp(1, MAC, [0; 4], OWN),
            ipv6("fd00::9", 6, &[0; 20]),
            ipv6(LINK_LOCAL, ICMPV6, &about(135, "fd00::8")),
            ipv6(LINK_LOCAL, ICMPV6, &about(136, "fd00::9")),
            ipv6("::", ICMPV6, &about(135, "fd00::9")),
        ];
        let change = (any::<prop::sample::Index>(), any::<u8>());
        let changes = prop::collection::vec(change, 0..3);
        let cut = prop::option::weighted(0.1, any::<prop::sample::Index>());
        (prop::sample::select(honest), changes, cut).prop_map(|(mut frame, changes, cut)| {
            for (place, value) in changes {
                let place = place.index(frame.len());
                frame[place] = value;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        })
    }

    /// Whether an accepted frame pretends nothing, said in another way than the program.
    fn is_honest(frame: &[u8]) -> bool {
        let own_v4 = |at: usize| frame.get(at..at + 4) == Some(&OWN);
        let own_v6 = |at: usize| {
            ["fd00::9", LINK_LOCAL].iter().any(|own| {
                let own = own.parse::<Ipv6Addr>().expect("an address").octets();
                frame.get(at..at + 16) == Some(&own)
            })
        };
        let payload = match frame.get(..PAYLOAD as usize) {
            Some(head) if head[6..12] == MAC => &frame[PAYLOAD as usize..],
            _ => return false,
        };
        match frame[12..14] {
            [8, 0] => own_v4(26) && frame.get(30) != Some(&127),
            [8, 6] => {
                let probe = payload.get(14..18) == Some(&[0; 4]) && own_v4(38);
                payload.get(8..14) == Some(&MAC) && (own_v4(28) || probe)
            }
            [0x86, 0xdd] => match (payload.get(6), payload.get(40)) {
                (Some(&ICMPV6), Some(135)) if payload[8..24] == [0; 16] => own_v6(62),
                (Some(&ICMPV6), Some(136)) => own_v6(22) && own_v6(62),
                (Some(&ICMPV6), Some(134 | 137)) => false,
                (Some(0 | 43 | 51 | 60), _) => false,
                _ => own_v6(22),
            },
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_honest(frames in prop::collection::vec(frames(), 1..50)) {
            let kernel = Kernel::new(&["10.0.0.9", "fd00::9"]);
            for frame in frames {
                // A datagram of nothing says nothing, and a socket takes it.
                if !frame.is_empty() && kernel.accepts(&frame) {
                    prop_assert!(is_honest(&frame), "{frame:02x?}");
                }
            }
        }
    }
}
