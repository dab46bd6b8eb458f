//! `file://` and `binary://`: output that is kept by a file or a program
//! (containerd's docs, runtime v2, "Logging").

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::uri::Program;
use super::{Output, Owner};
use crate::error::{Error, Result};

/// How long a program may take until it is ready, and to end after its input has.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a file for both outputs; it and the folders above it are made.
pub async fn files(path: &Path) -> Result<(Output, Output)> {
    let open = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::options().create(true).append(true).open(path)?;
        Ok::<_, std::io::Error>((file.try_clone()?, file))
    };
    let (output, error) = open().map_err(Error::path("open", path))?;
    Ok((Output::File(output.into()), Output::File(error.into())))
}

/// A program that is given output.
#[derive(Debug)]
pub struct Logger(Child);

impl Logger {
    /// Starts it and waits until it is ready: it closes descriptor 5 then.
    pub async fn start(
        program: &Program,
        owner: Owner<'_>,
    ) -> Result<(Self, pipe::Sender, pipe::Sender)> {
        let failed = || Error::path("start the logging program", &program.path);
        let (stdout, output) = new_pipe().map_err(failed())?;
        let (stderr, error) = new_pipe().map_err(failed())?;
        let (ready, told) = new_pipe().map_err(failed())?;
        let mappings =
            [(stdout, 3), (stderr, 4), (told, 5)].map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .env_clear()
            .env("CONTAINER_ID", owner.container)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
            .fd_mappings(mappings.into())
            .expect("descriptors are numbered one by one");
        let child = command.spawn().map_err(failed())?;
        // The descriptors that it was given are its own now.
        drop(command);
        let mut ready = pipe::Receiver::from_owned_fd(ready).map_err(failed())?;
        let mut byte = [0];
        match tokio::time::timeout(PATIENCE, ready.read(&mut byte)).await {
            Ok(read) => drop(read.map_err(failed())?),
            Err(_) => {
                return Err(failed()(std::io::Error::other(
                    "it did not say that it is ready",
                )));
            }
        }
        let sender = |end| pipe::Sender::from_owned_fd(end).map_err(failed());
        Ok((Self(child), sender(output)?, sender(error)?))
    }

    /// Waits for its end, after that of its input.
    pub async fn finish(mut self) {
        if tokio::time::timeout(PATIENCE, self.0.wait()).await.is_err() {
            tracing::warn!("the logging program does not end; it is killed");
            if let Err(error) = self.0.kill().await {
                tracing::warn!(%error, "cannot kill the logging program");
            }
        }
    }
}

/// Read and write end.
fn new_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}
