//! Memory that the host gives for a container besides its work.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::{DEADLINE, ID};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::model::{Cell, Row, Subject, Unit};
use crate::runtime::{Container, Running, Runtime};

use super::super::probe::{IN_CONTAINER, Probe};

/// After a start, until nobody works any more.
const SETTLING: Duration = Duration::from_secs(1);

/// The row.
pub fn row(context: &Context<'_>, probe: &Probe, starts: usize) -> Result<Row> {
    let mut row = Row::new(
        format!("{ID}/overhead"),
        "Memory of the host for a container",
    );
    row.command = "awk '/^Pss:/ { kB += $2 } END { print kB }' /proc/PID/smaps_rollup, for each \
                   process of the runtime"
        .to_owned();
    row.shows =
        "The proportional set size (Pss, proc(5)) of every process that the host has because \
                 of one container that sleeps: shims, virtual machine, device processes, and the \
                 container's own process, a megabyte. The engine is not among them."
            .to_owned();
    row.does_not_show =
        "The kernel's own memory, and files in its cache. Pages that several machines \
                         share are counted for each in its part, so a second machine costs less."
            .to_owned();
    row.cells.insert(
        Subject::Host,
        Cell::skipped("nothing is there without a container"),
    );
    context.name_absent(&mut row);
    for runtime in &context.runtimes.present {
        let cell = cell(context, probe, runtime, starts, &row.id)?;
        row.cells.insert(runtime.kind.into(), cell);
    }
    row.relate_to(Subject::Runc);
    Ok(row)
}

fn cell(
    context: &Context<'_>,
    probe: &Probe,
    runtime: &Runtime,
    starts: usize,
    row: &str,
) -> Result<Cell> {
    // Sleeps for ten minutes, without a need for any program of the image.
    let mut container = Container::new(context.image, [IN_CONTAINER, "canary", "sleeps"]);
    container.mounts = vec![probe.mount()];
    container.deadline = DEADLINE;
    let (mut samples, mut parts) = (Vec::new(), BTreeMap::new());
    let (mut command, mut raw) = (String::new(), String::new());
    for _ in 0..starts {
        let running = match runtime.start(&container) {
            Ok(running) => running,
            Err(Error::NotStarted { outcome, .. }) => {
                let raw = context.keep(row, runtime.kind.into(), &outcome)?;
                return Ok(crate::context::failed(&outcome).with_raw(raw));
            }
            Err(error) => return Err(error),
        };
        if let Some(outcome) = running.outcome() {
            raw = context.keep(row, runtime.kind.into(), outcome)?;
            command.clone_from(&outcome.command);
        }
        std::thread::sleep(SETTLING);
        match memory(&running) {
            Ok(found) => parts = found,
            Err(reason) => return Ok(Cell::failed(None, reason)),
        }
        samples.push(parts.values().sum::<u64>() as f64);
    }
    let shown: Vec<String> = parts
        .iter()
        .map(|(name, bytes)| format!("{name} {:.1} MiB", *bytes as f64 / f64::from(1 << 20)))
        .collect();
    Ok(Cell::measured(Unit::Bytes, samples)
        .with_command(command)
        .with_note(shown.join(", "))
        .with_raw(raw))
}

/// Bytes by the names of processes.
fn memory(running: &Running) -> std::result::Result<BTreeMap<String, u64>, String> {
    let mut parts = BTreeMap::new();
    for pid in running.processes() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let path = format!("/proc/{pid}/smaps_rollup");
        // A process may have ended meanwhile; one that is there must be counted.
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) if !fs::exists(format!("/proc/{pid}")).unwrap_or(true) => continue,
            Err(error) => return Err(format!("cannot read {path}: {error}")),
        };
        let bytes = proportional(&text).ok_or_else(|| format!("{path} has no Pss"))?;
        *parts.entry(name.trim().to_owned()).or_default() += bytes;
    }
    if parts.is_empty() {
        return Err("no process of the container was found on the host".to_owned());
    }
    Ok(parts)
}

/// The sum that `smaps_rollup` gives (proc_pid_smaps(5)).
fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proportional_size_is_read() {
        let text = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    1000 kB\nPss:     812 kB\n\
                    Pss_Dirty:  90 kB\n";
        assert_eq!(proportional(text), Some(812 << 10));
        assert_eq!(proportional("Rss: 1 kB\n"), None);
        let own = fs::read_to_string("/proc/self/smaps_rollup").expect("our own");
        assert!(proportional(&own).is_some_and(|bytes| bytes > 4096));
    }
}
