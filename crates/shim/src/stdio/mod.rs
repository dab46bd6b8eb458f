//! Standard streams: between the guest and what the engine names, which is a FIFO, a file
//! or a program (containerd's `cio`).

mod fifo;
mod logger;
mod tie;
mod uri;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use caisson_sandbox::{ProcessStreams, StreamRequest, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::{OwnedWriteHalf, pipe};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};

use fifo::{Input, WriteEnd};
use logger::Logger;
use tie::{InputTie, Reconnection, Tie, Turn};
use uri::Target;

/// Bytes moved at a time: two full vsock packets.
const CHUNK: usize = 128 << 10;

/// Between two looks whether output still moves.
const TICK: Duration = Duration::from_millis(100);

/// How long a reader that takes nothing is waited for once the process has ended.
const READER_PATIENCE: Duration = Duration::from_millis(500);

/// How far the relays of a process are.
#[derive(Debug, Default)]
struct Progress {
    chunks: AtomicU64,
    at_reader: AtomicUsize,
}

impl Progress {
    fn moved(&self) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Does something for which a reader must act.
    async fn at_reader<T>(&self, work: impl Future<Output = T>) -> T {
        self.at_reader.fetch_add(1, Ordering::Relaxed);
        let done = work.await;
        self.at_reader.fetch_sub(1, Ordering::Relaxed);
        done
    }

    fn waits_for_readers(&self, relays: usize) -> bool {
        self.at_reader.load(Ordering::Relaxed) == relays
    }
}

/// What the engine names.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// Path of a FIFO; empty: nothing to read.
    pub stdin: String,
    /// Path or URI; empty: nobody wants it.
    pub stdout: String,
    /// Path or URI.
    pub stderr: String,
    /// Input and both outputs are one terminal.
    pub terminal: bool,
}

/// Whose streams they are, for a program that takes them.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// Namespace of containerd's.
    pub namespace: &'a str,
    /// Id of the container.
    pub container: &'a str,
}

/// An opened output.
enum Output {
    /// With an end that keeps the FIFO whole while nobody reads.
    Fifo(pipe::Sender, std::fs::File),
    File(tokio::fs::File),
    Program(pipe::Sender),
}

/// Opened outputs of the engine's.
pub struct Io {
    output: Option<Output>,
    error: Option<Output>,
    logger: Option<Logger>,
    terminal: bool,
}

impl Paths {
    /// Which streams the guest is to be asked for. The engine tells a terminal's size later.
    pub fn request(&self) -> StreamRequest {
        StreamRequest {
            stdin: !self.stdin.is_empty(),
            terminal: self.terminal.then(TerminalSize::default),
        }
    }

    /// Opens what the engine has named. A FIFO is waited for until somebody reads it, so
    /// that no output is lost.
    pub async fn open(&self, owner: Owner<'_>) -> Result<Io> {
        let mut io = Io {
            output: None,
            error: None,
            logger: None,
            terminal: self.terminal,
        };
        // What stdout says holds for both, if it names anything but a FIFO.
        match Target::parse(&self.stdout)? {
            Target::Nothing => {}
            Target::Fifo(path) => io.output = Some(fifo::output(&path).await?),
            Target::File(path) => {
                let (output, error) = logger::files(&path).await?;
                (io.output, io.error) = (Some(output), Some(error));
                return Ok(io);
            }
            Target::Program(program) => {
                let (logger, output, error) = Logger::start(&program, owner).await?;
                (io.output, io.error) =
                    (Some(Output::Program(output)), Some(Output::Program(error)));
                io.logger = Some(logger);
                return Ok(io);
            }
        }
        if !self.terminal
            && let Target::Fifo(path) = Target::parse(&self.stderr)?
        {
            io.error = Some(fifo::output(&path).await?);
        }
        Ok(io)
    }
}

