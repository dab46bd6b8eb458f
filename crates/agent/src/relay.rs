//! Bytes between a stream of the host and a process, whose host may change.
//!
//! When a container is frozen, its relays leave the host: what the program has written
//! is sent, what the host has sent is kept for the program, and no byte comes twice or
//! not at all. When it is thawed, they join a host again: the same, or that of a copy.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};

/// Bytes moved at a time: the largest vsock packet, and a pipe's whole room.
const CHUNK: usize = 64 << 10;

/// Most bytes of input that are kept while there is no host: what a stream holds on its
/// way is less.
const KEPT: usize = 1 << 20;

/// Where bytes come from.
pub type From = Box<dyn AsyncRead + Send + Unpin>;

/// Where bytes go.
pub type To = Box<dyn AsyncWrite + Send + Unpin>;

/// What a relay is told.
enum Order<S> {
    /// Leave the host, and say so.
    Leave(oneshot::Sender<()>),
    /// Use this stream; none is a host that takes and gives nothing.
    Join(Option<S>),
}

/// A relay that runs; it ends with either of its sides.
pub struct Relay<S>(mpsc::Sender<Order<S>>);

impl<S> fmt::Debug for Relay<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Relay").finish_non_exhaustive()
    }
}

impl<S> Relay<S> {
    /// Tells it to leave the host. The answer comes when it has.
    pub async fn leave(&self) -> oneshot::Receiver<()> {
        let (sender, left) = oneshot::channel();
        // One that has ended has left: the answer's sender is dropped.
        let _ = self.0.send(Order::Leave(sender)).await;
        left
    }

    /// Gives it a host again. If it has ended, the stream is closed.
    pub async fn join(&self, stream: Option<S>) {
        let _ = self.0.send(Order::Join(stream)).await;
    }
}

/// A process's output, as it can be read.
pub trait Source: Send {
    /// Waits for bytes; nothing is the end.
    fn read(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Reads what is there; does not wait.
    fn read_now(&mut self, buffer: &mut [u8]) -> rustix::io::Result<usize>;
}

impl Source for pipe::Receiver {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        AsyncReadExt::read(self, buffer).await
    }

    fn read_now(&mut self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        // Not by way of the event loop, which may not have heard of the last bytes yet.
        rustix::io::read(self.as_fd(), buffer)
    }
}

/// Begins to move a process's output.
pub fn output(from: impl Source + 'static, to: To) -> Relay<To> {
    let (sender, orders) = mpsc::channel(1);
    tokio::spawn(move_output(from, to, orders));
    Relay(sender)
}

async fn move_output(mut from: impl Source, mut to: To, mut orders: mpsc::Receiver<Order<To>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            biased;
            order = next(&mut orders) => {
                let joined = match order {
                    Order::Join(stream) => stream,
                    Order::Leave(left) => {
                        if send_rest(&mut from, &mut to, &mut buffer).await.is_err() {
                            return;
                        }
                        let _ = left.send(());
                        let Some(Order::Join(stream)) = orders.recv().await else {
                            return;
                        };
                        stream
                    }
                };
                to = joined.unwrap_or_else(|| Box::new(tokio::io::sink()));
                continue;
            }
            read = from.read(&mut buffer) => read,
        };
        let Ok(length @ 1..) = read else { break };
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // The reader may be gone: then it needs no end of file.
    let _ = to.shutdown().await;
}

/// Sends what the process has written, and ends the stream.
async fn send_rest(from: &mut impl Source, to: &mut To, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read_now(buffer) {
            // The end is seen again when there is a host to tell.
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(length) => to.write_all(&buffer[..length]).await?,
            Err(errno) => return Err(errno.into()),
        }
    }
    to.shutdown().await
}

/// Begins to move input to a process, which sees its end unless it is at a terminal: there,
/// the end of input is a character.
pub fn input(from: From, to: impl AsyncWrite + Send + Unpin + 'static) -> Relay<From> {
    let (sender, orders) = mpsc::channel(1);
    tokio::spawn(move_input(Some(from), to, orders));
    Relay(sender)
}

