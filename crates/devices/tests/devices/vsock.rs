//! The socket device.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use caisson_virtio::vsock::{Header, Operation, RX_QUEUE, SHUTDOWN_SEND, TX_QUEUE, TYPE_STREAM};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::guest::{Guest, SLOTS, wait, wait_readable};
use crate::process::{Device, connection};

const CID: u64 = 7;
const HOST_PORT: u32 = 1025;
const GUEST_PORT: u32 = 40_000;
const BLOCK: usize = 64 * 1024;
const GUEST_BUFFER: u32 = 256 * 1024;

fn start() -> (Device, UnixStream, OwnedFd) {
    start_as(None)
}

fn start_as(user: Option<u32>) -> (Device, UnixStream, OwnedFd) {
    let (listener, connection) = connection();
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let arguments = [
        "vsock",
        "--cid=7",
        "--listener-fd=3",
        "--control-fd=4",
        "--host-port=1025",
    ];
    let arguments = arguments.map(Into::into).to_vec();
    let device = Device::start(arguments, vec![listener, theirs], user);
    (device, connection, ours)
}

fn header(host: u32, op: Operation, len: usize, fwd_cnt: usize) -> Header {
    Header {
        src_cid: CID,
        dst_cid: 2,
        src_port: GUEST_PORT,
        dst_port: host,
        len: len as u32,
        kind: TYPE_STREAM,
        op: Some(op),
        flags: 0,
        buf_alloc: GUEST_BUFFER,
        fwd_cnt: fwd_cnt as u32,
    }
}

fn packet(bytes: &[u8]) -> (Header, &[u8]) {
    let (header, payload) = bytes.split_first_chunk().unwrap();
    (Header::from_bytes(header), payload)
}

/// Gives the device all receive buffers.
fn post_buffers(guest: &mut Guest) {
    for slot in 0..SLOTS {
        guest.queues[RX_QUEUE].add(slot, &[], 4096);
    }
    guest.queues[RX_QUEUE].kick();
}

/// The next packet of the device; its buffer is given back.
fn receive(guest: &mut Guest) -> Vec<u8> {
    loop {
        let rx = &mut guest.queues[RX_QUEUE];
        if let Some((slot, bytes)) = rx.take() {
            rx.add(slot, &[], 4096);
            rx.kick();
            return bytes;
        }
        wait(&[rx]);
    }
}

fn send(guest: &mut Guest, header: Header, payload: &[u8]) {
    let tx = &mut guest.queues[TX_QUEUE];
    tx.add(0, &[&header.to_bytes()[..], payload].concat(), 0);
    tx.kick();
    while tx.take().is_none() {
        wait(&[tx]);
    }
}

/// A stream that the driver of the machine gets.
fn incoming(control: &OwnedFd) -> UnixStream {
    wait_readable(control);
    let mut message = [0; 13];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut message)];
    rustix::net::recvmsg(control, &mut buffers, &mut ancillary, RecvFlags::empty()).unwrap();
    assert_eq!(message[0], 3, "incoming");
    assert_eq!(message[9..], HOST_PORT.to_le_bytes());
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = ancillary.drain().next() else {
        panic!("no stream came with the message");
    };
    fds.next().unwrap().into()
}

fn open(guest: &mut Guest, control: &OwnedFd) -> UnixStream {
    send(guest, header(HOST_PORT, Operation::Request, 0, 0), &[]);
    let answer = receive(guest);
    assert_eq!(packet(&answer).0.op, Some(Operation::Response));
    incoming(control)
}

#[test]
fn it_is_jailed_and_ends_with_its_connection() {
    let (mut device, connection, _control) = start();
    let guest = Guest::new(connection);
    assert_eq!(device.root(), [""; 0]);
    assert_eq!(device.status("NoNewPrivs"), "1");
    assert_eq!(device.status("Seccomp"), "2");
    for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(device.status(set), "0000000000000000", "{set}");
    }
    drop(guest);
    let (status, words) = device.wait();
    assert!(status.success(), "{status}: {words}");
    assert_eq!(words, "");
}

#[test]
fn an_ordinary_users_device_has_no_more_rights() {
    let (mut device, connection, _control) = start_as(Some(65_534));
    let guest = Guest::new(connection);
    assert_eq!(device.status("NoNewPrivs"), "1");
    assert_eq!(device.status("Seccomp"), "2");
    assert_eq!(device.status("CapPrm"), "0000000000000000");
    drop(guest);
    let (status, words) = device.wait();
    assert!(status.success(), "{status}: {words}");
}

#[test]
fn it_ends_with_the_control_socket() {
    let (mut device, connection, control) = start();
    let _guest = Guest::new(connection);
    drop(control);
    let (status, words) = device.wait();
    assert!(status.success(), "{status}: {words}");
}

