//! `caisson bench`: measurements whose figures are ratios of one run.

mod floor;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use caisson_sandbox::timing::Timing;
use clap::Args;

use super::block_on;
use super::stats::bytes;
use crate::client;
use crate::config::Settings;
use crate::container::{Container, ContainerStore};
use crate::supervisor::control::{Request, Response, Stats};
use crate::supervisor::machine;
use crate::table::Table;

/// `caisson bench start`.
#[derive(Debug, Args)]
pub struct StartFlags {
    /// Measurements of each kind
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// The image whose `true` is run
    #[arg(long, default_value = "busybox")]
    image: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Compares a whole `caisson run --rm IMAGE true` with the floor: the same
/// machine, whose init only powers it off.
pub fn start(flags: &StartFlags, store: &ContainerStore, settings: &Settings) -> Result<()> {
    let container = idle(flags, store, settings)?;
    let measured = measure(flags, &container, settings);
    own(settings)
        .args(["rm", "-f", &container.record.id])
        .stdout(Stdio::null())
        .status()?;
    let (floors, runs, stats) = measured?;
    let (floor, run) = (median(&floors), median(&runs));
    let ratio = run.as_secs_f64() / floor.as_secs_f64();
    let size = |path: &std::path::Path| path.metadata().map(|metadata| metadata.len()).unwrap_or(0);
    let machine = &container.record.machine;
    if flags.json {
        let report = serde_json::json!({
            "runs": flags.runs, "floorMs": floor.as_secs_f64() * 1e3, "runMs": run.as_secs_f64() * 1e3,
            "ratio": ratio, "idleSandboxPssBytes": stats.host_pss_bytes, "agentRssBytes": stats.agent_rss_bytes,
            "initramfsBytes": size(&machine.initramfs), "kernelBytes": size(&machine.kernel),
        });
        println!("{report}");
        return Ok(());
    }
    let mut table = Table::new(["MEASURED", "MEDIAN", "MIN", "MAX"]);
    for (name, times) in [
        ("floor: machine that powers off", &floors),
        ("caisson run --rm true", &runs),
    ] {
        let shown = |time: Option<&Duration>| {
            format!(
                "{:.0} ms",
                time.copied().unwrap_or_default().as_secs_f64() * 1e3
            )
        };
        let mid = median(times);
        table.row([
            name,
            &shown(Some(&mid)),
            &shown(times.iter().min()),
            &shown(times.iter().max()),
        ]);
    }
    print!("{table}");
    println!(
        "ratio to the floor: {ratio:.2} ({} runs of each, in turn)",
        flags.runs
    );
    println!(
        "idle sandbox on the host: {} (PSS of all its processes)",
        bytes(stats.host_pss_bytes)
    );
    println!(
        "agent in the guest: {} resident",
        bytes(stats.agent_rss_bytes)
    );
    println!(
        "initramfs: {}, kernel: {}",
        bytes(size(&machine.initramfs)),
        bytes(size(&machine.kernel))
    );
    Ok(())
}

/// A sandbox that does nothing, as the model of the floor's machine.
fn idle(flags: &StartFlags, store: &ContainerStore, settings: &Settings) -> Result<Container> {
    let output = own(settings)
        .args(["run", "-d", &flags.image, "sleep", "100000"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start a container to measure")?;
    if !output.status.success() {
        bail!("cannot start a container to measure; `caisson doctor` may say why");
    }
    Ok(store.find(String::from_utf8_lossy(&output.stdout).trim())?)
}

type Measured = (Vec<Duration>, Vec<Duration>, Stats);

fn measure(flags: &StartFlags, container: &Container, settings: &Settings) -> Result<Measured> {
    let stats = match block_on(client::ask(container, &Request::Stats))? {
        Response::Stats(stats) => stats,
        other => bail!("the supervisor answered {other:?} to a question for statistics"),
    };
    let (mut floors, mut runs) = (Vec::new(), Vec::new());
    // One of each to warm the host's caches, not counted.
    for number in 0..=flags.runs {
        let (floor, run) = (floor(container, settings)?, run(flags, settings)?);
        if number > 0 {
            floors.push(floor);
            runs.push(run);
        }
    }
    Ok((floors, runs, stats))
}

fn run(flags: &StartFlags, settings: &Settings) -> Result<Duration> {
    let begin = Instant::now();
    let status = own(settings)
        .args(["run", "--rm", &flags.image, "true"])
        .status()?;
    if !status.success() {
        bail!("a run to be measured failed with {status}");
    }
    Ok(begin.elapsed())
}

/// The same machine, device processes and disks included, with another initramfs.
fn floor(container: &Container, settings: &Settings) -> Result<Duration> {
    let prepared = machine::prepare(container, settings, &Timing::started(Duration::ZERO))?;
    let mut vm = prepared.sandbox.vm;
    let folder = tempfile::tempdir()?;
    vm.initramfs = folder.path().join("initramfs");
    std::fs::write(&vm.initramfs, floor::initramfs())?;
    vm.run_directory = folder.path().to_owned();
    vm.console = folder.path().join("console.log");
    // The disk of the idle container stays its own.
    let scratch = folder.path().join("scratch.img");
    std::fs::File::create(&scratch)?.set_len(container.record.scratch_size)?;
    if let Some(disk) = vm.disks.last_mut() {
        disk.path = scratch;
    }
    let deadline = prepared.sandbox.boot_deadline;
    block_on(async {
        let begin = Instant::now();
        let vm = prepared.hypervisor.boot(&vm).await?;
        tokio::time::timeout(deadline, vm.wait())
            .await
            .context("the floor's machine did not power off")?;
        Ok(begin.elapsed())
    })
}

fn own(settings: &Settings) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("--root")
        .arg(&settings.root)
        .arg("--run-directory")
        .arg(&settings.run);
    command
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => Duration::ZERO,
        odd if odd % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2,
    }
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
}
