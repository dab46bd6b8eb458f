//! What a well-behaved guest and host see.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::driver::{HOST_PORT, Machine, QUEUE_SIZE, operations, payload};
use crate::vsock::packet::{Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

const GUEST_PORT: u32 = 40_000;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Bytes that can be read now.
fn available(stream: &mut UnixStream) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    stream.set_nonblocking(false).unwrap();
    bytes
}

/// Writes until the socket is full; returns how much it took.
fn stuff(stream: &mut UnixStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    written
}

#[test]
fn a_connection_of_the_guest_carries_bytes_both_ways() {
    let mut machine = Machine::new();
    let mut host = machine.open_from_guest(GUEST_PORT);
    let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
    machine.push(data, b"split over three descriptors", 3);
    assert!(machine.process().tx);
    assert_eq!(available(&mut host), b"split over three descriptors");

    host.write_all(b"hello guest").unwrap();
    let packets = machine.drain();
    assert_eq!(operations(&packets), [Operation::Data]);
    let (header, bytes) = &packets[0];
    assert_eq!(bytes, b"hello guest");
    assert_eq!((header.src_port, header.dst_port), (HOST_PORT, GUEST_PORT));
    assert_eq!(header.fwd_cnt, 28);
}

#[test]
fn a_request_of_the_host_waits_for_the_driver() {
    let mut machine = Machine::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    machine.device.connect(7, 1024, theirs.into());
    ours.write_all(b"early").unwrap();
    // No receive buffer yet: the driver is not up.
    machine.process();
    assert!(machine.received().is_empty());
    assert!(machine.device.host().refused.is_empty());

    let packets = machine.drain();
    assert_eq!(operations(&packets), [Operation::Request]);
    let host = packets[0].0.src_port;
    assert_eq!(packets[0].0.dst_port, 1024);
    let response = machine.header(1024, host, Operation::Response);
    machine.send(response, &[]);
    assert_eq!(machine.device.host().connected, [7]);
    assert_eq!(payload(&machine.drain()), b"early");
}

#[test]
fn a_refusal_of_the_guest_reaches_the_host() {
    let mut machine = Machine::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    machine.device.connect(9, 5000, theirs.into());
    let host = machine.drain()[0].0.src_port;
    let reset = machine.header(5000, host, Operation::Reset);
    machine.send(reset, &[]);
    assert_eq!(machine.device.host().refused, [9]);
    assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(machine.device.connections(), 0);
    assert!(machine.drain().is_empty(), "a RST must not be answered");
}

#[test]
fn a_request_that_the_host_gave_up_is_never_sent() {
    let mut machine = Machine::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    machine.device.connect(9, 5000, theirs.into());
    drop(ours);
    assert!(machine.drain().is_empty());
    assert_eq!(machine.device.host().refused, [9]);
    assert_eq!(machine.device.connections(), 0);
}

#[test]
fn the_guests_credit_is_respected_and_asked_for() {
    let mut machine = Machine::new();
    machine.buf_alloc = 100;
    let mut host = machine.open_from_guest(GUEST_PORT);
    let bytes = pattern(250);
    host.write_all(&bytes).unwrap();

    let packets = machine.drain();
    assert_eq!(
        operations(&packets),
        [Operation::Data, Operation::CreditRequest]
    );
    assert_eq!(payload(&packets), bytes[..100]);

    machine.fwd_cnt = 60;
    let update = machine.header(GUEST_PORT, HOST_PORT, Operation::CreditUpdate);
    machine.send(update, &[]);
    let packets = machine.drain();
    assert_eq!(payload(&packets), bytes[100..160]);

    machine.fwd_cnt = 160;
    let update = machine.header(GUEST_PORT, HOST_PORT, Operation::CreditUpdate);
    machine.send(update, &[]);
    assert_eq!(payload(&machine.drain()), bytes[160..]);
}

#[test]
fn a_guest_that_lies_about_credit_gets_nothing() {
    let mut machine = Machine::new();
    machine.fwd_cnt = 1;
    machine.buf_alloc = u32::MAX;
    let mut host = machine.open_from_guest(GUEST_PORT);
    host.write_all(b"data").unwrap();
    assert_eq!(operations(&machine.drain()), [Operation::CreditRequest]);
}

#[test]
fn a_slow_host_holds_the_guest_back_by_credit_alone() {
    let mut machine = Machine::new();
    let mut host = machine.open_from_guest(GUEST_PORT);
    let bytes = pattern(4 << 20);
    let (mut sent, mut buf_alloc, mut fwd_cnt) = (0usize, 256 * 1024u32, 0u32);
    let mut read = Vec::new();
    let mut stalls = 0;
    while read.len() < bytes.len() {
        let free = buf_alloc as usize - sent.wrapping_sub(fwd_cnt as usize);
        let count = free.min(60_000).min(bytes.len() - sent);
        if count > 0 {
            let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
            machine.send(data, &bytes[sent..sent + count]);
            sent += count;
        } else {
            // Only now does the host read; the news must come by itself.
            stalls += 1;
            let mut buffer = vec![0; 100_000];
            let count = host.read(&mut buffer).unwrap();
            read.extend_from_slice(&buffer[..count]);
        }
        for (header, _) in machine.drain() {
            assert_eq!(header.op, Some(Operation::CreditUpdate));
            (buf_alloc, fwd_cnt) = (header.buf_alloc, header.fwd_cnt);
        }
    }
    assert_eq!(read, bytes);
    assert!(stalls > 0);
}

