//! A guest that breaks the rules, one at a time.

use std::io::Read;

use vm_memory::{Bytes, GuestAddress};

use super::driver::{
    HOST_PORT, MEMORY_LEN, Machine, QUEUE_SIZE, RX_BUFFERS, TX_BUFFERS, operations,
};
use crate::Error;
use crate::vsock::packet::{Header, Operation};

const GUEST_PORT: u32 = 6;

#[test]
fn ports_that_nobody_opened_are_refused() {
    let mut machine = Machine::new();
    for (port, op) in [
        (HOST_PORT + 1, Operation::Request),
        (HOST_PORT, Operation::Data),
        (HOST_PORT, Operation::Response),
        (HOST_PORT, Operation::Shutdown),
        (HOST_PORT, Operation::CreditRequest),
    ] {
        let header = machine.header(GUEST_PORT, port, op);
        machine.send(header, &[]);
        let packets = machine.drain();
        assert_eq!(operations(&packets), [Operation::Reset], "{op:?}");
        assert_eq!(packets[0].0.src_port, port);
        assert_eq!(packets[0].0.dst_port, GUEST_PORT);
    }
    let header = machine.header(GUEST_PORT, HOST_PORT, Operation::Reset);
    machine.send(header, &[]);
    assert!(machine.drain().is_empty());
    assert!(machine.device.host().incoming.is_empty());
}

#[test]
fn other_types_addresses_and_senders_get_no_connection() {
    let mut machine = Machine::new();
    let request = machine.header(GUEST_PORT, HOST_PORT, Operation::Request);
    machine.send(Header { kind: 2, ..request }, &[]);
    let packets = machine.drain();
    assert_eq!(operations(&packets), [Operation::Reset]);
    assert_eq!(packets[0].0.kind, 2);

    machine.send(
        Header {
            dst_cid: 1,
            ..request
        },
        &[],
    );
    assert_eq!(operations(&machine.drain()), [Operation::Reset]);

    machine.send(
        Header {
            src_cid: 4,
            ..request
        },
        &[],
    );
    assert!(machine.drain().is_empty());
    assert!(machine.device.host().incoming.is_empty());
}

#[test]
fn more_than_the_credit_ends_the_connection() {
    let mut machine = Machine::new();
    let mut host = machine.open_from_guest(GUEST_PORT);
    let mut sent = 0;
    let packets = loop {
        let data = machine.header(GUEST_PORT, HOST_PORT, Operation::Data);
        machine.send(data, &[9; 60_000]);
        sent += 60_000;
        let packets = machine.drain();
        if operations(&packets).contains(&Operation::Reset) {
            break packets;
        }
        assert!(sent < 2 << 20, "took {sent} bytes that nobody read");
    };
    assert_eq!(operations(&packets), [Operation::Reset]);
    assert_eq!(machine.device.connections(), 0);
    // What the socket had taken is all there, then comes the end.
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() <= sent);
}

#[test]
fn packets_out_of_turn_end_the_connection() {
    for op in [Operation::Request, Operation::Response] {
        let mut machine = Machine::new();
        let _host = machine.open_from_guest(GUEST_PORT);
        let header = machine.header(GUEST_PORT, HOST_PORT, op);
        machine.send(header, &[]);
        assert_eq!(operations(&machine.drain()), [Operation::Reset], "{op:?}");
        assert_eq!(machine.device.connections(), 0);
    }
}

#[test]
fn an_unknown_operation_ends_the_connection() {
    let mut machine = Machine::new();
    let _host = machine.open_from_guest(GUEST_PORT);
    let mut bytes = machine
        .header(GUEST_PORT, HOST_PORT, Operation::Data)
        .to_bytes();
    bytes[30] = 99;
    machine.push_raw(&bytes, &[], 0);
    machine.process();
    assert_eq!(operations(&machine.drain()), [Operation::Reset]);
}

#[test]
fn a_payload_shorter_than_announced_ends_the_connection() {
    for announced in [100, 64 * 1024 + 1, u32::MAX] {
        let mut machine = Machine::new();
        let mut host = machine.open_from_guest(GUEST_PORT);
        let header = Header {
            len: announced,
            ..machine.header(GUEST_PORT, HOST_PORT, Operation::Data)
        };
        machine.push_raw(&header.to_bytes(), &[1; 99], 1);
        machine.process();
        assert_eq!(operations(&machine.drain()), [Operation::Reset]);
        assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    }
}

#[test]
fn a_packet_shorter_than_a_header_is_dropped() {
    let mut machine = Machine::new();
    machine.push_raw(&[1; 43], &[], 0);
    machine.process();
    assert!(machine.tx_is_empty());
    assert!(machine.drain().is_empty());
}

#[test]
fn buffers_outside_of_memory_are_given_back() {
    let mut machine = Machine::new();
    let outside = MEMORY_LEN as u64 - 10;
    machine
        .tx
        .write_descriptor(&machine.memory, 0, (outside, 44, 0, 0));
    machine.tx.publish(&machine.memory, 0);
    let _ = machine.process();
    assert!(machine.tx_is_empty());

    // Receive buffers: outside, of the wrong kind, too short, a loop.
    for descriptor in [
        (outside, 4096, 2, 0),
        (u64::MAX - 20, 4096, 2, 0),
        (RX_BUFFERS, 4096, 0, 0),
        (RX_BUFFERS, 43, 2, 0),
        (RX_BUFFERS, 20, 2 | 1, 0),
    ] {
        let mut machine = Machine::new();
        let stray = machine.header(GUEST_PORT, 1, Operation::Data);
        machine.send(stray, &[]);
        machine.rx.write_descriptor(&machine.memory, 0, descriptor);
        machine.rx.publish(&machine.memory, 0);
        machine.process();
    }
}

#[test]
fn an_impossible_ring_index_is_an_error() {
    let mut machine = Machine::new();
    machine.tx.set_avail_index(&machine.memory, QUEUE_SIZE + 1);
    let error = machine.try_process().unwrap_err();
    assert!(matches!(error, Error::Queue { queue: "tx", .. }), "{error}");
}

#[test]
fn nothing_outside_the_receive_buffers_is_written() {
    let mut machine = Machine::new();
    machine
        .memory
        .write_slice(&[0xa5; 0x2_0000], GuestAddress(TX_BUFFERS + 0x4_0000))
        .unwrap();
    // Two buffers back to back, the second one not given to the device.
    machine
        .memory
        .write_slice(&[0x5a; 200], GuestAddress(RX_BUFFERS + 60))
        .unwrap();
    machine
        .rx
        .write_descriptor(&machine.memory, 0, (RX_BUFFERS, 60, 2, 0));
    machine.rx.publish(&machine.memory, 0);
    let request = machine.header(GUEST_PORT, HOST_PORT, Operation::Request);
    machine.push(request, &[], 0);
    machine.process();
    let mut after = [0; 200];
    machine
        .memory
        .read_slice(&mut after, GuestAddress(RX_BUFFERS + 60))
        .unwrap();
    assert_eq!(after, [0x5a; 200]);
}
