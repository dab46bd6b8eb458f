//! Random guests, hosts and rings.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{
    HOST_PORT, MEMORY_LEN, Machine, QUEUE_SIZE, RX_BUFFERS, RX_RING, TX_BUFFERS, TX_RING,
};
use crate::vsock::packet::{Header, Operation};

/// One thing that guest or host does.
#[derive(Debug, Clone)]
enum Step {
    /// The guest sends a packet whose announced length may be a lie.
    Packet {
        header: Header,
        raw_op: u16,
        payload: usize,
    },
    Buffers {
        count: usize,
        len: u32,
    },
    HostConnects {
        port: u32,
    },
    HostWrites {
        which: usize,
        len: usize,
    },
    HostReads {
        which: usize,
        len: usize,
    },
    HostCloses {
        which: usize,
    },
    HostHalfCloses {
        which: usize,
    },
    Reset,
}

fn header() -> impl Strategy<Value = Header> {
    (
        prop_oneof![20 => Just(3u64), 1 => any::<u64>()],
        prop_oneof![20 => Just(2u64), 1 => any::<u64>()],
        0u32..4,
        prop_oneof![8 => Just(HOST_PORT), 8 => (1u32 << 30)..(1 << 30) + 4, 1 => any::<u32>()],
        prop_oneof![20 => Just(1u16), 1 => any::<u16>()],
        any::<u32>(),
        prop_oneof![Just(0u32), Just(1 << 18), any::<u32>()],
        prop_oneof![Just(0u32), 0u32..100_000, any::<u32>()],
        prop_oneof![20 => Just(None), 1 => any::<u32>().prop_map(Some)],
    )
        .prop_map(
            |(src_cid, dst_cid, src_port, dst_port, kind, flags, buf_alloc, fwd_cnt, len)| Header {
                src_cid,
                dst_cid,
                src_port,
                dst_port,
                len: len.unwrap_or(u32::MAX),
                kind,
                op: None,
                flags,
                buf_alloc,
                fwd_cnt,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0usize..8;
    prop_oneof![
        10 => (header(), prop_oneof![20 => 1u16..8, 1 => any::<u16>()], 0usize..66_000)
            .prop_map(|(header, raw_op, payload)| Step::Packet { header, raw_op, payload }),
        5 => (1usize..16, prop_oneof![Just(4096u32), 0u32..200])
            .prop_map(|(count, len)| Step::Buffers { count, len }),
        2 => (0u32..4).prop_map(|port| Step::HostConnects { port }),
        4 => (which.clone(), 0usize..100_000)
            .prop_map(|(which, len)| Step::HostWrites { which, len }),
        4 => (which.clone(), 1usize..300_000)
            .prop_map(|(which, len)| Step::HostReads { which, len }),
        1 => which.clone().prop_map(|which| Step::HostCloses { which }),
        1 => which.prop_map(|which| Step::HostHalfCloses { which }),
        1 => Just(Step::Reset),
    ]
}

fn machine(foreign: bool) -> Machine {
    if foreign {
        Machine::foreign()
    } else {
        Machine::new()
    }
}

fn play(machine: &mut Machine, step: Step, hosts: &mut Vec<UnixStream>, next_id: &mut u64) {
    let pick =
        |which: usize, hosts: &Vec<UnixStream>| (!hosts.is_empty()).then(|| which % hosts.len());
    match step {
        Step::Packet {
            header,
            raw_op,
            payload,
        } => {
            if !machine.tx_is_empty() {
                // The device waits for room for answers.
                machine.post_rx(QUEUE_SIZE.into(), 4096);
                machine.process();
                machine.take_raw();
            }
            let len = if header.len == u32::MAX {
                payload as u32
            } else {
                header.len
            };
            let mut bytes = Header { len, ..header }.to_bytes();
            bytes[30..32].copy_from_slice(&raw_op.to_le_bytes());
            machine.push_raw(&bytes, &vec![0x77; payload], 1 + payload % 5);
        }
        Step::Buffers { count, len } => machine.post_rx(count, len),
        Step::HostConnects { port } => {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            machine.device.connect(*next_id, port, theirs.into());
            *next_id += 1;
            hosts.push(ours);
        }
        Step::HostWrites { which, len } => {
            if let Some(which) = pick(which, hosts) {
                let _ = hosts[which].write(&vec![0x88; len]);
            }
        }
        Step::HostReads { which, len } => {
            if let Some(which) = pick(which, hosts) {
                let _ = hosts[which].read(&mut vec![0; len]);
            }
        }
        Step::HostCloses { which } => {
            if let Some(which) = pick(which, hosts) {
                hosts.swap_remove(which);
            }
        }
        Step::HostHalfCloses { which } => {
            if let Some(which) = pick(which, hosts) {
                let _ = hosts[which].shutdown(std::net::Shutdown::Write);
            }
        }
        Step::Reset => {
            machine.device.reset();
            machine.reset_driver();
        }
    }
    machine.process();
    machine.take_raw();
    for (_, stream) in machine.device.host_mut().incoming.drain(..) {
        stream.set_nonblocking(true).unwrap();
        hosts.push(stream);
    }
    machine.device.check_bounds();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    /// Whatever guest and host do, every bound holds and every request of the host
    /// gets exactly one answer at most.
    #[test]
    fn any_sequence_keeps_the_bounds(foreign in any::<bool>(), steps in vec(step(), 1..80)) {
        let mut machine = machine(foreign);
        let mut hosts = Vec::new();
        let mut next_id = 0;
        for step in steps {
            play(&mut machine, step, &mut hosts, &mut next_id);
        }
        let host = machine.device.host();
        let mut answers: Vec<_> = host.connected.iter().chain(&host.refused).collect();
        answers.sort_unstable();
        let count = answers.len();
        answers.dedup();
        prop_assert_eq!(answers.len(), count);
    }

    /// Rings full of noise are an error or nothing, and nothing but used rings and
    /// descriptors' own targets may change: memory that no descriptor can reach stays.
    #[test]
    fn any_ring_is_survived(
        foreign in any::<bool>(),
        tables in vec((any::<u64>(), 0u32..200_000, 0u16..8, 0u16..40), 2 * QUEUE_SIZE as usize),
        heads in vec(0u16..40, 2 * QUEUE_SIZE as usize),
        indexes in (0u16..40, 0u16..40),
        noise in vec(any::<u8>(), 44),
    ) {
        let mut machine = machine(foreign);
        let _host = machine.open_from_guest(1);
        let stray = machine.header(2, 1, Operation::Data);
        machine.send(stray, &[]);
        machine.memory.write_slice(&noise, GuestAddress(TX_BUFFERS)).unwrap();
        let size = usize::from(QUEUE_SIZE);
        for (index, (address, len, flags, next)) in tables.into_iter().enumerate() {
            // Half of the addresses lie in the memory, away from the guarded page.
            let address = if address % 2 == 0 {
                address
            } else {
                RX_BUFFERS + address % (MEMORY_LEN as u64 - RX_BUFFERS)
            };
            let ring = if index < size { &machine.rx } else { &machine.tx };
            ring.write_descriptor(&machine.memory, (index % size) as u16, (address, len, flags, next));
        }
        for (index, head) in heads.into_iter().enumerate() {
            let base = if index < size { RX_RING } else { TX_RING };
            let slot = base + 0x1004 + 2 * (index % size) as u64;
            machine.memory.write_obj(head, GuestAddress(slot)).unwrap();
        }
        let guard = GuestAddress(0x8_0000);
        machine.memory.write_slice(&[0xee; 4096], guard).unwrap();
        machine.rx.set_avail_index(&machine.memory, indexes.0);
        machine.tx.set_avail_index(&machine.memory, indexes.1);
        let _ = machine.try_process();
        machine.device.check_bounds();
        let mut page = [0; 4096];
        machine.memory.read_slice(&mut page, guard).unwrap();
        prop_assert!(page.iter().all(|byte| *byte == 0xee));
    }

    /// With a guest that keeps the rules, any interleaving of buffers, reads and
    /// writes delivers both streams byte for byte.
    #[test]
    fn streams_arrive_whole_under_any_schedule(
        foreign in any::<bool>(),
        schedule in vec((0u8..4, 1usize..70_000), 1..200),
        guest_buffer in prop_oneof![Just(300u32), Just(70_000u32), Just(256 * 1024u32)],
        total in 1usize..600_000,
    ) {
        let down: Vec<u8> = (0..total).map(|i| (i * 7 + i / 255) as u8).collect();
        let up: Vec<u8> = (0..total).map(|i| (i * 13 + i / 253) as u8).collect();
        let mut machine = machine(foreign);
        machine.buf_alloc = guest_buffer;
        let mut host = machine.open_from_guest(9);
        host.set_nonblocking(true).unwrap();
        let (mut written, mut read) = (0, Vec::new());
        let (mut sent, mut received) = (0usize, Vec::new());
        let (mut buf_alloc, mut fwd_cnt) = (256 * 1024u32, 0u32);
        let (mut told_up, mut told_down) = (false, false);
        let finish = (0..100_000usize).map(|i| ((i % 4) as u8, 54_321));
        for (action, size) in schedule.into_iter().chain(finish) {
            match action {
                0 if written < down.len() => {
                    match host.write(&down[written..(written + size).min(down.len())]) {
                        Ok(count) => written += count,
                        Err(error) => prop_assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    }
                }
                0 if !told_down => {
                    host.shutdown(std::net::Shutdown::Write).unwrap();
                    told_down = true;
                }
                1 => {
                    let mut buffer = vec![0; size];
                    if let Ok(count) = host.read(&mut buffer) {
                        read.extend_from_slice(&buffer[..count]);
                    }
                }
                2 => machine.post_rx(1 + size % 7, 45 + (size as u32 % 5000)),
                3 => {
                    let free = buf_alloc as usize - (sent - fwd_cnt as usize);
                    let count = size.min(free).min(up.len() - sent).min(64 * 1024);
                    machine.fwd_cnt = received.len() as u32;
                    let mut header = machine.header(9, HOST_PORT, Operation::CreditUpdate);
                    if count > 0 {
                        header.op = Some(Operation::Data);
                    } else if sent == up.len() && !told_up {
                        header.op = Some(Operation::Shutdown);
                        header.flags = 2;
                        told_up = true;
                    }
                    machine.push(header, &up[sent..sent + count], 1 + size % 3);
                    sent += count;
                }
                _ => {}
            }
            machine.process();
            for (header, bytes) in machine.received() {
                (buf_alloc, fwd_cnt) = (header.buf_alloc, header.fwd_cnt);
                prop_assert!(header.op != Some(Operation::Reset));
                received.extend(bytes);
            }
            if received.len() == down.len() && read.len() == up.len() && told_up && told_down {
                break;
            }
        }
        prop_assert!(received == down, "{} of {} bytes down", received.len(), down.len());
        prop_assert!(read == up, "{} of {} bytes up", read.len(), up.len());
    }
}
