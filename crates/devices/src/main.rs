//! `caisson-devices`: one device of one machine, served over vhost-user.
//!
//! The driver of the machine starts one process for each device, with a listening
//! socket to which the VMM's end is already connected. The process serves that one
//! connection and ends with it. Before it reads a byte of the guest's it gives up
//! what the device does not need: see [`jail`].

mod descriptor;
mod fs;
mod jail;
mod seccomp;
mod serve;
mod vsock;

use clap::{Parser, Subcommand};

/// Serve one device of one machine over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "caisson-devices", version)]
struct Arguments {
    #[command(subcommand)]
    device: Device,
}

#[derive(Debug, Subcommand)]
enum Device {
    /// A virtio socket device.
    Vsock(vsock::Options),
    /// A virtio file system device.
    Fs(fs::Options),
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
    match Arguments::parse().device {
        Device::Vsock(options) => vsock::run(options),
        Device::Fs(options) => fs::run(options),
    }
}
