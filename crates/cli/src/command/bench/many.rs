//! Many sandboxes at once: how long they take together, and what they hold together.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::series::milliseconds;
use super::{StartFlags, block_on, bytes, own};
use crate::client;
use crate::config::Settings;
use crate::container::ContainerStore;
use crate::supervisor::control::{Request, Response};
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
        let status = short(flags, settings, "off").status()?;
        if !status.success() {
            bail!("a run to be measured ended with {status}");
        }
    }
    Ok(begin.elapsed())
}

fn at_once(flags: &StartFlags, settings: &Settings) -> Result<Duration> {
    let begin = Instant::now();
    let children = (0..flags.at_once)
        .map(|_| short(flags, settings, "auto").spawn())
        .collect::<Vec<_>>();
    // All are waited for, whatever becomes of one of them.
    let statuses: Vec<_> = children
        .into_iter()
        .map(|child| child.and_then(|mut child| child.wait()))
        .collect();
    let elapsed = begin.elapsed();
    for status in statuses {
        let status = status.context("cannot start a run to be measured")?;
        if !status.success() {
            bail!("a run to be measured ended with {status}");
        }
    }
    Ok(elapsed)
}

/// A whole start of a program that does nothing.
fn short(flags: &StartFlags, settings: &Settings, template: &str) -> Command {
    let mut command = own(settings);
    command
        .env("CAISSON_TEMPLATE", template)
        .args(["run", "--rm", &flags.image, "true"])
        .stdin(Stdio::null());
    command
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
            let output = own(settings)
                .env("CAISSON_TEMPLATE", template)
                .args(["run", "-d", &flags.image, "sleep", "100000"])
                .stderr(Stdio::inherit())
                .output()?;
            if !output.status.success() {
                bail!("cannot start a container to measure; `caisson doctor` may say why");
            }
            ids.push(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            Ok(())
        })
        .and_then(|()| ids.iter().map(|id| pss(id, store)).sum());
    if !ids.is_empty() {
        own(settings)
            .args(["rm", "-f"])
            .args(&ids)
            .stdout(Stdio::null())
            .status()?;
    }
    held
}

fn pss(id: &str, store: &ContainerStore) -> Result<u64> {
    let container = store.find(id)?;
    match block_on(client::ask(&container, &Request::Stats))? {
        Response::Stats(stats) => Ok(stats.host_pss_bytes),
        other => bail!("the supervisor answered {other:?} to a question for statistics"),
    }
}