#[test]
fn without_receive_buffers_the_hosts_writer_blocks_and_a_kick_resumes() {
    let mut machine = Machine::new();
    machine.buf_alloc = 64 << 20;
    let mut host = machine.open_from_guest(GUEST_PORT);
    // `drain` left buffers: use them up.
    let bytes = pattern(32 << 20);
    let mut written = stuff(&mut host, &bytes);
    machine.process();
    let mut got = payload(&machine.received());
    written += stuff(&mut host, &bytes[written..]);
    machine.process();
    assert!(machine.received().is_empty());
    assert!(written < 2 << 20, "the device read {written} bytes ahead");

    while got.len() < bytes.len() {
        machine.post_rx(8, 40_000);
        machine.process();
        got.extend(payload(&machine.received()));
        written += stuff(&mut host, &bytes[written..]);
    }
    assert!(got == bytes);
}

#[test]
fn all_that_the_host_wrote_before_closing_comes_before_the_shutdown() {
    let mut machine = Machine::new();
    let mut host = machine.open_from_guest(GUEST_PORT);
    let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
    machine.send(data, b"the host will not read this");
    let bytes = pattern(150_000);
    host.write_all(&bytes).unwrap();
    drop(host);

    let packets = machine.drain();
    assert_eq!(payload(&packets), bytes);
    let (last, before) = packets.split_last().unwrap();
    assert_eq!(last.0.op, Some(Operation::Shutdown));
    assert_eq!(last.0.flags, SHUTDOWN_BOTH);
    for (header, _) in before {
        // That nobody reads any more may come early, that nothing follows may not.
        match header.op {
            Some(Operation::Shutdown) => assert_eq!(header.flags, SHUTDOWN_RECEIVE),
            op => assert_eq!(op, Some(Operation::Data)),
        }
    }
    let reset = machine.header(GUEST_PORT, HOST_PORT, Operation::Reset);
    machine.send(reset, &[]);
    assert_eq!(machine.device.connections(), 0);
}

#[test]
fn the_host_half_closes() {
    let mut machine = Machine::new();
    let mut host = machine.open_from_guest(GUEST_PORT);
    host.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = machine.drain();
    assert_eq!(operations(&packets), [Operation::Shutdown]);
    assert_eq!(packets[0].0.flags, SHUTDOWN_SEND);

    let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
    machine.send(data, b"still read");
    assert_eq!(available(&mut host), b"still read");
}

