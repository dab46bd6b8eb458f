//! `containerd-shim-caisson-v2`: the front door for containerd, and with it for ctr,
//! nerdctl, Docker and Kubernetes.
//!
//! A shim translates containerd's Task service into calls of the sandbox library, as the
//! `caisson` command translates flags. One process serves one sandbox: a container, or all
//! containers of a pod. It is started by `start`, which tells containerd the address of
//! its socket, and outlives containerd.

mod address;
mod arguments;
mod bootstrap;
mod bundle;
mod cgroup;
mod checkpoint;
mod container;
mod daemon;
mod delete;
mod description;
mod disk;
mod error;
mod events;
mod hooks;
mod info;
mod log;
mod metrics;
mod namespace;
mod network;
mod pod;
mod process;
mod rootfs;
mod service;
mod start;
mod stdio;
mod translate;
mod tree;

use std::process::ExitCode;

use arguments::{Action, Arguments};
use error::Result;

/// Name under which containerd knows the runtime.
const RUNTIME: &str = "io.containerd.caisson.v2";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What `start` writes here is what the engine shows to its user.
            eprintln!("{RUNTIME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = Arguments::parse(std::env::args_os().skip(1))?;
    match arguments.action {
        Action::Version => {
            print!("{}", info::version());
            Ok(())
        }
        Action::Info => info::print(),
        Action::Start => start::start(&arguments),
        Action::Delete => delete::delete(&arguments),
        Action::Serve => daemon::serve(&arguments),
    }
}
