//! Bytes between the guest, the log and whoever is attached.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::log::{LogWriter, Source};
use super::snapshot::Reconnection;

/// Bytes moved at a time: two full vsock packets.
const CHUNK: usize = 128 << 10;

/// Output of the guest.
pub type Guest = Box<dyn AsyncRead + Unpin>;

/// Those who are attached to one output stream. A slow one slows the container
/// down, as it would with a pipe; one that closed its end is forgotten.
#[derive(Debug, Default)]
pub struct Audience {
    members: Mutex<Vec<pipe::Sender>>,
    chunks: Cell<u64>,
    sending: Cell<bool>,
    closed: Cell<bool>,
}

impl Audience {
    /// Adds the write end of a pipe.
    pub async fn join(&self, descriptor: OwnedFd) -> io::Result<()> {
        let sender = pipe::Sender::from_owned_fd(descriptor)?;
        self.members.lock().await.push(sender);
        Ok(())
    }

    /// Closes every member's pipe: end of file.
    pub async fn dismiss(&self) {
        self.members.lock().await.clear();
    }

    /// Once its members are gone, there is nobody to write for.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// Changes whenever output moves; none while a member is slow to take it.
    fn progress(&self) -> Option<u64> {
        (!self.sending.get()).then(|| self.chunks.get())
    }

    /// Sends to every member; false if there is nobody to write for any more.
    async fn send(&self, bytes: &[u8]) -> bool {
        self.sending.set(true);
        self.chunks.set(self.chunks.get() + 1);
        let mut members = self.members.lock().await;
        let mut index = 0;
        while index < members.len() {
            match members[index].write_all(bytes).await {
                Ok(()) => index += 1,
                Err(_) => drop(members.swap_remove(index)),
            }
        }
        self.sending.set(false);
        !(self.closed.get() && members.is_empty())
    }
}

/// The log, shared by the two output streams. None once it cannot be written.
pub type SharedLog = Rc<RefCell<Option<LogWriter>>>;

/// Moves output until the guest closes it for good, or nobody reads it any more: then
/// the guest's end is closed, as that of a pipe would be.
pub async fn output(
    mut from: Guest,
    source: Source,
    log: SharedLog,
    audience: Rc<Audience>,
    mut again: Option<Reconnection>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            let next = match &mut again {
                Some(again) => again.next().await,
                None => None,
            };
            match next {
                Some(stream) => from = stream,
                None => break,
            }
            continue;
        };
        let bytes = &buffer[..length];
        let written = log
            .borrow_mut()
            .as_mut()
            .map_or(Ok(()), |log| log.write(source, bytes));
        if let Err(error) = written {
            tracing::error!(%error, "the container's log ends here");
            log.replace(None);
        }
        if !audience.send(bytes).await {
            break;
        }
    }
    audience.dismiss().await;
}

/// Waits for outputs to end, or to be silent for `silence`: a process left
/// behind may hold a pipe for ever. Whether they have ended.
pub async fn drain(
    relays: &mut JoinSet<()>,
    audiences: &[Rc<Audience>],
    silence: Duration,
) -> bool {
    let progress = || {
        audiences
            .iter()
            .map(|audience| audience.progress())
            .collect::<Vec<_>>()
    };
    let mut before = progress();
    loop {
        tokio::select! {
            ended = relays.join_next() => if ended.is_none() { return true },
            () = tokio::time::sleep(silence) => {
                let now = progress();
                if now == before && now.iter().all(Option::is_some) {
                    return false;
                }
                before = now;
            }
        }
    }
}

/// Moves input until its writer closes it, then tells the process, unless it
/// has a terminal: there, end of file is a character.
pub async fn input(
    from: OwnedFd,
    to: Rc<Mutex<Option<tokio::net::unix::OwnedWriteHalf>>>,
    keep_open: bool,
) {
    let Ok(mut from) = pipe::Receiver::from_owned_fd(from) else {
        return tracing::warn!("standard input is not a pipe");
    };
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut to = to.lock().await;
        let Some(writer) = to.as_mut() else { return };
        if writer.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    if !keep_open && let Some(mut writer) = to.lock().await.take() {
        // The process may be gone already.
        let _ = writer.shutdown().await;
    }
}