#[test]
fn the_guest_half_closes() {
    let mut machine = Machine::new();
    let mut host = machine.open_from_guest(GUEST_PORT);
    let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
    machine.send(data, b"end");
    let mut shutdown = machine.header(GUEST_PORT, HOST_PORT, Operation::Shutdown);
    shutdown.flags = SHUTDOWN_SEND;
    machine.send(shutdown, &[]);
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert_eq!(text, "end");

    host.write_all(b"answer").unwrap();
    assert_eq!(payload(&machine.drain()), b"answer");

    shutdown.flags = SHUTDOWN_RECEIVE;
    machine.send(shutdown, &[]);
    assert_eq!(operations(&machine.drain()), [Operation::Reset]);
    assert_eq!(machine.device.connections(), 0);
    assert_eq!(
        host.write_all(b"late").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
}

#[test]
fn a_guest_that_closes_first_has_all_its_bytes_delivered_before_the_reset() {
    for op in [Operation::Shutdown, Operation::Reset] {
        let mut machine = Machine::new();
        let mut host = machine.open_from_guest(GUEST_PORT);
        // Both what the socket takes and what only the backlog does.
        let bytes = pattern(256 * 1024 + 100_000);
        let mut sent = 0;
        let mut read = Vec::new();
        while sent < bytes.len() {
            let end = (sent + 50_000).min(bytes.len());
            let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
            machine.send(data, &bytes[sent..end]);
            sent = end;
            machine.drain();
            if sent >= 256 * 1024 && read.is_empty() {
                let mut buffer = vec![0; 120_000];
                host.read_exact(&mut buffer).unwrap();
                read = buffer;
                machine.process();
            }
        }
        let mut close = machine.header(GUEST_PORT, HOST_PORT, op);
        close.flags = SHUTDOWN_BOTH;
        machine.send(close, &[]);
        // Not even a host that writes is hurt before it has read.
        let _ = host.write(b"crossing");
        let early = machine.drain();
        assert!(early.is_empty(), "closed with a backlog: {early:?}");

        while read.len() < bytes.len() {
            let mut buffer = vec![0; 30_000];
            let count = host.read(&mut buffer).unwrap();
            assert!(count > 0, "lost {} bytes", bytes.len() - read.len());
            read.extend_from_slice(&buffer[..count]);
            machine.process();
        }
        assert!(read == bytes);
        assert_eq!(host.read(&mut [0; 8]).unwrap(), 0, "a clean end");
        let expected: &[_] = match op {
            Operation::Shutdown => &[Operation::Reset],
            _ => &[],
        };
        assert_eq!(operations(&machine.drain()), expected);
        assert_eq!(machine.device.connections(), 0);
    }
}

#[test]
fn connections_take_turns() {
    let mut machine = Machine::new();
    let mut hosts: Vec<_> = (0..4)
        .map(|i| machine.open_from_guest(GUEST_PORT + i))
        .collect();
    for host in &mut hosts {
        stuff(host, &[1; 200_000]);
    }
    machine.process();
    machine.received();
    machine.post_rx(8, 4096);
    machine.process();
    let mut ports: Vec<_> = machine
        .received()
        .iter()
        .map(|(header, _)| header.dst_port - GUEST_PORT)
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn a_reset_driver_finds_only_the_requests_it_has_not_seen() {
    let mut machine = Machine::new();
    let mut open = machine.open_from_guest(GUEST_PORT);
    let (_seen, theirs) = UnixStream::pair().unwrap();
    machine.device.connect(1, 1024, theirs.into());
    machine.drain();
    // As if the guest had stopped before its driver gave buffers again.
    machine.reset_driver();
    let (_unseen, theirs) = UnixStream::pair().unwrap();
    machine.device.connect(2, 1024, theirs.into());
    machine.device.reset();

    assert_eq!(machine.device.host().refused, [1]);
    assert_eq!(open.read(&mut [0; 8]).unwrap(), 0);
    let packets = machine.drain();
    assert_eq!(operations(&packets), [Operation::Request]);
    let response = machine.header(1024, packets[0].0.src_port, Operation::Response);
    machine.send(response, &[]);
    assert_eq!(machine.device.host().connected, [2]);
}

#[test]
fn both_directions_at_once_and_whole() {
    const TOTAL: usize = 64 << 20;
    /// Bytes at any place of a stream, and not the same in both.
    fn block(at: usize, seed: usize) -> Vec<u8> {
        (at..at + 64 * 1024)
            .map(|i| (i / 64 * 31 + i / 65_536 + seed) as u8)
            .collect()
    }
    let mut machine = Machine::new();
    machine.buf_alloc = 256 * 1024;
    let mut host = machine.open_from_guest(GUEST_PORT);
    let mut reader = host.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for at in (0..TOTAL).step_by(64 * 1024) {
            host.write_all(&block(at, 1)).unwrap();
        }
        host.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let reading = std::thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        for at in (0..TOTAL).step_by(bytes.len()) {
            reader.read_exact(&mut bytes).unwrap();
            assert!(bytes == block(at, 2), "the block at {at}");
        }
        assert_eq!(reader.read(&mut bytes).unwrap(), 0);
    });

    let (mut sent, mut room, mut received) = (0, 256 * 1024, Vec::new());
    let (mut checked, mut ended, mut told) = (0, false, false);
    while !(ended && told) {
        // What the guest has not looked at yet uses its buffer up.
        while received.len() >= 64 * 1024 {
            let rest = received.split_off(64 * 1024);
            assert!(received == block(checked, 1), "the block at {checked}");
            (received, checked) = (rest, checked + 64 * 1024);
        }
        machine.fwd_cnt = checked as u32;
        machine.post_rx(QUEUE_SIZE.into(), 4096);
        if sent < TOTAL && room - sent >= 64 * 1024 {
            let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
            machine.send(data, &block(sent, 2));
            sent += 64 * 1024;
        } else if sent == TOTAL && !told {
            let mut shutdown = machine.header(GUEST_PORT, HOST_PORT, Operation::Shutdown);
            shutdown.flags = SHUTDOWN_SEND;
            machine.send(shutdown, &[]);
            told = true;
        } else {
            let update = machine.header(GUEST_PORT, HOST_PORT, Operation::CreditUpdate);
            machine.send(update, &[]);
        }
        for (header, bytes) in machine.received() {
            room = header.fwd_cnt as usize + header.buf_alloc as usize;
            received.extend(bytes);
            // Once both threads are through, the device may first say that nobody reads any
            // more, while it still has bytes to send.
            ended |= header.op == Some(Operation::Shutdown) && header.flags & SHUTDOWN_SEND != 0;
        }
        machine.device.check_bounds();
    }
    assert_eq!((checked + received.len(), sent), (TOTAL, TOTAL));
    writing.join().unwrap();
    while !reading.is_finished() {
        machine.process();
    }
    reading.join().unwrap();
}
