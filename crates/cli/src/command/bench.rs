//! `caisson bench`: measurements whose figures are ratios of one run.

mod floor;
mod many;
mod series;
mod snapshot;

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
use many::Many;
use series::{Run, Series, median, milliseconds};
pub use snapshot::{SnapshotFlags, snapshot};

/// `caisson bench start`.
#[derive(Debug, Args)]
pub struct StartFlags {
    /// Measurements of each kind
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// The image whose `true` is run
    #[arg(long, default_value = "busybox")]
    image: String,
    /// Sandboxes that run side by side when many are measured; 0 leaves that away
    #[arg(long, default_value_t = 10)]
    at_once: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Compares a whole `caisson run --rm IMAGE true`, forked and booted, with the floor:
/// the same machine, whose init only powers it off.
pub fn start(flags: &StartFlags, store: &ContainerStore, settings: &Settings) -> Result<()> {
    // The model of the floor's machine.
    let container = store.find(&idle(flags, settings, &settings.template)?)?;
    let measured = measure(flags, &container, settings);
    own(settings)
        .args(["rm", "-f", &container.record.id])
        .stdout(Stdio::null())
        .status()?;
    let measured = measured?;
    let many = match flags.at_once {
        0 => None,
        _ => Some(Many::measure(flags, store, settings)?),
    };
    let machine = &container.record.machine;
    let size = |path: &std::path::Path| path.metadata().map(|metadata| metadata.len()).unwrap_or(0);
    let (initramfs, kernel) = (size(&machine.initramfs), size(&machine.kernel));
    if flags.json {
        let mut json = measured.json(flags.runs, initramfs, kernel);
        json["many"] = many.map_or(serde_json::Value::Null, |many| many.json(flags.at_once));
        println!("{json}");
        return Ok(());
    }
    print!("{}", measured.table());
    println!(
        "fork to boot: {:.2}, fork to the floor: {:.2} ({} runs of each, in turn)",
        measured.ratio(&measured.booted),
        measured.forked.whole().as_secs_f64() / median(&measured.floors).as_secs_f64(),
        flags.runs
    );
    println!();
    print!("{}", measured.stages());
    println!();
    if let Some(many) = many {
        print!("{}", many.table(flags.at_once));
        println!();
    }
    println!(
        "idle sandbox on the host: {} (PSS of all its processes)",
        bytes(measured.stats.host_pss_bytes)
    );
    println!(
        "agent in the guest: {} resident",
        bytes(measured.stats.agent_rss_bytes)
    );
    println!("initramfs: {}, kernel: {}", bytes(initramfs), bytes(kernel));
    Ok(())
}

/// Starts a sandbox that does nothing, with `template` set as said. Returns its id.
fn idle(flags: &StartFlags, settings: &Settings, template: &str) -> Result<String> {
    let output = own(settings)
        .env("CAISSON_TEMPLATE", template)
        .args(["run", "-d", &flags.image, "sleep", "100000"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start a container to measure")?;
    if !output.status.success() {
        bail!("cannot start a container to measure; `caisson doctor` may say why");
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What a sandbox uses.
fn stats(container: &Container) -> Result<Stats> {
    match block_on(client::ask(container, &Request::Stats))? {
        Response::Stats(stats) => Ok(stats),
        other => bail!("the supervisor answered {other:?} to a question for statistics"),
    }
}

/// Everything that was measured.
struct Measured {
    floors: Vec<Duration>,
    booted: Series,
    forked: Series,
    stats: Stats,
}

fn measure(flags: &StartFlags, container: &Container, settings: &Settings) -> Result<Measured> {
    let mut measured = Measured {
        floors: Vec::new(),
        booted: Series::default(),
        forked: Series::default(),
        stats: stats(container)?,
    };
    // One of each to warm the host's caches, not counted.
    for number in 0..=flags.runs {
        let floor = floor(container, settings)?;
        let booted = Run::measure(flags, settings, "off")?;
        let forked = Run::measure(flags, settings, "auto")?;
        if number > 0 {
            measured.floors.push(floor);
            measured.booted.add(booted);
            measured.forked.add(forked);
        }
    }
    Ok(measured)
}

impl Measured {
    /// How long a forked start takes, the other being 1.
    fn ratio(&self, other: &Series) -> f64 {
        self.forked.whole().as_secs_f64() / other.whole().as_secs_f64()
    }

    fn table(&self) -> Table<4> {
        let mut table = Table::new(["MEASURED", "MEDIAN", "MIN", "MAX"]);
        for (name, times) in [
            ("floor: machine that powers off", &self.floors),
            ("caisson run --rm true, booted", &self.booted.wholes),
            ("caisson run --rm true, forked", &self.forked.wholes),
        ] {
            let shown = |time: Option<&Duration>| milliseconds(time.copied().unwrap_or_default());
            table.row([
                name,
                &milliseconds(median(times)),
                &shown(times.iter().min()),
                &shown(times.iter().max()),
            ]);
        }
        table
    }

    /// Where the time goes.
    fn stages(&self) -> Table<3> {
        let mut table = Table::new(["STAGE", "BOOTED", "FORKED"]);
        let (booted, forked) = (self.booted.stages(), self.forked.stages());
        let shown = |stages: &[(String, Duration)], name: &str| {
            let found = stages.iter().find(|(stage, _)| stage == name);
            found.map_or_else(|| "-".to_owned(), |(_, time)| milliseconds(*time))
        };
        let only_booted = booted
            .iter()
            .filter(|(name, _)| !forked.iter().any(|(other, _)| other == name));
        for (name, _) in forked.iter().chain(only_booted) {
            table.row([name, &shown(&booted, name), &shown(&forked, name)]);
        }
        table
    }

    fn json(&self, runs: usize, initramfs: u64, kernel: u64) -> serde_json::Value {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let stages = |series: &Series| -> serde_json::Map<String, serde_json::Value> {
            let stages = series.stages().into_iter();
            stages.map(|(name, time)| (name, ms(time).into())).collect()
        };
        let floor = median(&self.floors);
        serde_json::json!({
            "runs": runs,
            "floorMs": ms(floor),
            "bootedMs": ms(self.booted.whole()),
            "forkedMs": ms(self.forked.whole()),
            "forkToBoot": self.ratio(&self.booted),
            "bootToFloor": self.booted.whole().as_secs_f64() / floor.as_secs_f64(),
            "forkToFloor": self.forked.whole().as_secs_f64() / floor.as_secs_f64(),
            "bootedStagesMs": stages(&self.booted),
            "forkedStagesMs": stages(&self.forked),
            "idleSandboxPssBytes": self.stats.host_pss_bytes,
            "agentRssBytes": self.stats.agent_rss_bytes,
            "initramfsBytes": initramfs,
            "kernelBytes": kernel,
        })
    }
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
        disk.new = None;
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