/// The work of moving bytes for one process.
#[derive(Debug)]
pub struct Relays {
    outputs: JoinSet<()>,
    progress: Arc<Progress>,
    /// Input of the guest's until there is something to be read.
    waiting: Option<OwnedWriteHalf>,
    input: Option<JoinHandle<()>>,
    /// While it is open, the input has no end.
    write_end: Option<WriteEnd>,
    closed: bool,
    terminal: bool,
    logger: Option<Logger>,
    /// Streams that end do so for a checkpoint.
    frozen: Arc<AtomicBool>,
    output_tie: Option<Tie>,
    error_tie: Option<Tie>,
    input_tie: Option<InputTie>,
}

/// The guest's end of an input that nobody writes to; none if it has ended.
#[derive(Debug)]
pub struct Held(Option<OwnedWriteHalf>);

impl Held {
    /// Lets the guest see the end of what was sent to it.
    pub async fn end(&mut self) {
        if let Some(to) = &mut self.0 {
            // The process may be gone already.
            let _ = to.shutdown().await;
        }
    }
}

impl Io {
    /// Joins the guest's streams to the engine's.
    pub fn join(self, guest: ProcessStreams) -> Relays {
        let mut relays = Relays {
            outputs: JoinSet::new(),
            progress: Arc::default(),
            waiting: None,
            input: None,
            write_end: None,
            closed: false,
            terminal: self.terminal,
            logger: self.logger,
            frozen: Arc::default(),
            output_tie: None,
            error_tie: None,
            input_tie: None,
        };
        let mut output = self.output;
        if let Some(stream) = guest.stdin {
            let (from, to) = stream.into_split();
            if self.terminal {
                relays.output_tie = Some(relays.output(from, output.take()));
            }
            relays.waiting = Some(to);
        }
        if let Some(from) = guest.stdout {
            relays.output_tie = Some(relays.output(from, output.take()));
        }
        if let Some(from) = guest.stderr {
            relays.error_tie = Some(relays.output(from, self.error));
        }
        relays
    }
}

impl Relays {
    fn output(&mut self, from: impl AsyncRead + Unpin + Send + 'static, to: Option<Output>) -> Tie {
        let progress = self.progress.clone();
        let (tie, then) = tie::tie(self.frozen.clone());
        let from = Box::new(from);
        self.outputs.spawn(async move {
            match to {
                Some(Output::Fifo(mut to, whole)) => {
                    copy_all(from, then, &mut to, &progress).await;
                    progress.at_reader(fifo::emptied(&whole, &progress)).await;
                }
                Some(Output::Program(mut to)) => copy_all(from, then, &mut to, &progress).await,
                Some(Output::File(mut to)) => copy_all(from, then, &mut to, &progress).await,
                // Read all the same, so that the process does not block.
                None => copy_all(from, then, &mut tokio::io::sink(), &progress).await,
            }
        });
        tie
    }

    /// Streams are about to end for a checkpoint. Nobody writes to the input from here on.
    pub async fn hold(&mut self) -> Result<Held> {
        let held = match &self.input_tie {
            Some(tie) => tie.hold().await.map_err(|()| {
                Error::State(
                    "the program does not read its input, of which more is waiting than can be \
                     in a checkpoint"
                        .to_owned(),
                )
            })?,
            None => None,
        };
        self.frozen.store(true, Ordering::SeqCst);
        Ok(Held(held))
    }

    /// Waits until every output has been read to its end; says whether it was.
    pub async fn wait(&self) -> bool {
        let all = async {
            for tie in self.output_tie.iter().chain(&self.error_tie) {
                tie.waits().await;
            }
        };
        tokio::time::timeout(tie::DEADLINE, all).await.is_ok()
    }

    /// The streams go on: with others, or with those that there were.
    pub fn go_on(&mut self, held: Held, streams: Option<ProcessStreams>) {
        let streams = streams.map_or((None, None, None), |streams| {
            (streams.stdin, streams.stdout, streams.stderr)
        });
        let (input, output, error) = streams;
        self.frozen.store(false, Ordering::SeqCst);
        // Without a terminal, nothing comes back through the input.
        let input = input.map(|stream| stream.into_split().1);
        if let (Some(tie), Some(before)) = (&self.input_tie, held.0) {
            tie.join(input.unwrap_or(before));
        }
        let boxed = |stream| Box::new(stream) as tie::From;
        if let Some(tie) = &self.output_tie {
            tie.join(output.map(boxed));
        }
        if let Some(tie) = &self.error_tie {
            tie.join(error.map(boxed));
        }
    }

