//! The socket device.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use caisson_virtio::vsock::{Header, Operation, RX_QUEUE, TX_QUEUE, TYPE_STREAM};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::guest::{Guest, SLOTS, wait, wait_readable};
use crate::process::{Device, connection};

mod streams;

const CID: u64 = 7;
const HOST_PORT: u32 = 1025;
const GUEST_PORT: u32 = 40_000;
const GUEST_BUFFER: u32 = 256 * 1024;

/// Messages of the driver.
const CONNECT: u8 = 1;
const MEMORY: u8 = 5;

/// How the device reaches the guest's memory.
#[derive(Debug, Clone, Copy)]
enum Memory {
    Mapped,
    Foreign,
}

const BOTH: [Memory; 2] = [Memory::Mapped, Memory::Foreign];

impl Memory {
    fn guest(self, connection: UnixStream) -> Guest {
        match self {
            Self::Mapped => Guest::new(connection),
            Self::Foreign => Guest::fork(connection),
        }
    }
}

/// Starts a device and sends it what it waits for.
fn start(memory: Memory) -> (Device, UnixStream, OwnedFd) {
    let (device, connection, control) = start_as(memory, None);
    if let Memory::Foreign = memory {
        tell(&control, MEMORY, 0, 0, Some(own_memory()));
    }
    (device, connection, control)
}

fn start_as(memory: Memory, user: Option<u32>) -> (Device, UnixStream, OwnedFd) {
    let (listener, connection) = connection();
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let mut arguments = vec![
        "vsock".into(),
        "--cid=7".into(),
        "--listener-fd=3".into(),
        "--control-fd=4".into(),
        "--host-port=1025".into(),
    ];
    if let Memory::Foreign = memory {
        arguments.push("--foreign-memory".into());
    }
    let device = Device::start(arguments, vec![listener, theirs], user);
    (device, connection, ours)
}

/// The memory of the VMM, which is this process.
fn own_memory() -> OwnedFd {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem");
    file.unwrap().into()
}

/// Sends the device a message of the driver.
fn tell(control: &OwnedFd, op: u8, id: u64, port: u32, descriptor: Option<OwnedFd>) {
    let mut message = [0; 13];
    message[0] = op;
    message[1..9].copy_from_slice(&id.to_le_bytes());
    message[9..].copy_from_slice(&port.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let buffers = [IoSlice::new(&message)];
    rustix::net::sendmsg(control, &buffers, &mut ancillary, SendFlags::empty()).unwrap();
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
    for memory in BOTH {
        let (mut device, connection, _control) = start(memory);
        let guest = memory.guest(connection);
        assert_eq!(device.root(), [""; 0]);
        assert_eq!(device.status("NoNewPrivs"), "1");
        assert_eq!(device.status("Seccomp"), "2");
        for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(device.status(set), "0000000000000000", "{set}");
        }
        let _memory = guest.disconnect();
        let (status, words) = device.wait();
        assert!(status.success(), "{status}: {words}");
        assert_eq!(words, "");
    }
}

#[test]
fn an_ordinary_users_device_has_no_more_rights() {
    let (mut device, connection, _control) = start_as(Memory::Mapped, Some(65_534));
    let guest = Guest::new(connection);
    assert_eq!(device.status("NoNewPrivs"), "1");
    assert_eq!(device.status("Seccomp"), "2");
    assert_eq!(device.status("CapPrm"), "0000000000000000");
    let _memory = guest.disconnect();
    let (status, words) = device.wait();
    assert!(status.success(), "{status}: {words}");
}

#[test]
fn it_ends_with_the_control_socket() {
    for memory in BOTH {
        // Even before all is known of the memory.
        let (mut device, connection, control) = start_as(memory, None);
        let _guest = memory.guest(connection);
        drop(control);
        let (status, words) = device.wait();
        assert!(status.success(), "{status}: {words}");
    }
}

