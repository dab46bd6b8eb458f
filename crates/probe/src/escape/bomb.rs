//! Bombs: as many processes, or as much memory, as there is. Each has a bound of its own, so that
//! a machine without limits survives it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::line;

/// How long processes spin once they are all there.
const SPINNING: Duration = Duration::from_millis(2000);

/// A step of memory.
const MIB: usize = 1 << 20;

/// Starts processes that spin until no more can be started or `bound` are there.
pub fn forks(bound: &str, token: &str) -> bool {
    let Ok(bound) = bound.parse::<usize>() else {
        return false;
    };
    line::attempt(format_args!("start {bound} processes that spin"));
    let mut children: Vec<Child> = Vec::new();
    let refusal = loop {
        if children.len() == bound {
            break None;
        }
        let child = Command::new("/proc/self/exe")
            .args(["escape", "spin", token])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => children.push(child),
            Err(error) => break Some(error),
        }
    };
    let count = children.len();
    match refusal {
        None => line::done(format_args!("{count} processes")),
        Some(error) => line::refused(format_args!("more than {count} processes"), error),
    }
    std::thread::sleep(SPINNING);
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    line::end();
    true
}

/// Keeps a processor busy, for longer than its parent lets it.
pub fn spin() -> bool {
    let begin = Instant::now();
    while begin.elapsed() < SPINNING * 10 {
        std::hint::spin_loop();
    }
    true
}

/// Lets a child take `bound` MiB, and says how far it got.
pub fn memory(bound: &str, token: &str) -> bool {
    line::attempt(format_args!("fill {bound} MiB of memory"));
    let child = Command::new("/proc/self/exe")
        .args(["escape", "fill", bound, token])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let Some(mut child) = line::outcome("start a process for it", child) else {
        line::end();
        return true;
    };
    let filled = child.stdout.take().map_or(0, |pipe| {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        lines.inspect(|line| println!("{line}")).count()
    });
    match child.wait() {
        Ok(status) if status.success() => line::done(format_args!("{filled} MiB")),
        Ok(status) => line::refused(format_args!("more than {filled} MiB"), status),
        Err(error) => line::refused("wait for it", error),
    }
    line::end();
    true
}

/// Takes memory and writes to every page of it, a line for each MiB.
pub fn fill(bound: &str) -> bool {
    let Ok(bound) = bound.parse::<usize>() else {
        return false;
    };
    let mut held: Vec<Vec<u8>> = Vec::new();
    for count in 1..=bound {
        let mut block = vec![0_u8; MIB];
        for (number, page) in block.chunks_mut(4096).enumerate() {
            // No two pages alike: a host that merges equal pages shall not save any.
            page[..8].copy_from_slice(&(count * MIB + number).to_le_bytes());
        }
        held.push(block);
        line::attempt(format_args!("fill MiB {}", count + 1));
    }
    // Held until a neighbour could notice.
    std::thread::sleep(SPINNING);
    std::hint::black_box(&held);
    true
}
