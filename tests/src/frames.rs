//! Frames of Ethernet as an attacker makes them, and whoever sees what arrives.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::netns::Netns;
use crate::{eventually, programs};

/// A hardware address.
pub type Mac = [u8; 6];

/// Everybody.
const BROADCAST: Mac = [0xff; 6];

/// All nodes of a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Reads `02:00:00:00:00:01`.
///
/// # Panics
/// If it is no hardware address.
pub fn mac(text: &str) -> Mac {
    let bytes = text.split(':').map(|digits| u8::from_str_radix(digits, 16));
    let bytes: Result<Vec<_>, _> = bytes.collect();
    let bytes = bytes.unwrap_or_else(|error| panic!("{text}: {error}"));
    bytes.try_into().expect("six bytes")
}

/// Digits as `caisson-probe` reads and writes them.
pub fn digits(frame: &[u8]) -> String {
    let mut digits = String::new();
    for byte in frame {
        write!(digits, "{byte:02x}").expect("a string takes everything");
    }
    digits
}

/// A frame to everybody. It ends with a word by which it is known again.
pub fn frame(from: Mac, kind: u16, payload: &[u8], word: &str) -> Vec<u8> {
    let mut frame = [&BROADCAST[..], &from, &kind.to_be_bytes(), payload].concat();
    frame.extend_from_slice(word.as_bytes());
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A datagram. Bridges look at its header's checksum before they pass it on.
pub fn ipv4(from: Mac, source: Ipv4Addr, to: Ipv4Addr, word: &str) -> Vec<u8> {
    let length = 28 + word.len() as u8;
    let head = [0x45, 0, 0, length, 0, 0, 0, 0, 64, 17, 0, 0];
    let udp = [0x7f, 0xff, 0x7f, 0xff, 0, 8 + word.len() as u8, 0, 0];
    let mut packet = [&head[..], &source.octets(), &to.octets()].concat();
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&udp);
    frame(from, 0x0800, &packet, word)
}

/// An announcement (1) or an answer (2) of ARP, which asks for `target`.
pub fn arp(
    from: Mac,
    operation: u8,
    sender: (Mac, Ipv4Addr),
    target: Ipv4Addr,
    word: &str,
) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    let (mac, address) = (sender.0, sender.1.octets());
    let packet = [&head[..], &mac, &address, &[0; 6], &target.octets()].concat();
    frame(from, 0x0806, &packet, word)
}

/// A message of neighbour discovery about `target`, with a hardware address for it.
pub fn discovery(
    from: Mac,
    kind: u8,
    source: Ipv6Addr,
    target: Ipv6Addr,
    claimed: Mac,
    word: &str,
) -> Vec<u8> {
    // An advertisement overrides what is known, and has the target's address; others have
    // their sender's.
    let (flags, option) = if kind == 136 { (0x20, 2) } else { (0, 1) };
    let head = [kind, 0, 0, 0, flags, 0, 0, 0];
    let mut message = [&head[..], &target.octets(), &[option, 1], &claimed].concat();
    // Bridges cut off what comes after the packet: the word is in an option for experiments
    // (RFC 4727), which nobody reads.
    let units = (2 + word.len()).div_ceil(8);
    message.extend_from_slice(&[253, units as u8]);
    message.extend_from_slice(word.as_bytes());
    message.resize(message.len().next_multiple_of(8), 0);
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [
        &source.octets()[..],
        &ALL_NODES.octets(),
        &length,
        &[0, 0, 0, 58],
        &message,
    ];
    let sum = checksum(&pseudo.concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let head = [0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    let packet = [&head[..], &source.octets(), &ALL_NODES.octets(), &message].concat();
    frame(from, 0x86dd, &packet, "")
}

/// Of an even number of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Somebody who sees every frame that arrives at an interface.
pub struct Listener {
    child: Child,
    seen: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Panics
    /// If that does not work.
    pub fn start(place: &Netns, interface: &str) -> Self {
        let mut child = place
            .command(programs::probe())
            .args(["listen", interface])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the probe");
        let output = child.stdout.take().expect("a pipe");
        let seen = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let seen = seen.clone();
            move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.push_str(&line);
                    seen.push('\n');
                }
            }
        });
        let listener = Self {
            child,
            seen,
            reader: Some(reader),
        };
        eventually("somebody listens", || listener.said("done listen"));
        listener
    }

    fn said(&self, text: &str) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.contains(text)
    }

    /// Whether a frame with this word has arrived.
    pub fn saw(&self, word: &str) -> bool {
        self.said(&digits(word.as_bytes()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