async fn move_input(
    mut from: Option<From>,
    mut to: impl AsyncWrite + Unpin,
    mut orders: mpsc::Receiver<Order<From>>,
) {
    let mut buffer = vec![0; CHUNK];
    // Bytes for a process that is slow to read.
    let mut pending = Vec::new();
    while from.is_some() || !pending.is_empty() {
        tokio::select! {
            biased;
            order = next(&mut orders) => {
                from = match order {
                    Order::Join(stream) => stream,
                    Order::Leave(left) => {
                        if let Some(from) = from.take() {
                            keep_rest(from, &mut pending, &mut buffer).await;
                        }
                        let _ = left.send(());
                        let Some(Order::Join(stream)) = orders.recv().await else {
                            return;
                        };
                        stream
                    }
                };
            }
            written = to.write(&pending), if !pending.is_empty() => match written {
                Ok(length @ 1..) => drop(pending.drain(..length)),
                // Nobody reads any more: the host learns of it as the stream is dropped.
                _ => return,
            },
            read = read_some(&mut from, &mut buffer), if pending.is_empty() => match read {
                Ok(length @ 1..) => pending.extend_from_slice(&buffer[..length]),
                _ => from = None,
            },
        }
    }
}

/// Reads what the host has sent, up to the end that it makes when it leaves.
async fn keep_rest(mut from: From, pending: &mut Vec<u8>, buffer: &mut [u8]) {
    while let Ok(length @ 1..) = from.read(buffer).await {
        let room = KEPT.saturating_sub(pending.len());
        pending.extend_from_slice(&buffer[..length.min(room)]);
    }
}

async fn read_some(from: &mut Option<From>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// The next order; none ever comes when nobody can give one any more.
async fn next<S>(orders: &mut mpsc::Receiver<Order<S>>) -> Order<S> {
    match orders.recv().await {
        Some(order) => order,
        None => std::future::pending().await,
    }
}

/// A pipe.
pub fn new_pipe() -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::system("make a pipe"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::DuplexStream;

    use super::*;

    fn host() -> (DuplexStream, DuplexStream) {
        tokio::io::duplex(CHUNK)
    }

    async fn all(mut stream: DuplexStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("read");
        text
    }

    #[tokio::test]
    async fn each_byte_of_output_comes_to_one_host() {
        let (read, write) = std::io::pipe().expect("a pipe");
        let source = pipe::Receiver::from_owned_fd(read.into()).expect("a pipe");
        let (near, first) = host();
        let relay = output(source, Box::new(near));
        let mut program = write;
        program.write_all(b"before ").expect("written");
        let left = relay.leave().await;
        let (text, left) = tokio::join!(all(first), left);
        left.expect("left");
        assert_eq!(text, "before ");
        program.write_all(b"after").expect("written");
        let (near, second) = host();
        relay.join(Some(Box::new(near))).await;
        drop(program);
        assert_eq!(all(second).await, "after");
    }

    #[tokio::test]
    async fn an_end_during_the_change_is_seen_after_it() {
        let (read, write) = std::io::pipe().expect("a pipe");
        let source = pipe::Receiver::from_owned_fd(read.into()).expect("a pipe");
        let (near, first) = host();
        let relay = output(source, Box::new(near));
        let left = relay.leave().await;
        left.await.expect("left");
        drop((write, first));
        let (near, second) = host();
        relay.join(Some(Box::new(near))).await;
        assert_eq!(all(second).await, "");
        // It has ended: a third host sees the end at once.
        let (near, third) = host();
        relay.join(Some(Box::new(near))).await;
        assert_eq!(all(third).await, "");
    }

    #[tokio::test]
    async fn input_on_its_way_is_kept() {
        let (mut program, to) = tokio::io::duplex(4);
        let (near, mut first) = host();
        let relay = input(Box::new(near), to);
        first.write_all(b"one two three ").await.expect("written");
        let left = relay.leave().await;
        drop(first);
        left.await.expect("left");
        let (near, mut second) = host();
        relay.join(Some(Box::new(near))).await;
        second.write_all(b"four").await.expect("written");
        drop(second);
        let mut text = String::new();
        program.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "one two three four");
    }

    #[tokio::test]
    async fn without_a_host_input_ends() {
        let (mut program, to) = tokio::io::duplex(64);
        let (near, first) = host();
        let relay = input(Box::new(near), to);
        let left = relay.leave().await;
        drop(first);
        left.await.expect("left");
        relay.join(None).await;
        let mut text = String::new();
        program.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "");
    }
}
