//! Carries frames between a machine and the user-mode stack, one thread each way.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use crate::filter::Filter;
use crate::{Error, Result};

/// Bytes read at a time: two of the largest frames and then some.
const BUFFER: usize = 256 << 10;

/// Longest frame: what both the machine and the stack take.
const LONGEST: usize = 65_535 + 14;

/// Bytes of the length before each frame.
const LENGTH: usize = 4;

/// Threads that carry frames until one side ends or they are dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    machine: UnixStream,
    stack: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Begins to carry frames. What the machine sends goes through the filter.
    pub(crate) fn start(machine: UnixStream, stack: UnixStream, filter: Filter) -> Result<Self> {
        let failed = || Error::host("carry frames");
        let (from_machine, to_stack) = copies(&machine, &stack).map_err(failed())?;
        let (to_machine, from_stack) = copies(&machine, &stack).map_err(failed())?;
        let outgoing = thread("frames out", move || {
            let ended = carry_filtered(&from_machine, &to_stack, &filter);
            end("from the machine", ended, &from_machine, &to_stack);
        })
        .map_err(failed())?;
        let incoming = thread("frames in", move || {
            let ended = carry(&from_stack, &to_machine);
            end("to the machine", ended, &from_stack, &to_machine);
        })
        .map_err(failed())?;
        Ok(Self {
            machine,
            stack,
            threads: vec![outgoing, incoming],
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // They may be closed already; either way the threads see the end.
        let _ = self.machine.shutdown(Shutdown::Both);
        let _ = self.stack.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn copies(machine: &UnixStream, stack: &UnixStream) -> io::Result<(UnixStream, UnixStream)> {
    Ok((machine.try_clone()?, stack.try_clone()?))
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(64 << 10)
        .spawn(run)
}

/// The end of one direction is the end of both.
fn end(direction: &str, ended: io::Result<()>, one: &UnixStream, other: &UnixStream) {
    if let Err(error) = ended {
        tracing::debug!(%error, direction, "frames are not carried any more");
    }
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

fn carry(mut from: &UnixStream, mut to: &UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&buffer[..length])?,
        }
    }
}

fn carry_filtered(mut from: &UnixStream, mut to: &UnixStream, filter: &Filter) -> io::Result<()> {
    for frame in filter.introductions() {
        to.write_all(&(frame.len() as u32).to_be_bytes())?;
        to.write_all(&frame)?;
    }
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        match from.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            length => filled += length,
        }
        let (allowed, used) = sift(&mut buffer[..filled], filter)?;
        to.write_all(&buffer[..allowed])?;
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

/// Moves the frames that are allowed to the front. Returns how many bytes they have,
/// and how many bytes had whole frames.
fn sift(bytes: &mut [u8], filter: &Filter) -> io::Result<(usize, usize)> {
    let (mut allowed, mut used) = (0, 0);
    while let Some(length) = bytes.get(used..used + LENGTH) {
        let length = u32::from_be_bytes(length.try_into().map_err(io::Error::other)?) as usize;
        if length > LONGEST {
            let message = format!("a frame of {length} bytes cannot be");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let end = used + LENGTH + length;
        let Some(frame) = bytes.get(used + LENGTH..end) else {
            break;
        };
        if filter.allows(frame) {
            bytes.copy_within(used..end, allowed);
            allowed += end - used;
        }
        used = end;
    }
    Ok((allowed, used))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::Egress;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn filter() -> Filter {
        Filter {
            mac: MAC,
            ipv4: Ipv4Addr::new(10, 0, 2, 15),
            ipv6: None,
            egress: Egress::default(),
            udp_ports: BTreeSet::new(),
        }
    }

    fn arp(last: u8, padding: usize) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend_from_slice(&MAC);
        frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend_from_slice(&MAC);
        frame.extend_from_slice(&[10, 0, 2, last]);
        frame.resize(frame.len() + padding, 7);
        [&(frame.len() as u32).to_be_bytes()[..], &frame].concat()
    }

    #[test]
    fn forbidden_frames_are_left_out_wherever_reads_end() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, mut stack) = UnixStream::pair().expect("pair");
        let relay = Relay::start(theirs, ours, filter()).expect("a relay");
        let mut introduction = vec![0; LENGTH + 42];
        stack
            .read_exact(&mut introduction)
            .expect("an introduction");
        assert_eq!(introduction[LENGTH + 6..LENGTH + 12], MAC);

        let good = [arp(15, 40_000), arp(15, 10), arp(15, 65_000)];
        let sent = [&good[0][..], &arp(2, 9_000), &good[1], &arp(3, 0), &good[2]].concat();
        let writer = std::thread::spawn(move || {
            for part in sent.chunks(777) {
                machine.write_all(part).expect("written");
            }
            machine
        });
        let expected = good.concat();
        let mut received = vec![0; expected.len()];
        stack.read_exact(&mut received).expect("frames");
        assert!(received == expected);

        let mut machine = writer.join().expect("written");
        stack.write_all(b"back").expect("written");
        let mut back = [0; 4];
        machine.read_exact(&mut back).expect("read");
        assert_eq!(&back, b"back");
        drop(relay);
        assert_eq!(machine.read(&mut back).expect("the end"), 0);
        assert_eq!(stack.read(&mut back).expect("the end"), 0);
    }

    /// What a guest may write: frames that are honest, forged or of any bytes, whatever
    /// length it says they have.
    fn writes() -> impl Strategy<Value = Vec<u8>> {
        let any_bytes = prop::collection::vec(any::<u8>(), 0..80);
        let whole = any_bytes.prop_map(|bytes| with_length(bytes.len() as u32, &bytes));
        let lying = (any::<u32>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(length, bytes)| with_length(length, &bytes));
        let frames = prop_oneof![
            4 => (0..20_u8, 0..50_usize).prop_map(|(last, padding)| arp(last, padding)),
            3 => whole,
            1 => lying,
        ];
        prop::collection::vec(frames, 0..20).prop_map(|frames| frames.concat())
    }

    fn with_length(length: u32, bytes: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes()[..], bytes].concat()
    }

    /// Splits what the stack is given; `None` if it is not made of whole frames.
    fn frames(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk()?;
            let (frame, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            frames.push(frame);
            bytes = rest;
        }
        Some(frames)
    }

    proptest! {
        #[test]
        fn the_stack_is_given_whole_honest_frames(written in writes(), chunk in 1..200_usize) {
            let filter = filter();
            let mut pending = Vec::new();
            let mut given = Vec::new();
            for part in written.chunks(chunk) {
                pending.extend_from_slice(part);
                let Ok((allowed, used)) = sift(&mut pending, &filter) else {
                    break;
                };
                prop_assert!(allowed <= used && used <= pending.len());
                given.extend_from_slice(&pending[..allowed]);
                pending.drain(..used);
            }
            let frames = frames(&given);
            prop_assert!(frames.is_some());
            for frame in frames.into_iter().flatten() {
                prop_assert!(filter.allows(frame));
            }
        }
    }

    #[test]
    fn a_length_that_cannot_be_ends_it() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, mut stack) = UnixStream::pair().expect("pair");
        let _relay = Relay::start(theirs, ours, filter()).expect("a relay");
        machine.write_all(&u32::MAX.to_be_bytes()).expect("written");
        let mut rest = Vec::new();
        stack.read_to_end(&mut rest).expect("the end");
        assert_eq!(rest.len(), LENGTH + 42, "the introduction only");
    }
}
