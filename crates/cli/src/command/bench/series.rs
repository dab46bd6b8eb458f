//! Measurements of one kind.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{StartFlags, own};
use crate::config::Settings;

/// One `caisson run --rm --timing`.
#[derive(Debug)]
pub struct Run {
    whole: Duration,
    /// By the name of the stage, in order.
    stages: Vec<(String, Duration)>,
}

impl Run {
    /// Runs it with `template` set as said.
    pub fn measure(flags: &StartFlags, settings: &Settings, template: &str) -> Result<Self> {
        let mut command = own(settings);
        command
            .env("CAISSON_TEMPLATE", template)
            .args(["run", "--rm", "--timing", &flags.image, "true"])
            .stdin(Stdio::null());
        let begin = Instant::now();
        let output = command.output()?;
        let whole = begin.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!(
                "a run to be measured failed with {}: {}",
                output.status,
                said.trim()
            );
        }
        let expected = if template == "off" {
            "booted"
        } else {
            "forked"
        };
        if !said.starts_with(expected) {
            let line = said.lines().next().unwrap_or_default();
            bail!("a machine was to be measured that is {expected}, but it was {line}");
        }
        Ok(Self {
            whole,
            stages: said.lines().filter_map(stage).collect(),
        })
    }
}

/// A line of the table that `--timing` prints: name, beginning and length.
fn stage(line: &str) -> Option<(String, Duration)> {
    let (rest, length) = line.trim_end().rsplit_once(' ')?;
    let (name, begin) = rest.trim_end().rsplit_once(' ')?;
    begin.parse::<f64>().ok()?;
    let length: f64 = length.parse().ok()?;
    let length = Duration::try_from_secs_f64(length / 1e3).ok()?;
    Some((name.trim_end().to_owned(), length))
}

/// Runs of one kind.
#[derive(Debug, Default)]
pub struct Series {
    /// Times of the whole commands.
    pub wholes: Vec<Duration>,
    runs: Vec<Vec<(String, Duration)>>,
}

impl Series {
    /// Adds a run.
    pub fn add(&mut self, run: Run) {
        self.wholes.push(run.whole);
        self.runs.push(run.stages);
    }

    /// The median of the whole command.
    pub fn whole(&self) -> Duration {
        median(&self.wholes)
    }

    /// The median of each stage.
    pub fn stages(&self) -> Vec<(String, Duration)> {
        let names = self.runs.first().into_iter().flatten();
        names
            .map(|(name, _)| {
                let times: Vec<_> = self
                    .runs
                    .iter()
                    .flatten()
                    .filter(|(other, _)| other == name)
                    .map(|(_, time)| *time)
                    .collect();
                (name.clone(), median(&times))
            })
            .collect()
    }
}

/// The middle of some times.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => Duration::ZERO,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2,
    }
}

/// A time as it is shown.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let times = |list: &[u64]| {
            list.iter()
                .map(|ms| Duration::from_millis(*ms))
                .collect::<Vec<_>>()
        };
        assert_eq!(median(&times(&[9, 1, 5])), Duration::from_millis(5));
        assert_eq!(median(&times(&[4, 1, 2, 9])), Duration::from_millis(3));
    }

    #[test]
    fn stages_are_read_from_the_table() {
        let time = Duration::from_micros(52_800);
        assert_eq!(
            stage("agent: configure   141.8      52.8"),
            Some(("agent: configure".to_owned(), time))
        );
        assert_eq!(stage("STAGE   BEGIN ms   LENGTH ms"), None);
        assert_eq!(stage("forked from template 12ab; qemu with TCG: 1.3"), None);
        assert_eq!(stage(""), None);
    }
}
