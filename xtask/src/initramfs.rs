//! The initramfs: the agent and the console it needs before it mounts devtmpfs.

use std::fs;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::progress::Line;
use crate::{agent, artefact};

/// Builds the agent and packs it.
///
/// Not compressed: the host copies 4 MiB in a millisecond, a guest under
/// emulation takes many to unpack them.
pub fn build(line: &Line) -> Result<()> {
    agent::build(line)?;
    let path = agent::path();
    let agent = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut archive = Archive::default();
    archive.directory("dev", 0o755);
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, &agent);
    let bytes = archive.finish();
    artefact::write("initramfs", &bytes)?;
    line.conclude(format!("{} KiB", bytes.len() >> 10));
    Ok(())
}
