//! Carries frames between a machine and the user-mode stack, one thread each way.
//!
//! The stack may be one that is not there before it is needed. The connection to it is, so that
//! frames wait there while it starts, in their order; once it is full, the machine waits.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::filter::Filter;
use crate::handshake;
use crate::need::needs_stack;
use crate::{Error, Result};

/// Bytes read at a time: two of the largest frames and then some.
const BUFFER: usize = 256 << 10;

/// Longest frame: what both the machine and the stack take.
const LONGEST: usize = 65_535 + 14;

/// Bytes of the length before each frame.
const LENGTH: usize = 4;

/// Starts the stack at the other end.
pub(crate) type Begin = Box<dyn FnOnce() -> Result<()> + Send>;

/// Threads that carry frames until one side ends or they are dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    machine: UnixStream,
    stack: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Begins to carry frames. What the machine sends goes through the filter. The stack runs,
    /// or else `begin` is called before the first frame that needs it.
    pub(crate) fn start(
        machine: UnixStream,
        stack: UnixStream,
        filter: Filter,
        begin: Option<Begin>,
    ) -> Result<Self> {
        let failed = || Error::host("carry frames");
        let (from_machine, to_stack) = copies(&machine, &stack).map_err(failed())?;
        let (to_machine, from_stack) = copies(&machine, &stack).map_err(failed())?;
        let ours = to_machine.try_clone().map_err(failed())?;
        let to_machine = Arc::new(Frames(Mutex::new(to_machine)));
        let answers = Arc::clone(&to_machine);
        let outgoing = thread("frames out", move || {
            let ended = carry_filtered(&from_machine, &to_stack, &filter, &answers, begin);
            end("from the machine", ended, &from_machine, &to_stack);
        })
        .map_err(failed())?;
        let incoming = thread("frames in", move || {
            let ended = carry_whole(&from_stack, &to_machine);
            end("to the machine", ended, &from_stack, &ours);
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
        .stack_size(128 << 10)
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

/// What both threads write to, by whole frames.
#[derive(Debug)]
struct Frames(Mutex<UnixStream>);

impl Frames {
    fn write(&self, frames: &[u8]) -> io::Result<()> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(frames)
    }
}

/// Gives everything that is read to `pass`, which says how many bytes at the front it is
/// through with; the rest comes again with more behind it.
fn carry(
    mut from: &UnixStream,
    mut pass: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        match from.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            length => filled += length,
        }
        let used = pass(&mut buffer[..filled])?;
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

fn carry_whole(from: &UnixStream, to: &Frames) -> io::Result<()> {
    carry(from, |bytes| {
        let mut whole = 0;
        while let Some(frame) = first(&bytes[whole..])? {
            whole += LENGTH + frame.len();
        }
        to.write(&bytes[..whole])?;
        Ok(whole)
    })
}

fn carry_filtered(
    from: &UnixStream,
    mut to: &UnixStream,
    filter: &Filter,
    answers: &Frames,
    mut begin: Option<Begin>,
) -> io::Result<()> {
    if begin.is_none() {
        introduce(to, filter)?;
    }
    carry(from, |bytes| {
        let mut unheard = 0;
        if let Some(waiting) = begin.take() {
            let found = first_needed(bytes, filter)?;
            unheard = found.before;
            if !found.there {
                begin = Some(waiting);
                return Ok(unheard);
            }
            waiting().map_err(io::Error::other)?;
            introduce(to, filter)?;
        }
        let bytes = &mut bytes[unheard..];
        let sifted = sift(bytes, filter)?;
        to.write_all(&bytes[..sifted.allowed])?;
        // The stack has been told before the guest goes on.
        if !sifted.answers.is_empty() {
            answers.write(&sifted.answers)?;
        }
        Ok(unheard + sifted.used)
    })
}

/// The first that the stack hears is where its guest is.
fn introduce(mut stack: &UnixStream, filter: &Filter) -> io::Result<()> {
    for frame in filter.introductions() {
        stack.write_all(&with_length(&frame))?;
    }
    Ok(())
}

/// Where the first frame is that needs the stack.
struct FirstNeeded {
    /// Bytes of whole frames before it, which nobody would answer.
    before: usize,
    /// Whether there is one.
    there: bool,
}

fn first_needed(bytes: &[u8], filter: &Filter) -> io::Result<FirstNeeded> {
    let mut before = 0;
    while let Some(frame) = first(&bytes[before..])? {
        if needs_stack(frame, filter) {
            return Ok(FirstNeeded {
                before,
                there: true,
            });
        }
        before += LENGTH + frame.len();
    }
    Ok(FirstNeeded {
        before,
        there: false,
    })
}

/// What a piece of what the machine sends comes to.
#[derive(Debug, Default)]
struct Sifted {
    /// Bytes of the frames that are allowed, at the front.
    allowed: usize,
    /// Bytes that had whole frames.
    used: usize,
    /// Frames that go back at once.
    answers: Vec<u8>,
}

/// Moves the frames that are allowed to the front.
fn sift(bytes: &mut [u8], filter: &Filter) -> io::Result<Sifted> {
    let mut sifted = Sifted::default();
    while let Some(frame) = first(&bytes[sifted.used..])? {
        let end = sifted.used + LENGTH + frame.len();
        if filter.allows(frame) {
            if let Some(answer) = handshake::acknowledgement(frame) {
                sifted.answers.extend(with_length(&answer));
            }
            bytes.copy_within(sifted.used..end, sifted.allowed);
            sifted.allowed += end - sifted.used;
        }
        sifted.used = end;
    }
    Ok(sifted)
}

/// The first frame, if all of it is there.
fn first(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > LONGEST {
        let message = format!("a frame of {length} bytes cannot be");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(rest.get(..length))
}

fn with_length(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
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
        with_length(&frame)
    }

    #[test]
    fn forbidden_frames_are_left_out_wherever_reads_end() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, mut stack) = UnixStream::pair().expect("pair");
        let relay = Relay::start(theirs, ours, filter(), None).expect("a relay");
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
        stack.write_all(&with_length(b"back")).expect("written");
        let mut back = [0; 8];
        machine.read_exact(&mut back).expect("read");
        assert_eq!(&back[LENGTH..], b"back");
        drop(relay);
        assert_eq!(machine.read(&mut back).expect("the end"), 0);
        assert_eq!(stack.read(&mut back).expect("the end"), 0);
    }

    /// What a guest may write: frames that are honest, forged or of any bytes, whatever
    /// length it says they have.
    fn writes() -> impl Strategy<Value = Vec<u8>> {
        let any_bytes = prop::collection::vec(any::<u8>(), 0..80);
        let whole = any_bytes.prop_map(|bytes| with_length(&bytes));
        let false_length = (any::<u32>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(length, bytes)| lying(length, &bytes));
        let frames = prop_oneof![
            4 => (0..20_u8, 0..50_usize).prop_map(|(last, padding)| arp(last, padding)),
            3 => whole,
            1 => false_length,
        ];
        prop::collection::vec(frames, 0..20).prop_map(|frames| frames.concat())
    }

    fn lying(length: u32, bytes: &[u8]) -> Vec<u8> {
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
                let Ok(sifted) = sift(&mut pending, &filter) else {
                    break;
                };
                prop_assert!(sifted.allowed <= sifted.used && sifted.used <= pending.len());
                given.extend_from_slice(&pending[..sifted.allowed]);
                pending.drain(..sifted.used);
            }
            let frames = frames(&given);
            prop_assert!(frames.is_some());
            for frame in frames.into_iter().flatten() {
                prop_assert!(filter.allows(frame));
            }
        }
    }

    #[test]
    fn a_guest_that_accepts_a_connection_is_answered_between_frames() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, mut stack) = UnixStream::pair().expect("pair");
        let _relay = Relay::start(theirs, ours, filter(), None).expect("a relay");
        let mut introduction = vec![0; LENGTH + 42];
        stack
            .read_exact(&mut introduction)
            .expect("an introduction");
        // Half of a frame of the stack's is on its way.
        let from_stack = with_length(&[7; 100]);
        stack.write_all(&from_stack[..50]).expect("written");

        let mut accepted = vec![0xff; 6];
        accepted.extend_from_slice(&MAC);
        accepted.extend_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        accepted.extend_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        accepted.extend_from_slice(&[0, 80, 0xc0, 1, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x12]);
        accepted.resize(14 + 40, 0);
        machine.write_all(&with_length(&accepted)).expect("written");
        let mut passed = vec![0; LENGTH + accepted.len()];
        stack.read_exact(&mut passed).expect("the stack sees it");
        assert_eq!(passed[LENGTH..], accepted);
        let mut answer = vec![0; LENGTH + 54];
        machine.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[..LENGTH], 54_u32.to_be_bytes());
        assert_eq!(answer[LENGTH + 47], 0x10, "an acknowledgement");

        stack.write_all(&from_stack[50..]).expect("written");
        let mut whole = vec![0; from_stack.len()];
        machine.read_exact(&mut whole).expect("the whole frame");
        assert_eq!(whole, from_stack);
    }

    /// A question for the address that ends so, of any length.
    fn question(last: u8, padding: usize) -> Vec<u8> {
        let mut frame = arp(15, 10 + padding);
        frame[LENGTH + 38..LENGTH + 42].copy_from_slice(&[10, 0, 2, last]);
        frame
    }

    #[test]
    fn the_stack_is_begun_by_the_first_frame_that_needs_it_and_misses_none_after() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, stack_end) = UnixStream::pair().expect("pair");
        // What nobody answers: announcements of the guest, and what is not allowed.
        let quiet = [question(15, 60_000), arp(3, 60_000), question(15, 0)].concat();
        let mut wanted = Vec::new();
        for number in 0..40 {
            // More than connections hold; announcements are for the stack by now.
            wanted.extend(question(2, 20_000 + number));
            wanted.extend(question(15, number));
        }
        let sent = [&quiet[..], &quiet, &wanted].concat();
        let writer = std::thread::spawn(move || {
            for part in sent.chunks(777) {
                machine.write_all(part).expect("written");
            }
            machine
        });
        let (begun, begins) = std::sync::mpsc::channel();
        let begin: Begin = Box::new(move || {
            begun.send(stack_end).expect("somebody waits");
            Ok(())
        });
        let _relay = Relay::start(theirs, ours, filter(), Some(begin)).expect("a relay");
        let mut stack = begins.recv().expect("it is begun");
        let mut received = vec![0; LENGTH + 42 + wanted.len()];
        stack.read_exact(&mut received).expect("frames");
        assert_eq!(received[LENGTH + 6..LENGTH + 12], MAC, "an introduction");
        assert!(received[LENGTH + 42..] == wanted);
        let mut machine = writer.join().expect("written");
        stack.write_all(&with_length(b"back")).expect("written");
        let mut back = [0; 8];
        machine.read_exact(&mut back).expect("read");
        assert_eq!(&back[LENGTH..], b"back");
        assert!(begins.recv().is_err(), "it is begun once");
    }

    #[test]
    fn a_stack_that_nobody_needed_is_not_begun() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, mut stack) = UnixStream::pair().expect("pair");
        let begin: Begin = Box::new(|| panic!("nobody needs it"));
        let relay = Relay::start(theirs, ours, filter(), Some(begin)).expect("a relay");
        machine.write_all(&question(15, 9)).expect("written");
        machine.shutdown(Shutdown::Write).expect("the end");
        let mut said = Vec::new();
        stack.read_to_end(&mut said).expect("the end");
        assert!(said.is_empty());
        drop(relay);
    }

    #[test]
    fn a_stack_that_cannot_be_begun_ends_it() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, mut stack) = UnixStream::pair().expect("pair");
        let begin: Begin = Box::new(|| Err(crate::Error::NoNamespace));
        let _relay = Relay::start(theirs, ours, filter(), Some(begin)).expect("a relay");
        machine.write_all(&question(2, 0)).expect("written");
        let mut said = Vec::new();
        stack.read_to_end(&mut said).expect("the end");
        assert!(said.is_empty());
        assert_eq!(machine.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn a_length_that_cannot_be_ends_it() {
        let (mut machine, theirs) = UnixStream::pair().expect("pair");
        let (ours, mut stack) = UnixStream::pair().expect("pair");
        let _relay = Relay::start(theirs, ours, filter(), None).expect("a relay");
        machine.write_all(&u32::MAX.to_be_bytes()).expect("written");
        let mut rest = Vec::new();
        stack.read_to_end(&mut rest).expect("the end");
        assert_eq!(rest.len(), LENGTH + 42, "the introduction only");
    }
}
