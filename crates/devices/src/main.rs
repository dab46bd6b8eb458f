//! `caisson-devices`: the jailed processes of one machine.
//!
//! The driver of the machine starts one process for each device that is served over
//! vhost-user, with a listening socket to which the VMM's end is already connected. The
//! process serves that one connection and ends with it. Before it reads a byte of the
//! guest's it gives up what the device does not need: see [`jail`]. A VMM that cannot
//! do that for itself is executed in a jail of the same kind: see [`vmm`].

mod checkpoint;
mod descriptor;
mod fs;
mod jail;
mod seccomp;
mod serve;
mod vmm;
mod vsock;

use clap::{Parser, Subcommand};

/// Serve one device of one machine over vhost-user, or run its VMM in a jail.
#[derive(Debug, Parser)]
#[command(name = "caisson-devices", version)]
struct Arguments {
    #[command(subcommand)]
    process: Process,
}

#[derive(Debug, Subcommand)]
enum Process {
    /// A virtio socket device.
    Vsock(vsock::Options),
    /// A virtio file system device.
    Fs(fs::Options),
    /// A VMM.
    Vmm(vmm::Options),
    /// Write a VMM that stands still to files, of which others can begin as copies.
    Checkpoint(checkpoint::Options),
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .without_time()
        .init();
    match Arguments::parse().process {
        Process::Vsock(options) => vsock::run(options),
        Process::Fs(options) => fs::run(options),
        Process::Vmm(options) => match vmm::run(options)? {},
        Process::Checkpoint(options) => checkpoint::run(&options),
    }
}
