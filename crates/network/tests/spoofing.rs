//! What a guest's frames meet on their way out of a namespace. Needs root and ip(8).
//!
//! Two namespaces are the ends of one cable, and a tap of each stands for its guest: what is
//! written to one can be read from the other.

mod inside;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

use caisson_network::{Attachment, Link, Namespace, Spoofing};

use inside::run;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Bytes of `struct virtio_net_hdr`.
const HEADER: usize = 10;

/// A guest and the neighbour at the other end of its cable.
struct Cable {
    namespace: Namespace,
    guest: Attachment,
    /// Bytes before each frame of the guest's.
    header: Vec<u8>,
    from: File,
    to: File,
    _neighbour: Attachment,
}

impl Cable {
    fn new(spoofing: Spoofing) -> Self {
        let (ours, theirs) = (Namespace::new(), Namespace::new());
        let (ours, theirs) = (ours.expect("root"), theirs.expect("root"));
        let other_end = theirs.path();
        run(
            &ours,
            &format!(
                "ip link add eth0 address 02:00:00:00:00:07 type veth \
                 peer name eth0 netns {}",
                other_end.display()
            ),
        );
        run(&theirs, "ip link set eth0 up");
        run(&ours, "ip link set eth0 up");
        run(&ours, "ip addr add 10.9.0.2/24 dev eth0");
        run(&ours, "ip addr add fd00:9::2/64 dev eth0 nodad");
        let namespace = Namespace::open(&ours.path()).expect("a copy");
        let neighbour = theirs.join(Spoofing::Allowed).expect("joined");
        let guest = ours.join(spoofing).expect("joined");
        let header = match spoofing {
            Spoofing::Strict => 0,
            Spoofing::Allowed | Spoofing::Refused => HEADER,
        };
        Self {
            namespace,
            header: vec![0; header],
            from: tap(&guest),
            to: tap(&neighbour),
            guest,
            _neighbour: neighbour,
        }
    }

    fn send(&mut self, frame: &[u8]) {
        let bytes = [&self.header[..], frame].concat();
        self.from.write_all(&bytes).expect("sent");
    }

    /// Which of some frames arrive at the neighbour, whole and in their order.
    fn arriving(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let last = ipv4([10, 9, 0, 2], b"the last");
        for frame in frames {
            self.send(frame);
        }
        self.send(&last);
        let mut arrived = Vec::new();
        loop {
            let frame = self.receive()[HEADER..].to_vec();
            if frame == last {
                return arrived;
            }
            // The namespace's own kernel says things too, such as what groups it is in.
            if frames.contains(&frame) {
                arrived.push(frame);
            }
        }
    }