#[test]
fn a_connection_of_the_host_is_answered() {
    for memory in BOTH {
        let (_device, connection, control) = start(memory);
        let mut guest = memory.guest(connection);
        let (ours, theirs) = UnixStream::pair().unwrap();
        tell(&control, CONNECT, 99, GUEST_PORT, Some(theirs.into()));

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
}

#[test]
fn what_came_while_the_machine_was_paused_arrives_without_a_kick() {
    for memory in BOTH {
        let (_device, connection, control) = start(memory);
        let mut guest = memory.guest(connection);
        post_buffers(&mut guest);
        let mut stream = open(&mut guest, &control);
        // What the device is given from here on it is not told of.
        let taken = guest.pause();
        assert_eq!(taken.map(|at| at as u16), [1, 1]);
        stream.write_all(b"meanwhile").unwrap();
        guest.resume();
        assert_eq!(packet(&receive(&mut guest)).1, b"meanwhile");
    }
}

#[test]
fn the_rings_wait_for_the_memory() {
    let (_device, connection, control) = start_as(Memory::Foreign, None);
    let mut guest = Guest::fork(connection);
    post_buffers(&mut guest);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"early").unwrap();
    tell(&control, CONNECT, 1, GUEST_PORT, Some(theirs.into()));
    // The device has heard of all that when it answers this.
    guest.pause();
    guest.resume();
    assert!(guest.queues[RX_QUEUE].take().is_none());
    tell(&control, MEMORY, 0, 0, Some(own_memory()));
    assert_eq!(packet(&receive(&mut guest)).0.op, Some(Operation::Request));
    guest.assert_template_is_whole();
}

#[test]
fn a_driver_that_starts_afresh_finds_no_old_connection() {
    for memory in BOTH {
        let (_device, connection, control) = start(memory);
        let mut guest = memory.guest(connection);
        post_buffers(&mut guest);
        let mut stream = open(&mut guest, &control);
        guest.reset_driver();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
        post_buffers(&mut guest);
        send(
            &mut guest,
            header(HOST_PORT, Operation::Data, 5, 0),
            b"stale",
        );
        assert_eq!(packet(&receive(&mut guest)).0.op, Some(Operation::Reset));
        // And can open new ones.
        let mut stream = open(&mut guest, &control);
        send(
            &mut guest,
            header(HOST_PORT, Operation::Data, 5, 0),
            b"fresh",
        );
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"fresh");
    }
}

#[test]
fn a_broken_ring_is_whole_after_a_reset() {
    for memory in BOTH {
        let (mut device, connection, control) = start(memory);
        let mut guest = memory.guest(connection);
        // At the place where a new driver starts as well.
        guest.queues[TX_QUEUE].break_it();
        let line = device.line();
        assert!(line.contains("the driver broke the tx queue"), "{line}");
        guest.reset_driver();
        post_buffers(&mut guest);
        let mut stream = open(&mut guest, &control);
        stream.write_all(b"hello").unwrap();
        assert_eq!(packet(&receive(&mut guest)).1, b"hello");
    }
}

#[test]
fn messages_that_make_no_sense_end_it() {
    let refused = |device: &mut Device, what: &str| {
        let (status, words) = device.wait();
        assert_eq!(status.code(), Some(1), "{what}: {status}: {words}");
    };
    let (mut device, _connection, control) = start(Memory::Mapped);
    tell(&control, MEMORY, 0, 0, Some(own_memory()));
    refused(&mut device, "memory that is not waited for");
    let (mut device, _connection, control) = start(Memory::Foreign);
    tell(&control, MEMORY, 0, 0, Some(own_memory()));
    refused(&mut device, "memory twice");
    let (mut device, _connection, control) = start_as(Memory::Foreign, None);
    tell(&control, MEMORY, 0, 0, None);
    refused(&mut device, "no memory");
    let (mut device, _connection, control) = start_as(Memory::Foreign, None);
    tell(&control, MEMORY, 1, 0, Some(own_memory()));
    refused(&mut device, "memory with a number");
    for memory in BOTH {
        for regions in [
            [(0, 0x2000), (0x1000, 0x1000)],
            [(0, 0x1000), (0, 0x1000)],
            [(0, 0x1000), (u64::MAX - 0xfff, 0x1000)],
        ] {
            let (mut device, connection, _control) = start(memory);
            let mut guest = memory.guest(connection);
            guest.tell_regions(&regions);
            refused(&mut device, "regions");
        }
        let (mut device, mut connection, _control) = start(memory);
        connection.write_all(&[0xff; 64]).unwrap();
        refused(&mut device, "noise");
    }
}
