//! Streams of the guest's that end while a checkpoint is made, and go on with others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a program may take to read what is being written to its input, and what it has
/// written to be read.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Output of the guest's.
pub type From = Box<dyn AsyncRead + Unpin + Send>;

/// Our hold on the relay of an output.
#[derive(Debug)]
pub struct Tie {
    next: mpsc::Sender<Option<From>>,
    waits: watch::Receiver<bool>,
}

/// A relay's hold on what comes after the end of its stream.
#[derive(Debug)]
pub struct Reconnection {
    frozen: Arc<AtomicBool>,
    next: mpsc::Receiver<Option<From>>,
    waits: watch::Sender<bool>,
}

/// Ties a relay, whose streams end for a checkpoint while `frozen` says so.
pub fn tie(frozen: Arc<AtomicBool>) -> (Tie, Reconnection) {
    let (next, receiver) = mpsc::channel(1);
    let (sender, waits) = watch::channel(false);
    let reconnection = Reconnection {
        frozen,
        next: receiver,
        waits: sender,
    };
    (Tie { next, waits }, reconnection)
}

impl Tie {
    /// Waits until the relay has read its stream to the end.
    pub async fn waits(&self) {
        // One that is gone has ended for good.
        let _ = self.waits.clone().wait_for(|waits| *waits).await;
    }

    /// Gives a relay that waits its next stream; none: there is no other.
    pub fn join(&self, stream: Option<From>) {
        if *self.waits.borrow() {
            // It takes one at a time, and there is none on its way.
            let _ = self.next.try_send(stream);
        }
    }
}

impl Reconnection {
    /// The stream in place of one that has ended; none if the end is the program's.
    pub async fn next(&mut self) -> Option<From> {
        if !self.frozen.load(Ordering::SeqCst) {
            return None;
        }
        self.waits.send_replace(true);
        // Whoever ends the freeze looks who waits after that.
        let stream = if self.frozen.load(Ordering::SeqCst) {
            self.next.recv().await.flatten()
        } else {
            None
        };
        self.waits.send_replace(false);
        stream
    }
}

/// Our hold on the relay of an input.
#[derive(Debug)]
pub struct InputTie {
    hold: mpsc::Sender<oneshot::Sender<OwnedWriteHalf>>,
    next: mpsc::Sender<OwnedWriteHalf>,
}

/// The relay's hold on who may write to the guest.
#[derive(Debug)]
pub struct Turn {
    hold: mpsc::Receiver<oneshot::Sender<OwnedWriteHalf>>,
    next: mpsc::Receiver<OwnedWriteHalf>,
}

/// Ties the relay of an input.
pub fn tie_input() -> (InputTie, Turn) {
    let (hold, held) = mpsc::channel(1);
    let (next, receiver) = mpsc::channel(1);
    let turn = Turn {
        hold: held,
        next: receiver,
    };
    (InputTie { hold, next }, turn)
}

impl InputTie {
    /// Takes the guest's end from the relay, which then writes nothing. None if the input
    /// has ended; an error if the program does not read.
    pub async fn hold(&self) -> Result<Option<OwnedWriteHalf>, ()> {
        let (sender, held) = oneshot::channel();
        let taken = async {
            if self.hold.send(sender).await.is_err() {
                return None;
            }
            held.await.ok()
        };
        tokio::time::timeout(DEADLINE, taken).await.map_err(drop)
    }

    /// Gives the relay an end to go on with.
    pub fn join(&self, to: OwnedWriteHalf) {
        let _ = self.next.try_send(to);
    }
}

impl Turn {
    /// Waits until somebody wants the guest's end. Cancel safe.
    pub async fn asked(&mut self) -> oneshot::Sender<OwnedWriteHalf> {
        match self.hold.recv().await {
            Some(asker) => asker,
            // The relay is about to end.
            None => std::future::pending().await,
        }
    }

    /// Gives the end away, and waits for one to go on with; none: there is no other.
    pub async fn give(
        &mut self,
        to: OwnedWriteHalf,
        asker: oneshot::Sender<OwnedWriteHalf>,
    ) -> Option<OwnedWriteHalf> {
        match asker.send(to) {
            Ok(()) => self.next.recv().await,
            // Whoever asked has lost patience.
            Err(to) => Some(to),
        }
    }
}