    /// Waits until all output has been moved and read, or nothing has moved for
    /// `patience`: something left behind may hold the streams. One that reads nothing is
    /// waited for less: there may be nobody. Whether the guest has no more to send.
    pub async fn drained(&mut self, patience: Duration) -> bool {
        let mut before = self.progress.count();
        let mut silence = Duration::ZERO;
        loop {
            tokio::select! {
                ended = self.outputs.join_next() => if ended.is_none() { return true },
                () = tokio::time::sleep(TICK) => {
                    let now = self.progress.count();
                    silence = if now == before { silence + TICK } else { Duration::ZERO };
                    before = now;
                    let all_sent = self.progress.waits_for_readers(self.outputs.len());
                    let limit = if all_sent {
                        patience.min(READER_PATIENCE)
                    } else {
                        patience
                    };
                    if silence >= limit {
                        return all_sent;
                    }
                }
            }
        }
    }

    /// Begins to read input. Not before the process is started: an engine whose input
    /// ends as soon as it has been opened (ctr's from a pipe) could not say so yet.
    pub fn open_input(&mut self, path: &str) -> Result<()> {
        let Some(to) = self.waiting.take() else {
            return Ok(());
        };
        let mut receiver = None;
        if !path.is_empty() {
            let input = Input::open(path.as_ref())?;
            receiver = Some(input.receiver);
            self.write_end = (!self.closed).then_some(input.write_end);
        }
        let (tie, turn) = tie::tie_input();
        self.input_tie = Some(tie);
        self.input = Some(tokio::spawn(self::input(receiver, to, self.terminal, turn)));
        Ok(())
    }

    /// The engine writes no more: once its own end is closed, so is the process's input.
    pub fn close_input(&mut self) {
        self.closed = true;
        self.write_end = None;
    }

    /// Lets go of the streams once all output has been moved, or after `patience`.
    pub async fn finish(mut self, patience: Duration) {
        if let Some(input) = self.input.take() {
            input.abort();
        }
        // Late output has nobody who would wait for it.
        self.drained(patience).await;
        self.outputs.shutdown().await;
        if let Some(logger) = self.logger {
            logger.finish().await;
        }
    }
}

/// Copies a stream, and those that take its place.
async fn copy_all(
    from: tie::From,
    mut then: Reconnection,
    to: &mut (impl AsyncWrite + Unpin),
    progress: &Progress,
) {
    let mut next = Some(from);
    while let Some(from) = next {
        copy(from, to, progress).await;
        next = then.next().await;
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    progress: &Progress,
) {
    let mut buffer = vec![0; CHUNK];
    let mut broken = false;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !broken && let Err(error) = progress.at_reader(to.write_all(&buffer[..length])).await {
            tracing::warn!(%error, "output is lost from here on");
            broken = true;
        }
        progress.moved();
    }
    // Of a file whose writes go through another thread.
    if let Err(error) = to.flush().await {
        tracing::warn!(%error, "output is lost");
    }
}

/// Moves input until its end, which the process is told unless it has a terminal: there,
/// the end is a character.
async fn input(
    from: Option<pipe::Receiver>,
    mut to: OwnedWriteHalf,
    terminal: bool,
    mut turn: Turn,
) {
    if let Some(mut from) = from {
        let mut buffer = vec![0; CHUNK];
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => {
                    let Ok(length @ 1..) = read else {
                        break;
                    };
                    if to.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
                asker = turn.asked() => match turn.give(to, asker).await {
                    Some(next) => to = next,
                    None => return,
                },
            }
        }
    }
    if terminal {
        // A terminal does not hang up because nobody types.
        std::future::pending::<()>().await;
    }
    // The process may be gone already.
    let _ = to.shutdown().await;
}
