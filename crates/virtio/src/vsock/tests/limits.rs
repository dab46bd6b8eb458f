//! The bounds that hold whatever the guest does.

use std::io::Write;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::driver::{HOST_PORT, Machine, operations};
use crate::vsock::packet::Operation;
use crate::vsock::{MAX_CONNECTIONS, MAX_GUEST_CONNECTIONS};

fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .unwrap();
}

#[test]
fn the_guest_cannot_take_every_connection() {
    allow_many_descriptors();
    let mut machine = Machine::new();
    for port in 0..MAX_GUEST_CONNECTIONS as u32 {
        let request = machine.header(port, HOST_PORT, Operation::Request);
        machine.send(request, &[]);
    }
    assert_eq!(machine.device.connections(), MAX_GUEST_CONNECTIONS);
    machine.drain();
    let request = machine.header(70_000, HOST_PORT, Operation::Request);
    machine.send(request, &[]);
    assert_eq!(operations(&machine.drain()), [Operation::Reset]);

    let mut streams = Vec::new();
    for id in 0..=(MAX_CONNECTIONS - MAX_GUEST_CONNECTIONS) as u64 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        machine.device.connect(id, 1024, theirs.into());
        streams.push(ours);
    }
    assert_eq!(machine.device.connections(), MAX_CONNECTIONS);
    let last = (MAX_CONNECTIONS - MAX_GUEST_CONNECTIONS) as u64;
    assert_eq!(machine.device.host().refused, [last]);
}

#[test]
fn strays_are_answered_only_as_long_as_answers_can_be_kept() {
    let mut machine = Machine::new();
    let mut taken = 0;
    loop {
        let stray = machine.header(taken, 1, Operation::Data);
        machine.send(stray, &[]);
        if !machine.tx_is_empty() {
            break;
        }
        taken += 1;
        assert!(taken < 1000, "answers pile up");
    }
    assert!(taken > 64);
    // Buffers for the answers set the other queue going again, and every stray gets
    // its answer.
    let packets = machine.drain();
    assert!(machine.tx_is_empty());
    let ports: Vec<_> = packets.iter().map(|(header, _)| header.dst_port).collect();
    assert_eq!(ports, (0..=taken).collect::<Vec<_>>());
    assert!(
        operations(&packets)
            .iter()
            .all(|op| *op == Operation::Reset)
    );
}

#[test]
fn connections_that_come_and_go_without_receive_buffers_leave_nothing() {
    let mut machine = Machine::new();
    for _ in 0..5000 {
        let request = machine.header(5, HOST_PORT, Operation::Request);
        machine.send(request, &[]);
        let reset = machine.header(5, HOST_PORT, Operation::Reset);
        machine.send(reset, &[]);
        machine.device.host_mut().incoming.clear();
    }
    assert_eq!(machine.device.connections(), 0);
    assert_eq!(machine.device.queued(), 0);
}

#[test]
fn a_long_job_is_cut_and_resumed_without_a_kick() {
    let mut machine = Machine::new();
    let mut host = machine.open_from_guest(5);
    machine.device.budget = 3;
    let bytes = vec![1; 100_000];
    host.write_all(&bytes).unwrap();
    // `open_from_guest` left buffers, enough for all of it.
    let mut calls = 0;
    let mut count = 0;
    while is_readable(&machine) {
        machine.process();
        calls += 1;
        let packets = machine.received();
        assert!(packets.len() <= 3);
        count += packets.iter().map(|(_, p)| p.len()).sum::<usize>();
    }
    assert_eq!(count, bytes.len());
    assert!(calls > bytes.len() / 4096 / 3);
}

#[test]
fn a_guest_that_never_stops_sending_hears_of_room() {
    let mut machine = Machine::new();
    let _host = machine.open_from_guest(5);
    machine.device.budget = 1;
    let request = machine.header(5, HOST_PORT, Operation::CreditRequest);
    machine.send(request, &[]);
    assert_eq!(operations(&machine.received()), [Operation::CreditUpdate]);
}

/// Whether the device asks to be called.
fn is_readable(machine: &Machine) -> bool {
    let mut polled = [PollFd::new(&machine.device, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn a_full_backlog_of_the_drivers_side_refuses() {
    let mut machine = Machine::new();
    machine.device.host_mut().full = true;
    let request = machine.header(5, HOST_PORT, Operation::Request);
    machine.send(request, &[]);
    assert_eq!(operations(&machine.drain()), [Operation::Reset]);
    assert_eq!(machine.device.connections(), 0);
}
