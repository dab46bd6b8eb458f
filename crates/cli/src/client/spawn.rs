//! Starting a supervisor.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};

use crate::config::Settings;
use crate::container::Container;
use crate::supervisor::CONTROL_DESCRIPTOR;
use crate::supervisor::control::{self, Connection};

/// Starts the supervisor of a container. It waits for the first request.
pub fn spawn(container: &Container, settings: &Settings) -> Result<Connection> {
    let (ours, theirs) = control::pair().context("cannot make a socket pair")?;
    let log_path = container.supervisor_log();
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("cannot write {}", log_path.display()))?;
    // The program that runs, also if another has taken its place on disk.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("caisson")
        .arg("--root")
        .arg(&settings.root)
        .arg("--run-directory")
        .arg(&settings.run)
        .arg("--log-level")
        .arg(&settings.log_level)
        .arg("supervise")
        .arg(&container.record.id)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .fd_mappings(vec![FdMapping {
            parent_fd: theirs,
            child_fd: CONTROL_DESCRIPTOR,
        }])
        .context("cannot hand over a descriptor")?;
    command.spawn().context("cannot start the supervisor")?;
    Ok(Connection::new(ours)?)
}
