//! Programs that run in guests and containers: the agent and the probe of the comparison, each
//! one static program.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::artefact;
use crate::progress::{Line, watch};
use crate::step::{cargo, target};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What caisson compare runs in containers; its artefact has the same name.
const PROBE: &str = "caisson-probe";

/// Where cargo leaves the agent.
pub fn path() -> PathBuf {
    left("caisson-agent")
}

/// Builds the agent.
pub fn build(line: &Line) -> Result<()> {
    compile("caisson-agent", "agent", line)
}

/// Builds the probe: `target/guest/caisson-probe`.
pub fn build_probe(line: &Line) -> Result<()> {
    compile(PROBE, "probe", line)?;
    artefact::copy_program(&left(PROBE), PROBE).map(drop)
}

fn left(package: &str) -> PathBuf {
    target().join(TRIPLE).join("guest").join(package)
}

/// Against glibc, linked statically: neither an initramfs nor any image has libraries for it.
fn compile(package: &str, log: &str, line: &Line) -> Result<()> {
    let mut compiled = 0_u32;
    watch(
        line,
        cargo(&[
            "build",
            "--profile",
            "guest",
            "--package",
            package,
            "--target",
            TRIPLE,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"),
        &artefact::log(log)?,
        |output| compiling(output, &mut compiled),
    )?;
    let path = left(package);
    let size = path
        .metadata()
        .with_context(|| format!("cargo left no {}", path.display()))?
        .len();
    if size == 0 {
        bail!("{} is empty", path.display());
    }
    line.conclude(format!("{} KiB", size >> 10));
    Ok(())
}

/// What to show of a line that cargo prints.
pub fn compiling(output: &str, compiled: &mut u32) -> Option<String> {
    let (action, item) = output.trim_start().split_once(' ')?;
    match action {
        "Compiling" => {
            *compiled += 1;
            Some(format!("{compiled} crates: {item}"))
        }
        "Downloading" | "Downloaded" | "Updating" | "Blocking" => Some(output.trim().to_owned()),
        _ => None,
    }
}
