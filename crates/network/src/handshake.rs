//! The last step of a handshake (RFC 9293, 3.5), in the place of a stack that leaves it out.
//!
//! passt says nothing to a guest's SYN,ACK until the other end has sent something, for which a
//! server that speaks first waits in vain. The guest is given what the stack should have sent; if
//! the stack has sent it as well, it is there twice, which is nothing new to TCP.

use crate::filter::{ETHERNET, IPV4, IPV6, TCP};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Bytes of a header of TCP without options.
const SEGMENT: usize = 20;

/// What the guest may send before the stack says how much: this, times the stack's scale,
/// which is 1 to 256.
const WINDOW: u16 = 128;

/// The frame for the guest that ends the handshake of which it has sent the second part. `None`
/// for any other frame.
pub(crate) fn acknowledgement(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = frame.get(ETHERNET..)?;
    match <[u8; 2]>::try_from(frame.get(12..14)?).ok()? {
        IPV4 if *packet.get(9)? == TCP => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let segment = answer(packet.get(header..)?)?;
            let (from, to) = (packet.get(12..16)?, packet.get(16..20)?);
            let length = (20 + SEGMENT) as u16;
            let mut ip = vec![0x45, 0];
            ip.extend_from_slice(&length.to_be_bytes());
            // Not to be fragmented, 64 hops.
            ip.extend_from_slice(&[0, 0, 0x40, 0, 64, TCP, 0, 0]);
            ip.extend_from_slice(to);
            ip.extend_from_slice(from);
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            Some(framed(frame, IPV4, &ip, segment))
        }
        IPV6 if *packet.get(6)? == TCP => {
            let segment = answer(packet.get(40..)?)?;
            let (from, to) = (packet.get(8..24)?, packet.get(24..40)?);
            let mut ip = vec![0x60, 0, 0, 0, 0, SEGMENT as u8, TCP, 64];
            ip.extend_from_slice(to);
            ip.extend_from_slice(from);
            Some(framed(frame, IPV6, &ip, segment))
        }
        _ => None,
    }
}

/// The segment that acknowledges a SYN,ACK, without its checksum.
fn answer(segment: &[u8]) -> Option<[u8; SEGMENT]> {
    if segment.get(13)? & (SYN | RST | ACK) != SYN | ACK {
        return None;
    }
    let number = |at: usize| -> Option<u32> {
        let bytes = segment.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let (sequence, acknowledged) = (number(4)?, number(8)?);
    let mut answer = [0; SEGMENT];
    answer[..2].copy_from_slice(segment.get(2..4)?);
    answer[2..4].copy_from_slice(segment.get(..2)?);
    answer[4..8].copy_from_slice(&acknowledged.to_be_bytes());
    answer[8..12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
    answer[12] = (SEGMENT as u8 / 4) << 4;
    answer[13] = ACK;
    answer[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    Some(answer)
}

/// A frame back to the sender of another one.
fn framed(of: &[u8], kind: [u8; 2], ip: &[u8], mut segment: [u8; SEGMENT]) -> Vec<u8> {
    // The addresses are at the end of both headers.
    let addresses = if kind == IPV4 { &ip[12..] } else { &ip[8..] };
    let sum = checksum(&[addresses, &[0, TCP, 0, SEGMENT as u8], &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    [&of[6..12], &of[..6], &kind, ip, &segment].concat()
}

/// RFC 1071, of parts whose lengths are even.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const STACK: [u8; 6] = [0x9a; 6];

    fn segment(flags: u8) -> Vec<u8> {
        let mut segment = vec![0; 24];
        segment[..4].copy_from_slice(&[0, 80, 0xc0, 1]);
        segment[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        segment[8..12].copy_from_slice(&1001_u32.to_be_bytes());
        segment[12] = 6 << 4;
        segment[13] = flags;
        segment
    }

    fn ipv4(flags: u8) -> Vec<u8> {
        let head = [0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, TCP, 0, 0];
        let addresses = [10, 0, 2, 15, 10, 0, 2, 2];
        [
            &STACK[..],
            &GUEST,
            &IPV4,
            &head,
            &addresses,
            &segment(flags),
        ]
        .concat()
    }

    fn ipv6(flags: u8) -> Vec<u8> {
        let head = [0x60, 0, 0, 0, 0, 24, TCP, 64];
        let (from, to) = ([0xfd; 16], [0xfe; 16]);
        [
            &STACK[..],
            &GUEST,
            &IPV6,
            &head,
            &from,
            &to,
            &segment(flags),
        ]
        .concat()
    }

    #[test]
    fn the_second_part_of_a_handshake_is_acknowledged() {
        for (frame, header) in [(ipv4(SYN | ACK), 20), (ipv6(SYN | ACK), 40)] {
            let answer = acknowledgement(&frame).expect("an answer");
            assert_eq!(answer.len(), ETHERNET + header + SEGMENT);
            assert_eq!((&answer[..6], &answer[6..12]), (&GUEST[..], &STACK[..]));
            assert_eq!(answer[12..14], frame[12..14]);
            let ip = &answer[ETHERNET..ETHERNET + header];
            let theirs = &frame[ETHERNET..ETHERNET + header];
            let (addresses, half) = match header {
                20 => (12..20, 4),
                _ => (8..40, 16),
            };
            let (ours, theirs) = (&ip[addresses.clone()], &theirs[addresses]);
            assert_eq!(
                (&ours[..half], &ours[half..]),
                (&theirs[half..], &theirs[..half])
            );
            if header == 20 {
                assert_eq!(checksum(&[ip]), 0);
            }
            let tcp = &answer[ETHERNET + header..];
            assert_eq!(tcp[..4], [0xc0, 1, 0, 80]);
            assert_eq!(tcp[4..8], 1001_u32.to_be_bytes());
            assert_eq!(tcp[8..12], [0; 4], "numbers begin anew after the last");
            assert_eq!((tcp[12], tcp[13]), (0x50, ACK));
            assert_eq!(checksum(&[ours, &[0, TCP, 0, 20], tcp]), 0);
        }
    }

    #[test]
    fn nothing_else_is_answered() {
        for flags in [0, SYN, ACK, RST | ACK, SYN | ACK | RST, ACK | 0x08] {
            assert_eq!(acknowledgement(&ipv4(flags)), None, "{flags:x}");
            assert_eq!(acknowledgement(&ipv6(flags)), None, "{flags:x}");
        }
        let mut datagram = ipv4(SYN | ACK);
        datagram[ETHERNET + 9] = 17;
        assert_eq!(acknowledgement(&datagram), None);
    }

    proptest! {
        #[test]
        fn a_frame_may_end_anywhere(
            v4 in any::<bool>(),
            end in 0..80_usize,
            header in any::<u8>(),
        ) {
            let mut frame = if v4 { ipv4(SYN | ACK) } else { ipv6(SYN | ACK) };
            frame[ETHERNET] = header;
            frame.truncate(end);
            if let Some(answer) = acknowledgement(&frame) {
                prop_assert!(answer.len() <= ETHERNET + 40 + SEGMENT);
            }
        }
    }
}
