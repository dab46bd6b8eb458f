//! Bytes between the host's streams and a process.

use std::os::fd::{AsRawFd, OwnedFd};

use caisson_protocol::agent::Stdio;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio_vsock::{OwnedReadHalf, OwnedWriteHalf, VsockStream};

use crate::child::{StandardStreams, TerminalSize, nothing};
use crate::error::{Error, Result};
use crate::streams::Streams;

/// Bytes moved at a time: the largest vsock packet, and a pipe's whole room.
const CHUNK: usize = 64 << 10;

/// The host's streams for one process, and the process's ends of them until it has
/// them.
#[derive(Debug)]
pub struct Connections {
    terminal: Option<VsockStream>,
}

/// Takes the streams that the request names. Returns what the process is given.
pub async fn connect(streams: &Streams, stdio: &Stdio) -> Result<(Connections, StandardStreams)> {
    let stdin = streams.take(stdio.stdin).await?;
    if stdio.terminal {
        let size = TerminalSize {
            rows: u16::try_from(stdio.rows).unwrap_or(0),
            columns: u16::try_from(stdio.columns).unwrap_or(0),
        };
        let connections = Connections { terminal: stdin };
        return Ok((connections, StandardStreams::Terminal(size)));
    }
    let stdout = streams.take(stdio.stdout).await?;
    let stderr = streams.take(stdio.stderr).await?;
    let descriptors = [input(stdin)?, output(stdout)?, output(stderr)?];
    let connections = Connections { terminal: None };
    Ok((connections, StandardStreams::Descriptors(descriptors)))
}

impl Connections {
    /// Joins the host's stream to the terminal that the process has made.
    pub fn join(self, master: &OwnedFd) -> Result<()> {
        let Some(stream) = self.terminal else {
            return Ok(());
        };
        let open = || -> Result<Terminal> { Terminal::new(master) };
        let (from_host, to_host) = stream.into_split();
        tokio::spawn(terminal_output(open()?, to_host));
        tokio::spawn(terminal_input(from_host, open()?));
        Ok(())
    }
}

/// A pipe that the host's stream is written into.
fn input(stream: Option<VsockStream>) -> Result<OwnedFd> {
    let Some(stream) = stream else {
        return nothing();
    };
    let (read, write) = new_pipe()?;
    let writer =
        pipe::Sender::from_owned_fd(write).map_err(Error::system("use a pipe for input"))?;
    tokio::spawn(relay(stream, writer));
    Ok(read)
}

/// A pipe that is read into the host's stream.
fn output(stream: Option<VsockStream>) -> Result<OwnedFd> {
    let Some(stream) = stream else {
        return nothing();
    };
    let (read, write) = new_pipe()?;
    let reader =
        pipe::Receiver::from_owned_fd(read).map_err(Error::system("use a pipe for output"))?;
    tokio::spawn(relay(reader, stream));
    Ok(write)
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::system("make a pipe"))
}

/// Moves bytes until either side closes; both are closed then, so that each side
/// learns of the other's end.
async fn relay(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // The reader may be gone: then it needs no end of file.
    let _ = to.shutdown().await;
}

/// The master side of a terminal.
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(master: &OwnedFd) -> Result<Self> {
        const DOING: &str = "use a terminal";
        let master = master.try_clone().map_err(Error::system(DOING))?;
        rustix::io::ioctl_fionbio(&master, true).map_err(Error::system(DOING))?;
        // SAFETY: the descriptor belongs to the `OwnedFd`, never changes its number and
        // is closed only when it is dropped with the `AsyncFd`.
        unsafe { AsyncFd::register(master) }
            .map(Self)
            .map_err(|error| Error::system(DOING)(std::io::Error::from(error)))
    }

    /// Nothing once no process holds the terminal.
    async fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0
            .async_io(
                tokio::io::Interest::READABLE,
                |master| match rustix::io::read(master, &mut *buffer) {
                    Err(Errno::IO) => Ok(0),
                    read => Ok(read?),
                },
            )
            .await
    }

    async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(tokio::io::Interest::WRITABLE, |master| {
                    Ok(rustix::io::write(master, bytes)?)
                })
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

async fn terminal_output(from: Terminal, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Ends with the host's stream: for a program at a terminal, the end of input is a
/// character, not the end of the stream.
async fn terminal_input(mut from: OwnedReadHalf, to: Terminal) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// The descriptor of a stream, for a child that reads or writes it itself.
pub fn blocking(stream: &VsockStream) -> Result<OwnedFd> {
    // SAFETY: the stream is borrowed, so its descriptor is open for this call.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    const DOING: &str = "hand over a stream";
    let descriptor = borrowed
        .try_clone_to_owned()
        .map_err(Error::system(DOING))?;
    rustix::io::ioctl_fionbio(&descriptor, false).map_err(Error::system(DOING))?;
    Ok(descriptor)
}
