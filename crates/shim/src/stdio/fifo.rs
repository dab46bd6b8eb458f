//! FIFOs, which the engine makes and both sides open.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use tokio::net::unix::pipe;

use super::{Output, Progress};
use crate::error::{Error, Result};

/// How long the engine may take to open its end of a FIFO.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(2);

/// Our own end of an input FIFO: while it is open, the engine may go and come back.
#[derive(Debug)]
pub struct WriteEnd(#[expect(dead_code, reason = "only held")] File);

/// The FIFO of an input.
#[derive(Debug)]
pub struct Input {
    /// Gives what the engine writes.
    pub receiver: pipe::Receiver,
    /// See [`WriteEnd`].
    pub write_end: WriteEnd,
}

impl Input {
    /// Opens both ends; neither waits for the other.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = || Error::path("open standard input", path);
        let receiver = pipe::OpenOptions::new()
            .open_receiver(path)
            .map_err(failed())?;
        let write_end = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(failed())?;
        Ok(Self {
            receiver,
            write_end: WriteEnd(write_end),
        })
    }
}

/// Opens an output once somebody reads it. A file takes it at once.
pub async fn output(path: &Path) -> Result<Output> {
    let failed = || Error::path("open standard output", path);
    let metadata = std::fs::metadata(path).map_err(failed())?;
    if !metadata.file_type().is_fifo() {
        let file = File::options().append(true).open(path).map_err(failed())?;
        return Ok(Output::File(file.into()));
    }
    let opened = async {
        loop {
            match pipe::OpenOptions::new().open_sender(path) {
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                    tokio::time::sleep(PAUSE).await;
                }
                opened => return opened,
            }
        }
    };
    let sender = tokio::time::timeout(PATIENCE, opened)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("nobody reads it")))
        .map_err(failed())?;
    // With a reader of our own, the FIFO does not break while the engine restarts: the
    // process waits when it is full, and nothing is lost.
    let whole = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed())?;
    Ok(Output::Fifo(sender, whole))
}

/// Waits until a FIFO has been read empty. An engine that learns of a process's end
/// may stop to read (containerd 2's ctr does); one that restarts begins again.
pub async fn emptied(whole: &File, progress: &Progress) {
    let mut before = None;
    loop {
        match rustix::io::ioctl_fionread(whole) {
            Ok(0) | Err(_) => return,
            Ok(left) => {
                if before.replace(left) != Some(left) {
                    progress.moved();
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