    /// The frame that has these bytes in it, as it arrives at the neighbour.
    fn receive_with(&mut self, bytes: &[u8]) -> Vec<u8> {
        loop {
            let frame = self.receive().split_off(HEADER);
            if frame.windows(bytes.len()).any(|window| window == bytes) {
                return frame;
            }
        }
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        loop {
            match self.to.read(&mut bytes) {
                Ok(length) => return bytes[..length].to_vec(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn tap(attachment: &Attachment) -> File {
    let links = attachment.links();
    let [Link::Tap(tap)] = links.as_slice() else {
        panic!("{links:?}");
    };
    let tap: OwnedFd = tap.try_clone().expect("a copy");
    tap.into()
}

fn frame(mac: [u8; 6], kind: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &mac[..], kind, payload].concat();
    // The shortest of Ethernet.
    frame.resize(frame.len().max(60), 0);
    frame
}

fn ipv4(source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = 20 + payload.len() as u8;
    let head = [0x45, 0, 0, length, 0, 0, 0, 0, 64, 253, 0, 0];
    let packet = [&head[..], &source, &[10, 9, 0, 1], payload].concat();
    frame(MAC, &[8, 0], &packet)
}

fn arp(sender: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let packet = [&head[..], &MAC, &sender, &[0; 6], &sender].concat();
    frame(MAC, &[8, 6], &packet)
}

fn advertisement(target_end: u8) -> Vec<u8> {
    let address = |end: u8| [&[0xfd, 0, 0, 9][..], &[0; 11], &[end]].concat();
    let head = [0x60, 0, 0, 0, 0, 24, 58, 255];
    let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &address(target_end)[..]].concat();
    let packet = [&head[..], &address(2), &address(9), &message].concat();
    frame(MAC, &[0x86, 0xdd], &packet)
}

fn honest() -> Vec<Vec<u8>> {
    vec![
        ipv4([10, 9, 0, 2], b"honest"),
        arp([10, 9, 0, 2]),
        advertisement(2),
    ]
}

fn forged() -> Vec<Vec<u8>> {
    let mut other_mac = ipv4([10, 9, 0, 2], b"forged");
    other_mac[11] = 9;
    let inner = ipv4([10, 9, 0, 2], b"tagged");
    vec![
        other_mac,
        ipv4([10, 9, 0, 3], b"forged"),
        arp([10, 9, 0, 1]),
        advertisement(3),
        frame(MAC, &[0x81, 0, 0, 5], &inner[12..]),
        frame(MAC, &[0x88, 0xa8, 0, 5], &inner[12..]),
        frame(MAC, &[0x88, 0xcc], b"something else"),
    ]
}

#[test]
fn only_what_is_honest_leaves() {
    for spoofing in [Spoofing::Refused, Spoofing::Strict] {
        let mut cable = Cable::new(spoofing);
        let all = [forged(), honest(), forged()].concat();
        assert_eq!(cable.arriving(&all), honest(), "{spoofing:?}");
    }
}

/// A checksum that is to be written over the second half of the source address.
#[test]
fn a_strict_guard_leaves_nothing_to_be_written_into_a_frame() {
    const NEEDS_CHECKSUM: u8 = 1;
    let source = 14 + 12;
    let mut header = [0; HEADER];
    header[0] = NEEDS_CHECKSUM;
    header[6..8].copy_from_slice(&(source as u16).to_ne_bytes());
    header[8..10].copy_from_slice(&2_u16.to_ne_bytes());

    let mut open = Cable::new(Spoofing::Refused);
    open.header = header.to_vec();
    let frame = ipv4([10, 9, 0, 2], b"to be finished");
    let bytes = [&header[..], &frame].concat();
    open.from.write_all(&bytes).expect("sent");
    let arrived = open.receive_with(b"to be finished");
    assert_ne!(arrived[source..source + 4], [10, 9, 0, 2], "it is forged");
    assert_eq!(arrived[..source], frame[..source]);

    // What would be such a header is part of the frame.
    let mut strict = Cable::new(Spoofing::Strict);
    strict.from.write_all(&bytes).expect("sent");
    assert_eq!(strict.arriving(std::slice::from_ref(&frame)), [frame]);
}

#[test]
fn without_the_guard_what_is_forged_leaves_too() {
    let mut cable = Cable::new(Spoofing::Allowed);
    let all = [forged(), honest()].concat();
    assert_eq!(cable.arriving(&all), all);
}

#[test]
fn what_may_be_sent_follows_the_addresses() {
    let mut cable = Cable::new(Spoofing::Refused);
    let new = [ipv4([10, 9, 0, 3], b"new"), arp([10, 9, 0, 3])];
    assert!(cable.arriving(&new).is_empty());
    run(&cable.namespace, "ip addr add 10.9.0.3/24 dev eth0");
    assert!(!cable.guest.update().expect("looked").is_empty());
    assert_eq!(cable.arriving(&new), new);
    assert_eq!(cable.arriving(&honest()), honest());
    run(&cable.namespace, "ip addr del 10.9.0.3/24 dev eth0");
    assert!(!cable.guest.update().expect("looked").is_empty());
    assert!(cable.arriving(&new).is_empty());
    assert_eq!(cable.arriving(&honest()), honest());

    cable.guest.end();
    let shown = run(&cable.namespace, "tc qdisc show dev eth0");
    assert!(!shown.contains("ingress"), "{shown}");
}
