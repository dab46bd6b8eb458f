//! Bombs: what a limit of the runtime is for. The victim is a neighbour on the host, who starts
//! processes meanwhile, and the host itself, which counts what reaches it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::victim::Victim;
use crate::error::{Error, Result};
use crate::statistics::Summary;

/// Processes that the neighbour starts in peace, to compare with.
const IN_PEACE: usize = 30;

/// Between two of them.
const INTERVAL: Duration = Duration::from_millis(5);

/// What is counted of the bomb's processes on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// How many there are.
    Processes,
    /// MiB that they hold.
    Memory,
}

impl Counted {
    /// Second word of the probe's child that is counted.
    fn child(self) -> &'static str {
        match self {
            Self::Processes => "spin",
            Self::Memory => "fill",
        }
    }

    fn show(self, amount: u64) -> String {
        match self {
            Self::Processes => format!("{amount} of its processes"),
            Self::Memory => format!("{amount} MiB of its memory"),
        }
    }
}

/// A neighbour of the container on the host.
pub struct Neighbour {
    counted: Counted,
    /// More of it than a limit lets through, and less than the whole bomb: a host that has much
    /// to do does not see every moment.
    much: u64,
    token: String,
    peace: Vec<f64>,
    watch: Option<Watch>,
    seen: Seen,
}

/// A thread that is the neighbour.
struct Watch {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What happened during an attack.
#[derive(Debug, Default)]
struct Seen {
    seconds: Vec<f64>,
    failures: usize,
    most: u64,
}

impl Neighbour {
    /// Lets it start some processes in peace. `bound` is as much as the bomb takes where nothing
    /// stops it, `limit` what is to stop it.
    pub fn new(counted: Counted, limit: u64, bound: u64, token: String) -> Result<Self> {
        let mut peace = Vec::new();
        for _ in 0..IN_PEACE {
            peace.push(start_and_end().map_err(|source| Error::Spawn {
                program: "true".to_owned(),
                source,
            })?);
            std::thread::sleep(INTERVAL);
        }
        Ok(Self {
            counted,
            much: u64::midpoint(limit, bound),
            token,
            peace,
            watch: None,
            seen: Seen::default(),
        })
    }
}

impl Victim for Neighbour {
    fn begin(&mut self) -> Result<()> {
        let end = Arc::new(AtomicBool::new(false));
        let (ended, counted, token) = (end.clone(), self.counted, self.token.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !ended.load(Ordering::Relaxed) {
                match start_and_end() {
                    Ok(seconds) => seen.seconds.push(seconds),
                    Err(_) => seen.failures += 1,
                }
                seen.most = seen.most.max(on_the_host(counted, &token));
                std::thread::sleep(INTERVAL);
            }
            seen
        });
        self.watch = Some(Watch { end, thread });
        Ok(())
    }

    fn damage(&mut self, _said: &str) -> Result<Option<String>> {
        if let Some(watch) = self.watch.take() {
            watch.end.store(true, Ordering::Relaxed);
            self.seen = watch.thread.join().unwrap_or_default();
        }
        let seen = &self.seen;
        if seen.failures > 0 {
            let count = seen.failures;
            return Ok(Some(format!(
                "a neighbour failed to start a process {count} times"
            )));
        }
        Ok((seen.most > self.much).then(|| {
            format!(
                "nothing stopped it in time: {} were on the host",
                self.counted.show(seen.most)
            )
        }))
    }

    fn remark(&self) -> Option<String> {
        let (before, meanwhile) = (Summary::of(&self.peace)?, Summary::of(&self.seen.seconds)?);
        let shown = |summary: Summary| {
            let (p50, p95) = (summary.p50 * 1000.0, summary.p95 * 1000.0);
            format!("{p50:.1} ms (p95 {p95:.1} ms)")
        };
        Some(format!(
            "at most {} were seen on the host; a neighbour's `true` took {} before and {} meanwhile",
            self.counted.show(self.seen.most),
            shown(before),
            shown(meanwhile)
        ))
    }

    fn reset(&mut self) -> Result<()> {
        self.seen = Seen::default();
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.end.store(true, Ordering::Relaxed);
            let _ = watch.thread.join();
        }
    }
}

/// Seconds that it takes to start a process and see its end.
fn start_and_end() -> std::io::Result<f64> {
    let begin = Instant::now();
    Command::new("true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(begin.elapsed().as_secs_f64())
}

/// What the host's kernel has of the bomb: processes with its token, or what they hold.
fn on_the_host(counted: Counted, token: &str) -> u64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| is_bomb(*pid, counted.child(), token))
        .map(|pid| match counted {
            Counted::Processes => 1,
            Counted::Memory => resident(pid) >> 20,
        })
        .sum()
}

fn is_bomb(pid: u32, child: &str, token: &str) -> bool {
    // It may have ended meanwhile.
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"escape")
        && words.next() == Some(child.as_bytes())
        && words.any(|word| word == token.as_bytes())
}

/// Bytes of memory that a process has (`VmRSS`, proc(5)).
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