#[test]
fn a_connection_of_the_host_is_answered() {
    let (_device, connection, control) = start();
    let mut guest = Guest::new(connection);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut message = [0; 13];
    message[0] = 1;
    message[1..9].copy_from_slice(&99_u64.to_le_bytes());
    message[9..].copy_from_slice(&GUEST_PORT.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let streams = [theirs.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&streams)));
    let buffers = [IoSlice::new(&message)];
    rustix::net::sendmsg(&control, &buffers, &mut ancillary, SendFlags::empty()).unwrap();
    drop(theirs);

    post_buffers(&mut guest);
    let request = receive(&mut guest);
    let (request, _) = packet(&request);
    assert_eq!(
        (request.op, request.dst_port),
        (Some(Operation::Request), GUEST_PORT)
    );
    let response = header(request.src_port, Operation::Response, 0, 0);
    send(&mut guest, response, &[]);
    wait_readable(&control);
    let mut answer = [0; 13];
    rustix::net::recv(&control, &mut answer, RecvFlags::empty()).unwrap();
    assert_eq!((answer[0], answer[1]), (4, 99), "connected");
    (&ours).write_all(b"hello").unwrap();
    assert_eq!(packet(&receive(&mut guest)).1, b"hello");
}

#[test]
fn what_came_while_the_machine_was_paused_arrives_without_a_kick() {
    let (_device, connection, control) = start();
    let mut guest = Guest::new(connection);
    post_buffers(&mut guest);
    let mut stream = open(&mut guest, &control);
    // What the device is given from here on it is not told of.
    let taken = guest.pause();
    assert_eq!(taken.map(|at| at as u16), [1, 1]);
    stream.write_all(b"meanwhile").unwrap();
    guest.resume();
    assert_eq!(packet(&receive(&mut guest)).1, b"meanwhile");
}

/// Bytes that differ from block to block and between the directions.
fn block(number: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![seed; BLOCK];
    for (at, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&((number * BLOCK + at * 8) as u64 ^ u64::from(seed)).to_le_bytes());
    }
    bytes
}

#[test]
fn large_streams_cross_whole_both_ways_in_bounded_memory() {
    const BLOCKS: usize = 4096;
    let (mut device, connection, control) = start();
    let mut guest = Guest::new(connection);
    post_buffers(&mut guest);
    let mut writer = open(&mut guest, &control);
    let mut reader = writer.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for number in 0..BLOCKS {
            writer.write_all(&block(number, 1)).unwrap();
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let reading = std::thread::spawn(move || {
        let mut bytes = vec![0; BLOCK];
        for number in 0..BLOCKS {
            reader.read_exact(&mut bytes).unwrap();
            assert!(bytes == block(number, 2), "block {number}");
        }
        assert_eq!(reader.read(&mut bytes).unwrap(), 0);
    });

    let [rx, tx] = &mut guest.queues;
    let mut free: Vec<_> = (0..SLOTS).collect();
    let (mut sent, mut room, mut told) = (0, GUEST_BUFFER as usize, false);
    let (mut received, mut number, mut ended) = (Vec::new(), 0, false);
    let mut told_fwd_cnt = 0;
    while !ended || !told || tx.in_flight() > 0 {
        let mut idle = true;
        while let Some((slot, _)) = tx.take() {
            free.push(slot);
            idle = false;
        }
        while let Some((slot, bytes)) = rx.take() {
            let (header, payload) = packet(&bytes);
            assert_ne!(header.op, Some(Operation::Reset));
            ended |= header.op == Some(Operation::Shutdown);
            room = header.fwd_cnt as usize + header.buf_alloc as usize;
            received.extend_from_slice(payload);
            rx.add(slot, &[], 4096);
            rx.kick();
            idle = false;
        }
        while received.len() >= BLOCK {
            let rest = received.split_off(BLOCK);
            assert!(received == block(number, 1), "block {number}");
            (received, number) = (rest, number + 1);
        }
        let fwd_cnt = number * BLOCK;
        let Some(&slot) = free.last() else {
            if idle {
                wait(&[rx, tx]);
            }
            continue;
        };
        let (op, payload) = if sent < BLOCKS && (sent + 1) * BLOCK <= room {
            (Operation::Data, block(sent, 2))
        } else if sent == BLOCKS && !told {
            (Operation::Shutdown, Vec::new())
        } else if told_fwd_cnt != fwd_cnt {
            (Operation::CreditUpdate, Vec::new())
        } else {
            if idle {
                wait(&[rx, tx]);
            }
            continue;
        };
        let mut header = header(HOST_PORT, op, payload.len(), fwd_cnt);
        if op == Operation::Shutdown {
            header.flags = SHUTDOWN_SEND;
            told = true;
        }
        sent += usize::from(op == Operation::Data);
        told_fwd_cnt = fwd_cnt;
        free.pop();
        tx.add(slot, &[&header.to_bytes()[..], &payload].concat(), 0);
        tx.kick();
    }
    assert_eq!((number, sent, received.len()), (BLOCKS, BLOCKS, 0));
    writing.join().unwrap();
    reading.join().unwrap();
    let peak = device.status("RssAnon");
    let kibibytes: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes < 16 * 1024, "{peak}");
    drop(guest);
    assert!(device.wait().0.success());
}
