//! Many sandboxes at once: how long they take together, and what they hold together.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::series::{Run, milliseconds};
use super::{StartFlags, bytes, idle, own, stats};
use crate::config::Settings;
use crate::container::ContainerStore;
use crate::table::Table;

/// What was measured of as many sandboxes as `--at-once` says.
#[derive(Debug)]
pub struct Many {
    /// Booted, one after the other: until the last has ended.
    booted_in_turn: Duration,
    /// Forked, all at once: until the last has ended.
    forked_at_once: Duration,
    /// Memory of the host that idle ones hold, booted. Bytes, PSS of all their processes, so that
    /// what several share counts once.
    booted_pss: u64,
    /// The same, forked.
    forked_pss: u64,
}

impl Many {
    /// Measures everything once.
    pub fn measure(
        flags: &StartFlags,
        store: &ContainerStore,
        settings: &Settings,
    ) -> Result<Self> {
        Ok(Self {
            booted_in_turn: in_turn(flags, settings)?,
            forked_at_once: at_once(flags, settings)?,
            booted_pss: idle_pss(flags, store, settings, "off")?,
            forked_pss: idle_pss(flags, store, settings, "auto")?,
        })
    }

    /// How long forks at once take, boots in turn being 1.
    fn time_ratio(&self) -> f64 {
        self.forked_at_once.as_secs_f64() / self.booted_in_turn.as_secs_f64()
    }

    /// What forks hold, booted ones being 1.
    fn memory_ratio(&self) -> f64 {
        self.forked_pss as f64 / self.booted_pss as f64
    }

    /// The figures, for people. `number` is how many there were.
    pub fn table(&self, number: usize) -> Table<4> {
        let mut table = Table::new(["MANY", "BOOTED", "FORKED", "RATIO"]);
        table.row([
            &format!("{number} runs: boots in turn, forks at once"),
            &milliseconds(self.booted_in_turn),
            &milliseconds(self.forked_at_once),
            &format!("{:.2}", self.time_ratio()),
        ]);
        table.row([
            &format!("{number} idle sandboxes (PSS of all their processes)"),
            &bytes(self.booted_pss),
            &bytes(self.forked_pss),
            &format!("{:.2}", self.memory_ratio()),
        ]);
        table
    }

    /// The figures, for programs.
    pub fn json(&self, number: usize) -> serde_json::Value {
        serde_json::json!({
            "number": number,
            "bootedInTurnMs": self.booted_in_turn.as_secs_f64() * 1e3,
            "forkedAtOnceMs": self.forked_at_once.as_secs_f64() * 1e3,
            "forkedToBootedTime": self.time_ratio(),
            "bootedPssBytes": self.booted_pss,
            "forkedPssBytes": self.forked_pss,
            "forkedToBootedPss": self.memory_ratio(),
        })
    }
}

fn in_turn(flags: &StartFlags, settings: &Settings) -> Result<Duration> {
    let begin = Instant::now();
    for _ in 0..flags.at_once {
        Run::measure(flags, settings, "off")?;
    }
    Ok(begin.elapsed())
}

fn at_once(flags: &StartFlags, settings: &Settings) -> Result<Duration> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let run = || Run::measure(flags, settings, "auto");
        let threads: Vec<_> = (0..flags.at_once).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            let measured = thread.join();
            measured.map_err(|_| anyhow!("a measurement panicked"))??;
        }
        Ok(begin.elapsed())
    })
}

/// Starts idle containers, asks what they hold while all of them run, and removes them.
fn idle_pss(
    flags: &StartFlags,
    store: &ContainerStore,
    settings: &Settings,
    template: &str,
) -> Result<u64> {
    let mut ids = Vec::new();
    let held = (0..flags.at_once)
        .try_for_each(|_| {
            ids.push(idle(flags, settings, template)?);
            Ok(())
        })
        .and_then(|()| {
            let held = ids
                .iter()
                .map(|id| Ok(stats(&store.find(id)?)?.host_pss_bytes));
            held.sum()
        });
    if !ids.is_empty() {
        own(settings)
            .args(["rm", "-f"])
            .args(&ids)
            .stdout(Stdio::null())
            .status()?;
    }
    held
}
