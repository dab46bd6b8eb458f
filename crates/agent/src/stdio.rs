//! The standard streams of a process and the host's streams they are joined to.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use caisson_protocol::agent::Stdio;
use rustix::io::Errno;
use tokio::io::AsyncWrite;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio_vsock::VsockStream;

use crate::child::{StandardStreams, TerminalSize, nothing};
use crate::error::{Error, Result};
use crate::relay::{self, From, Relay, Source, To, new_pipe};
use crate::streams::Streams;

/// How long what a program has written may take to be with the host.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(20);

/// The kernel hands what is written to a terminal on a moment later.
const TERMINAL_DELAY: Duration = Duration::from_millis(10);

/// The host's streams for one process, and the process's ends of them until it has
/// them.
#[derive(Debug)]
pub struct Connections {
    terminal: Option<VsockStream>,
    relays: Relays,
}

/// What moves the bytes of a process's standard streams.
#[derive(Debug, Default)]
pub struct Relays {
    input: Option<Relay<From>>,
    output: Option<Relay<To>>,
    error: Option<Relay<To>>,
    terminal: bool,
}

/// Takes the streams that the request names. Returns what the process is given.
pub async fn connect(streams: &Streams, stdio: &Stdio) -> Result<(Connections, StandardStreams)> {
    let stdin = streams.take(stdio.stdin).await?;
    let mut relays = Relays::default();
    if stdio.terminal {
        let size = TerminalSize {
            rows: u16::try_from(stdio.rows).unwrap_or(0),
            columns: u16::try_from(stdio.columns).unwrap_or(0),
        };
        let connections = Connections {
            terminal: stdin,
            relays,
        };
        return Ok((connections, StandardStreams::Terminal(size)));
    }
    let stdout = streams.take(stdio.stdout).await?;
    let stderr = streams.take(stdio.stderr).await?;
    let descriptors = [
        input(stdin, &mut relays.input)?,
        output(stdout, &mut relays.output)?,
        output(stderr, &mut relays.error)?,
    ];
    let connections = Connections {
        terminal: None,
        relays,
    };
    Ok((connections, StandardStreams::Descriptors(descriptors)))
}

impl Connections {
    /// For a process that has no stream of the host's.
    pub fn none() -> Self {
        Self {
            terminal: None,
            relays: Relays::default(),
        }
    }

    /// Joins the host's stream to the terminal that the process has made, if it has.
    pub fn join(mut self, master: Option<&OwnedFd>) -> Result<Relays> {
        if let (Some(stream), Some(master)) = (self.terminal, master) {
            let (from_host, to_host) = stream.into_split();
            let (output, input) = (Terminal::new(master)?, Terminal::new(master)?);
            self.relays.output = Some(relay::output(output, Box::new(to_host)));
            self.relays.input = Some(relay::input(Box::new(from_host), input));
            self.relays.terminal = true;
        }
        Ok(self.relays)
    }
}

impl Relays {
    /// Ends the streams of a process that is frozen: what it has written is with the host
    /// when this returns. What the host has sent is taken up to the end that it makes; the
    /// result tells when that has come.
    pub async fn leave(&self) -> Result<Option<oneshot::Receiver<()>>> {
        if self.terminal {
            tokio::time::sleep(TERMINAL_DELAY).await;
        }
        let left = async {
            for relay in [&self.output, &self.error].into_iter().flatten() {
                // One that has ended has sent all that there was.
                let _ = relay.leave().await.await;
            }
        };
        tokio::time::timeout(OUTPUT_DEADLINE, left)
            .await
            .map_err(|_| Error::Invalid("nobody reads what the program has written".to_owned()))?;
        match &self.input {
            Some(relay) => Ok(Some(relay.leave().await)),
            None => Ok(None),
        }
    }

    /// Joins the streams that a request names.
    pub async fn join(&self, streams: &Streams, stdio: &Stdio) -> Result<()> {
        let stdin = streams.take(stdio.stdin).await?;
        if self.terminal {
            let (from, to) = stdin.map(VsockStream::into_split).unzip();
            join(&self.input, from.map(|from| Box::new(from) as From)).await;
            join(&self.output, to.map(|to| Box::new(to) as To)).await;
            return Ok(());
        }
        let stdout = streams.take(stdio.stdout).await?;
        let stderr = streams.take(stdio.stderr).await?;
        join(&self.input, stdin.map(|from| Box::new(from) as From)).await;
        join(&self.output, stdout.map(|to| Box::new(to) as To)).await;
        join(&self.error, stderr.map(|to| Box::new(to) as To)).await;
        Ok(())
    }
}

async fn join<S>(relay: &Option<Relay<S>>, stream: Option<S>) {
    if let Some(relay) = relay {
        relay.join(stream).await;
    }
}

/// A pipe that the host's stream is written into.
fn input(stream: Option<VsockStream>, relay: &mut Option<Relay<From>>) -> Result<OwnedFd> {
    let Some(stream) = stream else {
        return nothing();
    };
    let (read, write) = new_pipe()?;
    let writer =
        pipe::Sender::from_owned_fd(write).map_err(Error::system("use a pipe for input"))?;
    *relay = Some(relay::input(Box::new(stream), writer));
    Ok(read)
}

/// A pipe that is read into the host's stream.
fn output(stream: Option<VsockStream>, relay: &mut Option<Relay<To>>) -> Result<OwnedFd> {
    let Some(stream) = stream else {
        return nothing();
    };
    let (read, write) = new_pipe()?;
    let reader =
        pipe::Receiver::from_owned_fd(read).map_err(Error::system("use a pipe for output"))?;
    *relay = Some(relay::output(reader, Box::new(stream)));
    Ok(write)
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
}

/// Nothing once no process holds the terminal.
fn read_master(master: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    match rustix::io::read(master, buffer) {
        Err(Errno::IO) => Ok(0),
        read => read,
    }
}

impl Source for Terminal {
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0
            .async_io(tokio::io::Interest::READABLE, |master| {
                Ok(read_master(master, buffer)?)
            })
            .await
    }

    fn read_now(&mut self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        read_master(self.0.get_ref(), buffer)
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        loop {
            let mut ready = std::task::ready!(self.0.poll_write_ready(context))?;
            let written = ready.try_io(|master| Ok(rustix::io::write(master.get_ref(), bytes)?));
            if let Ok(written) = written {
                return std::task::Poll::Ready(written);
            }
        }
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
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
