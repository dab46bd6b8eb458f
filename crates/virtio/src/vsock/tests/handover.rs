//! A device that goes on with the connections of another.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::driver::{CID, HOST_PORT, Machine, Recorder, operations};
use crate::vsock::packet::Operation;
use crate::vsock::{Standing, Vsock};

/// Ports of the guest: one that connects, one that listens.
const CALLER: u32 = 5;
const LISTENER: u32 = 1024;

/// A machine whose guest has called and been called, and what its device notes. The ends
/// of the connections are kept.
fn connected() -> (Machine, Vec<Standing>, [UnixStream; 2]) {
    let mut machine = Machine::new();
    let mut log = machine.open_from_guest(CALLER);
    let data = machine.header(CALLER, HOST_PORT, Operation::Data);
    machine.send(data, b"four");
    log.read_exact(&mut [0; 4]).unwrap();
    let calls = machine.open_from_host(1, LISTENER);
    let standing = machine.device.standing().unwrap();
    assert_eq!(standing.len(), 2);
    (machine, standing, [log, calls])
}

/// Gives the machine another device.
fn replace_device(machine: &mut Machine, known: Vec<Standing>) {
    machine.device = Vsock::new(CID, vec![HOST_PORT], Recorder::default()).unwrap();
    machine.device.take_over(known);
}

#[test]
fn what_is_written_down_is_read() {
    let (_, standing, _) = connected();
    for known in standing {
        assert_eq!(Standing::from_bytes(&known.to_bytes()), known);
    }
}

#[test]
fn the_guest_does_not_learn_of_another_device() {
    let (mut machine, standing, _ends) = connected();
    replace_device(&mut machine, standing);
    let (port, mut log) = machine.device.host_mut().incoming.pop().unwrap();
    assert_eq!(port, HOST_PORT);
    let (ours, mut calls) = UnixStream::pair().unwrap();
    machine.device.connect(9, LISTENER, ours.into());
    assert_eq!(machine.device.host().connected, [9]);
    assert!(machine.drain().is_empty(), "the guest is told nothing");

    let data = machine.header(CALLER, HOST_PORT, Operation::Data);
    machine.send(data, b"more");
    let mut more = [0; 4];
    log.read_exact(&mut more).unwrap();
    assert_eq!(&more, b"more");
    calls.write_all(b"a call").unwrap();
    let packets = machine.drain();
    assert_eq!(operations(&packets), [Operation::Data]);
    assert_eq!(packets[0].0.dst_port, LISTENER);
    assert_eq!(packets[0].1, b"a call");
    log.write_all(b"!").unwrap();
    let packets = machine.drain();
    assert_eq!(packets[0].0.fwd_cnt, 8, "the count goes on");

    // There was one only: the next is asked for.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    machine.device.connect(10, LISTENER, ours.into());
    assert_eq!(operations(&machine.drain()), [Operation::Request]);
}

#[test]
fn a_connection_that_the_guest_ends_is_not_given_out() {
    let (mut machine, standing, _ends) = connected();
    let idle = *standing
        .iter()
        .find(|known| !known.guest_initiated)
        .unwrap();
    replace_device(&mut machine, standing);
    let end = machine.header(LISTENER, idle.host_port, Operation::Shutdown);
    machine.send(end, &[]);
    assert_eq!(operations(&machine.drain()), [Operation::Reset]);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    machine.device.connect(9, LISTENER, ours.into());
    assert!(machine.device.host().connected.is_empty());
    assert_eq!(operations(&machine.drain()), [Operation::Request]);
}

#[test]
fn a_driver_that_starts_afresh_has_none() {
    let (mut machine, standing, _ends) = connected();
    replace_device(&mut machine, standing);
    machine.reset_driver();
    machine.device.reset();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    machine.device.connect(9, LISTENER, ours.into());
    assert_eq!(operations(&machine.drain()), [Operation::Request]);
}

#[test]
fn what_is_under_way_cannot_be_noted() {
    let (mut machine, _, _ends) = connected();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    machine.device.connect(9, LISTENER, ours.into());
    assert!(machine.device.standing().is_err());
}
