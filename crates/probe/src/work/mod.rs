//! Work of fixed kinds, each repeated for a given time: how much of it is done in a second.
//!
//! The probe is the same program everywhere, so its own quality cancels out of a ratio.

mod file;
mod processor;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::line;

/// How often everything is measured, one after the other.
const ROUNDS: usize = 3;

/// Measures in `folder` and `volume`; false if the time is no number.
pub fn run(folder: &str, volume: &str, milliseconds: &str) -> bool {
    let Ok(milliseconds) = milliseconds.parse() else {
        return false;
    };
    let time = Duration::from_millis(milliseconds);
    for _ in 0..ROUNDS {
        processor::measure(time);
        for (place, folder) in [("rootfs", folder), ("volume", volume)] {
            if let Err(error) = file::measure(place, Path::new(folder), time) {
                line::refused(format_args!("work in {folder}"), error);
                return true;
            }
        }
    }
    line::end();
    true
}

/// Repeats `batch`, which says how much it did, and gives what was done in a second.
fn rate<E>(time: Duration, mut batch: impl FnMut() -> Result<u64, E>) -> Result<f64, E> {
    let begin = Instant::now();
    let mut done = 0;
    loop {
        done += batch()?;
        let elapsed = begin.elapsed();
        if elapsed >= time {
            return Ok(done as f64 / elapsed.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_done_over_the_time_it_took() {
        let time = Duration::from_millis(20);
        let rate = rate(time, || {
            std::thread::sleep(Duration::from_millis(5));
            Ok::<_, ()>(10)
        });
        // At most ten in five milliseconds, and the machine may be slow.
        assert!(rate.is_ok_and(|rate| rate > 0.0 && rate <= 2000.0));
    }
}
