//! Frequency of the time stamp counter.
//!
//! A guest under TCG reads the host's counter but has no clock to calibrate it
//! against that TCG models well enough, so it is told.

use std::io;
use std::time::{Duration, Instant};

/// Long enough that one microsecond of delay between the two clocks is one part
/// in ten thousand, far below the 500 ppm at which a guest's clock source
/// watchdog would mind.
const INTERVAL: Duration = Duration::from_millis(10);

/// How often a pair of readings is taken to find one that nothing interrupted.
const TRIES: usize = 16;

/// Measures the counter's frequency in kHz.
pub(super) fn frequency() -> io::Result<u32> {
    let (started, first) = reading();
    std::thread::sleep(INTERVAL);
    let (ended, last) = reading();
    let nanoseconds = ended.duration_since(started).as_nanos();
    let ticks = u128::from(last.saturating_sub(first));
    u32::try_from(ticks * 1_000_000 / nanoseconds)
        .ok()
        .filter(|khz| *khz >= 1_000)
        .ok_or_else(|| {
            io::Error::other(format!(
                "the time stamp counter makes no sense: {ticks} ticks in {nanoseconds} ns"
            ))
        })
}

/// Both clocks at nearly one moment: the pair with the fewest ticks in between.
fn reading() -> (Instant, u64) {
    let mut best = (Instant::now(), 0);
    let mut least = u64::MAX;
    for _ in 0..TRIES {
        let before = counter();
        let now = Instant::now();
        let after = counter();
        if after.saturating_sub(before) < least {
            least = after.saturating_sub(before);
            best = (now, before + least / 2);
        }
    }
    best
}

fn counter() -> u64 {
    // SAFETY: RDTSC has no operands and touches no memory; it is in every x86-64 CPU.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_measurements_agree() {
        let first = super::frequency().expect("measured");
        let second = super::frequency().expect("measured");
        assert!(
            first.abs_diff(second) < first / 1000,
            "{first} kHz, then {second} kHz"
        );
    }
}
