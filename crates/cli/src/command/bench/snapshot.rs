//! A copy of a snapshot against a start of the same program.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::own;
use super::series::{median, milliseconds};
use crate::config::Settings;
use crate::table::Table;

/// `caisson bench snapshot`.
#[derive(Debug, clap::Args)]
pub struct SnapshotFlags {
    /// Measurements of each kind
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// The image whose `sleep` is run
    #[arg(long, default_value = "busybox")]
    image: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Compares `caisson run -d IMAGE sleep` with `caisson run -d --from` of such a container.
pub fn snapshot(flags: &SnapshotFlags, settings: &Settings) -> Result<()> {
    let name = format!("caisson-bench:{}", std::process::id());
    let first = start(settings, &[&flags.image, "sleep", "100000"])?.1;
    let made = made(settings, &first, &name);
    let measured = made.and_then(|frozen| Ok((frozen, measure(flags, settings, &name)?)));
    remove(settings, &first)?;
    // There is none if it could not be made.
    let _ = said(settings, &["snapshot", "rm", &name]);
    let (frozen, (started, copied)) = measured?;
    let ratio = median(&copied).as_secs_f64() / median(&started).as_secs_f64();
    if flags.json {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let json = serde_json::json!({
            "runs": flags.runs,
            "startedMs": ms(median(&started)),
            "copiedMs": ms(median(&copied)),
            "copyToStart": ratio,
            "snapshotMs": ms(frozen),
        });
        println!("{json}");
        return Ok(());
    }
    let mut table = Table::new(["MEASURED", "MEDIAN", "MIN", "MAX"]);
    for (name, times) in [
        ("caisson run -d IMAGE sleep", &started),
        ("caisson run -d --from SNAPSHOT", &copied),
    ] {
        let shown = |time: Option<&Duration>| milliseconds(time.copied().unwrap_or_default());
        table.row([
            name,
            &milliseconds(median(times)),
            &shown(times.iter().min()),
            &shown(times.iter().max()),
        ]);
    }
    print!("{table}");
    println!(
        "copy to start: {ratio:.2} ({} runs of each, in turn); making the snapshot: {}",
        flags.runs,
        milliseconds(frozen)
    );
    Ok(())
}

fn made(settings: &Settings, container: &str, name: &str) -> Result<Duration> {
    let begin = Instant::now();
    said(settings, &["snapshot", container, name])?;
    Ok(begin.elapsed())
}

fn measure(
    flags: &SnapshotFlags,
    settings: &Settings,
    name: &str,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut started, mut copied) = (Vec::new(), Vec::new());
    // One of each to warm the host's caches, not counted.
    for number in 0..=flags.runs {
        let (start_time, first) = start(settings, &[&flags.image, "sleep", "100000"])?;
        remove(settings, &first)?;
        let (copy_time, copy) = start(settings, &["--from", name])?;
        remove(settings, &copy)?;
        if number > 0 {
            started.push(start_time);
            copied.push(copy_time);
        }
    }
    Ok((started, copied))
}

/// Starts a container; how long that took, and its id.
fn start(settings: &Settings, arguments: &[&str]) -> Result<(Duration, String)> {
    let begin = Instant::now();
    let id = said(settings, &[&["run", "-d"], arguments].concat())?;
    Ok((begin.elapsed(), id))
}

fn remove(settings: &Settings, container: &str) -> Result<()> {
    said(settings, &["rm", "-f", container]).map(drop)
}

fn said(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let output = own(settings)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run caisson")?;
    if !output.status.success() {
        bail!("`caisson {}` failed", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
