//! `make build`: the kernel and the Rust programs at the same time.

use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::agent::compiling;
use crate::progress::{Line, lines, watch};
use crate::step::{cargo, step};
use crate::{agent, artefact, image, initramfs, kernel};

/// Brings everything that `caisson` needs in `target/` up to date.
pub fn build() -> Result<()> {
    step("build", || {
        let [kernel_line, programs_line, initramfs_line, probe_line] =
            lines(["kernel", "programs", "initramfs", "probe"]);
        thread::scope(|scope| {
            let kernel = scope.spawn(|| kernel::build(&kernel_line));
            // One after the other: cargo locks its target folder.
            let rust = programs(&programs_line)
                .and_then(|()| initramfs::build(&initramfs_line))
                .and_then(|()| agent::build_probe(&probe_line));
            let kernel = kernel
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread that builds the kernel panicked")));
            rust.and(kernel)
        })?;
        // What the demo and the end-to-end tests run.
        image::write().map(drop)
    })
}

/// The programs of the host.
fn programs(line: &Line) -> Result<()> {
    let mut compiled = 0_u32;
    watch(
        line,
        &mut cargo(&[
            "build",
            "--release",
            "--workspace",
            "--exclude",
            "xtask",
            // Built on their own: they are static and optimised for size.
            "--exclude",
            "caisson-agent",
            "--exclude",
            "caisson-probe",
        ]),
        &artefact::log("programs")?,
        |output| compiling(output, &mut compiled),
    )
    .context("cannot build the programs")?;
    line.conclude("up to date");
    Ok(())
}
