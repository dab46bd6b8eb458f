//! Our standard streams, signals and window size joined to a process in a guest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use caisson_sandbox::timing::Stage;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::terminal::{self, RawMode};
use super::{Refused, answer};
use crate::container::Container;
use crate::supervisor::control::{Connection, Request, Response, Streams};
use crate::supervisor::log::Source;

/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

/// Which of our streams to join.
#[derive(Debug, Clone, Copy, Default)]
pub struct StdioWish {
    /// `-i`.
    pub stdin: bool,
    /// `-t`.
    pub terminal: bool,
}

/// Our ends of the pipes, and what to tell the supervisor of its ends.
#[derive(Debug)]
pub struct Attachment {
    /// To be sent with the request.
    pub streams: Streams,
    remote: Vec<OwnedFd>,
    outputs: Vec<JoinHandle<()>>,
    /// Outputs of ours that nobody reads any more.
    closed: (
        mpsc::UnboundedSender<Source>,
        mpsc::UnboundedReceiver<Source>,
    ),
    stdin: Option<io::PipeWriter>,
    raw: Option<RawMode>,
}

/// How the process ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code for us.
    pub code: u8,
    /// Where the time went.
    pub stages: Vec<Stage>,
    /// The hypervisor and why.
    pub hypervisor: String,
}

impl Attachment {
    /// Makes the pipes. Bytes from the guest flow from now on, ours with [`Self::run`].
    pub fn new(wish: StdioWish) -> Result<Self> {
        let mut attachment = Self {
            streams: Streams {
                stdin: wish.stdin,
                stdout: true,
                stderr: !wish.terminal,
                terminal: wish.terminal.then(terminal::size),
            },
            remote: Vec::new(),
            outputs: Vec::new(),
            closed: mpsc::unbounded_channel(),
            stdin: None,
            raw: None,
        };
        if wish.stdin {
            let (read, write) = io::pipe()?;
            attachment.remote.push(read.into());
            attachment.stdin = Some(write);
        }
        attachment.output(Source::Output, io::stdout().as_fd().try_clone_to_owned()?)?;
        if !wish.terminal {
            attachment.output(Source::Error, io::stderr().as_fd().try_clone_to_owned()?)?;
        }
        if wish.terminal && wish.stdin {
            attachment.raw = RawMode::enter().context("cannot prepare the terminal")?;
        }
        Ok(attachment)
    }

    fn output(&mut self, source: Source, to: OwnedFd) -> Result<()> {
        let (mut read, write) = io::pipe()?;
        let closed = self.closed.0.clone();
        self.remote.push(write.into());
        self.outputs.push(std::thread::spawn(move || {
            // A reader that went away ends the copy; the container sees a closed pipe.
            if copy(&mut read, &mut File::from(to)).is_err() {
                drop(read);
                let _ = closed.send(source);
            }
        }));
        Ok(())
    }

    /// Sends a request with the far ends of the pipes.
    pub async fn send(&mut self, connection: &Connection, request: &Request) -> Result<()> {
        let remote = std::mem::take(&mut self.remote);
        let borrowed: Vec<_> = remote.iter().map(AsFd::as_fd).collect();
        Ok(connection.send(request, &borrowed).await?)
    }

    /// Relays until the process has ended.
    pub async fn run(mut self, container: &Container, connection: &Connection) -> Result<Outcome> {
        let mut signals = forwarded_signals()?;
        let mut resized = signal(SignalKind::window_change())?;
        if let Some(mut to) = self.stdin.take() {
            // The thread cannot be woken from a read; it ends with the process.
            std::thread::spawn(move || {
                let _ = io::stdin()
                    .as_fd()
                    .try_clone_to_owned()
                    .map(|from| io::copy(&mut File::from(from), &mut to));
            });
        }
        loop {
            tokio::select! {
                response = answer(container, connection) => match response? {
                    Response::Exited { code, error, stages, hypervisor } => {
                        self.finish();
                        if let Some(message) = error {
                            return Err(Refused { message, code }.into());
                        }
                        return Ok(Outcome { code, stages, hypervisor });
                    }
                    Response::Started | Response::Done => {}
                    other => bail!("the supervisor answered {other:?} to an attachment"),
                },
                Some(number) = signals.recv() => {
                    if number == libc::SIGCONT && let Some(raw) = &self.raw {
                        // A shell that stopped us has set the terminal to its own liking.
                        raw.again().context("cannot prepare the terminal")?;
                    }
                    connection.send(&Request::Signal(number), &[]).await?;
                }
                Some(source) = self.closed.1.recv() => {
                    connection.send(&Request::CloseOutput(source), &[]).await?;
                }
                Some(()) = resized.recv(), if self.streams.terminal.is_some() => {
                    let (rows, columns) = terminal::size();
                    connection.send(&Request::Resize { rows, columns }, &[]).await?;
                }
            }
        }
    }

    /// Waits until all output is written: the supervisor has closed its ends.
    fn finish(mut self) {
        for output in std::mem::take(&mut self.outputs) {
            let _ = output.join();
        }
        self.raw = None;
    }
}

/// `io::copy` would splice. While it waits for the pipe, splice(2) remembers where in
/// the file it began, and of two outputs into one file (`2>&1`) one writes over the other.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Every signal that can be caught and means something to a program. With a
/// terminal, keys arrive as characters; signals sent to us are passed on all the same.
fn forwarded_signals() -> Result<mpsc::UnboundedReceiver<i32>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let own = [libc::SIGCHLD, libc::SIGPIPE, libc::SIGURG, libc::SIGWINCH];
    let fatal = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
    ];
    // They are about our terminal: caught, a read in the background would be tried again for ever.
    let background = [libc::SIGTTIN, libc::SIGTTOU];
    let standard = 1..=31;
    for number in standard.chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        if own.contains(&number) || fatal.contains(&number) || background.contains(&number) {
            continue;
        }
        let mut stream = signal(SignalKind::from_raw(number))
            .with_context(|| format!("cannot catch signal {number}"))?;
        let sender = sender.clone();
        tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() && sender.send(number).is_ok() {}
        });
    }
    Ok(receiver)
}
