//! What the file system device knows of its guest, as the driver keeps it.
//!
//! The device writes it to a file that both have open, when it is asked to by a byte, and
//! answers with a line: empty, or why not.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::{Error, Result};

/// Asks for the state.
const SAVE: u8 = b's';

/// Longest answer.
const LINE_LIMIT: u64 = 4096;

/// How long a device may take to find or to open the files of its guest.
const DEADLINE: Duration = Duration::from_secs(60);

/// The state of a device, and the way to ask for it.
#[derive(Debug)]
pub(crate) struct State {
    file: File,
    control: BufReader<UnixStream>,
}

impl State {
    /// The file of a device that knows no guest yet.
    pub(crate) fn none() -> io::Result<File> {
        let file = rustix::fs::memfd_create("files", MemfdFlags::CLOEXEC)?;
        Ok(file.into())
    }

    pub(super) fn new(file: File, control: StdUnixStream) -> io::Result<Self> {
        control.set_nonblocking(true)?;
        Ok(Self {
            file,
            control: BufReader::new(UnixStream::from_std(control)?),
        })
    }

    /// Waits until a device has taken up the state that it was given.
    pub(crate) async fn loaded(&mut self) -> Result<()> {
        self.answer("taking up the guest's files").await
    }

    /// Has the device write its state, and returns the file. Its rings stand still.
    pub(crate) async fn save(&mut self) -> Result<&File> {
        let asked = self.control.get_mut().write_all(&[SAVE]).await;
        asked.map_err(|_| Error::Ended)?;
        self.answer("noting the guest's files").await?;
        Ok(&self.file)
    }

    async fn answer(&mut self, doing: &'static str) -> Result<()> {
        let failed = |detail: String| Error::Process {
            program: super::FS.to_owned(),
            doing,
            detail,
        };
        let mut line = String::new();
        let mut control = (&mut self.control).take(LINE_LIMIT);
        let read = tokio::time::timeout(DEADLINE, control.read_line(&mut line));
        match read.await {
            Err(_) => Err(failed(format!(
                "it took more than {} s",
                DEADLINE.as_secs()
            ))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(0)) => Err(failed("it ended".to_owned())),
            Ok(Ok(_)) => match line.trim() {
                "" => Ok(()),
                why => Err(failed(why.chars().filter(|c| !c.is_control()).collect())),
            },
        }
    }
}
