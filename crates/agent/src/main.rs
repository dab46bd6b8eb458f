//! PID 1 of the guest: it mounts what a kernel needs around it, answers the host
//! over vsock, and makes containers.
//!
//! The process has one thread, for it forks: a child may then do anything that its
//! parent could, up to `execve`.

mod boot;
mod cgroup;
mod child;
mod configure;
mod connections;
mod container;
mod device;
mod disks;
mod error;
mod host;
mod interface;
mod listener;
mod log;
mod network;
mod process_list;
mod reaper;
mod relay;
mod resolver;
mod server;
mod standby;
mod stdio;
mod streams;
mod template;

use std::process::ExitCode;

fn main() -> ExitCode {
    let started = boot::monotonic_ns();
    if std::process::id() != 1 {
        eprintln!(
            "caisson-agent is the first process of a Caisson guest; it does nothing elsewhere"
        );
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("agent: {panic}");
        boot::restart();
    }));
    let outcome = boot::prepare()
        .map_err(|error| error.to_string())
        .and_then(|()| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| format!("cannot start the event loop: {error}"))
        })
        .and_then(|runtime| {
            runtime
                .block_on(listener::serve(started))
                .map_err(|error| error.to_string())
        });
    if let Err(error) = outcome {
        // The console is all there is; the host shows its end.
        eprintln!("agent: {error}");
    }
    boot::restart()
}
