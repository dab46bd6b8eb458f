//! `make bench`, its second half: a whole `ctr run --rm IMAGE true` with our runtime beside
//! the same with runc's and beside `caisson run`, and what the shim itself takes of it.
//!
//! All in one run and in turn: the ratios are what to compare.

use std::process::Output;
use std::time::{Duration, Instant};

use caisson_end_to_end::engine::{Containerd, IMAGE, RUNTIME, Release};
use caisson_end_to_end::{Caisson, resident, text};

/// Measurements of each kind, if no number is given.
const RUNS: usize = 10;

/// runc's runtime.
const RUNC: &str = "io.containerd.runc.v2";

fn main() {
    let number = std::env::args().nth(1);
    let runs = number.map_or(RUNS, |text| text.parse().expect("a number of runs"));
    let engine = Containerd::start(Release::Installed);
    let caisson = Caisson::new();
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    // One of each to warm the host's caches and to make the templates, not counted.
    for number in 0..=runs {
        let measured = [
            timed(|| ctr(&engine, RUNC)),
            timed(|| ctr(&engine, RUNTIME)),
            timed(|| caisson.run(["run", "--rm", "busybox", "true"])),
        ];
        if number > 0 {
            for (all, time) in times.iter_mut().zip(measured) {
                all.push(time);
            }
        }
    }
    let [runc, shim, alone] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!("MEASURED ({runs} runs of each, in turn)     MEDIAN");
    for (name, time) in [
        ("ctr run --rm true, runc", runc),
        ("ctr run --rm true, caisson", shim),
        ("caisson run --rm true", alone),
    ] {
        println!("{name:40}{time:6.1} ms");
    }
    println!(
        "ctr with caisson to runc: {:.2}, to caisson run: {:.2}",
        shim / runc,
        shim / alone
    );

    engine.detached("idle");
    let pid = engine.processes(&["containerd-shim-caisson-v2"])[0];
    let taken = processor_time(pid);
    println!(
        "the shim: {:.1} MiB resident with one container; {:.1} ms of a processor for its start, \
         {:.1} % of what ctr waits",
        f64::from(resident(pid)) / 1024.0,
        taken,
        taken / shim * 100.0
    );
    engine.run(&["task", "rm", "-f", "idle"], b"");
    engine.ok(&["container", "rm", "idle"]);
}

fn ctr(engine: &Containerd, runtime: &str) -> Output {
    engine.run(
        &["run", "--rm", "--runtime", runtime, IMAGE, "run", "true"],
        b"",
    )
}

fn timed(run: impl FnOnce() -> Output) -> Duration {
    let begin = Instant::now();
    let output = run();
    let time = begin.elapsed();
    assert!(output.status.success(), "{}", text(&output.stderr));
    time
}

/// In ms, of all its threads (the kernel's Documentation/scheduler/sched-stats.rst).
fn processor_time(pid: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanoseconds: f64 = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<f64>().ok())
        .sum();
    nanoseconds / 1e6
}
