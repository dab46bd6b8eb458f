//! Much data through the socket device.

use std::io::{Read, Write};
use std::time::Instant;

use caisson_virtio::vsock::{Operation, SHUTDOWN_SEND};

use super::{BOTH, GUEST_BUFFER, HOST_PORT, Memory, header, open, packet, post_buffers, start};
use crate::guest::{SLOTS, wait};

const BLOCK: usize = 64 * 1024;

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
    for memory in BOTH {
        large_streams(memory);
    }
}

fn large_streams(memory: Memory) {
    const BLOCKS: usize = 4096;
    let (mut device, connection, control) = start(memory);
    let mut guest = memory.guest(connection);
    let begun = Instant::now();
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
            // Once both threads are through, the device may first say that nobody reads any
            // more, while it still has bytes to send.
            ended |= header.op == Some(Operation::Shutdown) && header.flags & SHUTDOWN_SEND != 0;
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
    let rate = (BLOCKS * BLOCK) as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("{memory:?} memory: {rate:.0} MB/s each way at the same time");
    if let Memory::Foreign = memory {
        guest.assert_template_is_whole();
    }
    let peak = device.status("RssAnon");
    let kibibytes: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes < 16 * 1024, "{peak}");
    let _memory = guest.disconnect();
    assert!(device.wait().0.success());
}
