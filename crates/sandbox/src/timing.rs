//! Where each millisecond of a start went.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One step of a start or stop. Steps may overlap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Name of the step.
    pub name: String,
    /// Microseconds from the beginning of the command to that of the step.
    pub start_us: u64,
    /// Length of the step in microseconds.
    pub duration_us: u64,
}

/// Collects the stages of one command; clones share the same record.
#[derive(Debug, Clone)]
pub struct Timing {
    origin: Instant,
    stages: Arc<Mutex<Vec<Stage>>>,
}

impl Timing {
    /// A record whose zero was `since` ago, for a command that another process began.
    pub fn started(since: Duration) -> Self {
        let now = Instant::now();
        Self {
            origin: now.checked_sub(since).unwrap_or(now),
            stages: Arc::default(),
        }
    }

    /// Begins a stage that ends when the returned guard is dropped.
    pub fn stage(&self, name: &'static str) -> StageGuard<'_> {
        StageGuard {
            timing: self,
            name,
            begin: Instant::now(),
            span: tracing::info_span!("stage", name),
        }
    }

    /// Adds a stage measured elsewhere, in the guest for instance.
    pub fn add(&self, name: &str, begin: Instant, duration: Duration) {
        let stage = Stage {
            name: name.to_owned(),
            start_us: micros(begin.saturating_duration_since(self.origin)),
            duration_us: micros(duration),
        };
        tracing::debug!(
            name,
            start_us = stage.start_us,
            duration_us = stage.duration_us,
            "stage"
        );
        self.stages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stage);
    }

    /// The stages that have ended, in order of their beginning.
    pub fn stages(&self) -> Vec<Stage> {
        let mut stages = self
            .stages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // What began together is listed from the outside in.
        stages.sort_by_key(|stage| (stage.start_us, Reverse(stage.duration_us)));
        stages
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A stage that is under way.
#[derive(Debug)]
pub struct StageGuard<'a> {
    timing: &'a Timing,
    name: &'static str,
    begin: Instant,
    #[expect(dead_code, reason = "closes with the stage")]
    span: tracing::Span,
}

impl Drop for StageGuard<'_> {
    fn drop(&mut self) {
        self.timing.add(self.name, self.begin, self.begin.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_listed_by_their_beginning() {
        let timing = Timing::started(Duration::from_millis(5));
        let begin = Instant::now();
        let milliseconds = Duration::from_millis;
        timing.add("last", begin + milliseconds(2), milliseconds(1));
        timing.add("inner", begin, milliseconds(1));
        timing.add("outer", begin, milliseconds(3));
        let stages = timing.stages();
        let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["outer", "inner", "last"]);
        assert!(stages[0].start_us >= 5_000);
    }

    #[test]
    fn a_stage_lasts_as_long_as_its_guard() {
        let timing = Timing::started(Duration::ZERO);
        let outer = timing.stage("outer");
        drop(timing.stage("inner"));
        assert_eq!(timing.stages().len(), 1);
        drop(outer);
        let durations: Vec<_> = timing
            .stages()
            .iter()
            .map(|stage| stage.duration_us)
            .collect();
        assert!(durations[0] >= durations[1], "{durations:?}");
    }
}
