//! `caisson-devices checkpoint`: writes a VMM that stands still to files.
//!
//! A process of its own does so, as whoever traces another must wait for it in one thread,
//! and must not be taken for the one who waits for its end.

use std::fs::File;
use std::io::Write;
use std::os::fd::RawFd;

use anyhow::{Context, Result};
use caisson_checkpoint::{Given, freeze};
use clap::Args;

use crate::descriptor;

/// A VMM and where it is written.
#[derive(Debug, Args)]
pub struct Options {
    /// Process id of the VMM.
    #[arg(long, value_name = "PID")]
    process: u32,
    /// Descriptor of the VMM that a copy is given its own of.
    #[arg(long = "given", value_name = "FD")]
    given: Vec<RawFd>,
    /// Descriptor of the VMM with its guest's memory, which is written by somebody else.
    #[arg(long, value_name = "FD")]
    memory: Option<RawFd>,
    /// Pages that the VMM is itself a copy of.
    #[arg(long, value_name = "FD")]
    origin_fd: Option<RawFd>,
    /// File for what is not memory.
    #[arg(long, value_name = "FD")]
    image_fd: RawFd,
    /// File for the memory.
    #[arg(long, value_name = "FD")]
    pages_fd: RawFd,
}

/// Writes it.
pub fn run(options: &Options) -> Result<()> {
    let mut file = File::from(descriptor::take(options.image_fd, "the image")?);
    let pages = File::from(descriptor::take(options.pages_fd, "the pages")?);
    let origin = options.origin_fd;
    let origin = origin.map(|number| descriptor::take(number, "the pages of the VMM's own"));
    let origin = origin.transpose()?.map(File::from);
    let given = Given {
        descriptors: &options.given,
        memory: options.memory,
        origin: origin.as_ref(),
    };
    let image = freeze(options.process, &given, &pages).context("cannot write the VMM")?;
    let bytes = serde_json::to_vec(&image).context("cannot describe the VMM")?;
    file.write_all(&bytes).context("cannot write the image")
}
