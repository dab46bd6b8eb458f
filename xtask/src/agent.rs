//! The guest's agent: one static program.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::artefact;
use crate::progress::{Line, watch};
use crate::step::{cargo, target};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Where cargo leaves it.
pub fn path() -> PathBuf {
    target().join(TRIPLE).join("guest/caisson-agent")
}

/// Builds it: against glibc, linked statically, as nothing else is in the initramfs.
pub fn build(line: &Line) -> Result<()> {
    let mut compiled = 0_u32;
    watch(
        line,
        cargo(&[
            "build",
            "--profile",
            "guest",
            "--package",
            "caisson-agent",
            "--target",
            TRIPLE,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"),
        &artefact::log("agent")?,
        |output| compiling(output, &mut compiled),
    )?;
    let path = path();
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
