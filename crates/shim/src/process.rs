//! A process of a container, as the engine sees it.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use caisson_sandbox::TerminalSize;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard, watch};

use crate::error::{Error, Result};
use crate::stdio::{Paths, Relays};

/// How long nothing may move of what an ended process wrote until its end is told all
/// the same. The streams of a container's first process end with its pid namespace.
const SILENCE: Duration = Duration::from_secs(10);
/// Of a process beside it, which may have left others behind that hold them.
const EXEC_SILENCE: Duration = Duration::from_millis(500);

/// The same, when it is deleted.
const LATE_OUTPUT: Duration = Duration::from_millis(500);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n if signal n ended it.
    pub code: u32,
    /// When.
    pub at: SystemTime,
}

impl Exit {
    /// An end that comes now.
    pub fn now(code: u32) -> Self {
        Self {
            code,
            at: SystemTime::now(),
        }
    }
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits to be started.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Stopped(Exit),
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Empty for a container's first.
    pub exec_id: String,
    /// Its streams.
    pub paths: Paths,
    status: watch::Sender<Status>,
    guest: OnceLock<Guest>,
    relays: Mutex<Option<Relays>>,
}

/// The process in the guest; it says nothing of itself.
struct Guest(caisson_sandbox::Process);

impl std::fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Guest").field(&self.0.pid()).finish()
    }
}

impl Process {
    /// One that waits to be started.
    pub fn new(exec_id: String, paths: Paths) -> Self {
        Self {
            exec_id,
            paths,
            status: watch::Sender::new(Status::Created),
            guest: OnceLock::new(),
            relays: Mutex::default(),
        }
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        match self.status() {
            Status::Stopped(exit) => Some(exit),
            Status::Created | Status::Running => None,
        }
    }

    /// It runs now.
    pub fn running(&self) {
        self.status.send_replace(Status::Running);
    }

    /// It has ended. Only the first end counts; says whether it was this.
    pub fn stopped(&self, exit: Exit) -> bool {
        self.status.send_if_modified(|status| {
            let first = !matches!(status, Status::Stopped(_));
            if first {
                *status = Status::Stopped(exit);
            }
            first
        })
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Exit {
        let mut status = self.status.subscribe();
        let ended = status
            .wait_for(|status| matches!(status, Status::Stopped(_)))
            .await;
        match ended.as_deref() {
            Ok(Status::Stopped(exit)) => *exit,
            // The sender is a part of this process.
            _ => Exit::now(255),
        }
    }

    /// The guest has made it.
    pub async fn made(&self, guest: caisson_sandbox::Process, relays: Relays) {
        // It is made once.
        let _ = self.guest.set(Guest(guest));
        *self.relays.lock().await = Some(relays);
    }

    /// The process in the guest, if it has been made.
    pub fn guest(&self) -> Option<&caisson_sandbox::Process> {
        self.guest.get().map(|guest| &guest.0)
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: u32, all: bool) -> Result<()> {
        match self.status() {
            Status::Stopped(_) => Err(Error::Missing("process already finished".to_owned())),
            Status::Created if self.guest().is_none() => {
                Err(Error::State("the process has not been started".to_owned()))
            }
            _ => match self.guest() {
                Some(guest) => Ok(guest.signal(signal, all).await?),
                None => Ok(()),
            },
        }
    }

    /// Sizes its terminal.
    pub async fn resize(&self, rows: u32, columns: u32) -> Result<()> {
        let size = TerminalSize {
            rows: u16::try_from(rows).unwrap_or(u16::MAX),
            columns: u16::try_from(columns).unwrap_or(u16::MAX),
        };
        match self.guest() {
            Some(guest) => Ok(guest.resize(size).await?),
            // The engine may tell the size before it starts the process.
            None => Ok(()),
        }
    }

    /// Its streams, for the time of a checkpoint; none if they are gone.
    pub async fn relays(&self) -> Option<MappedMutexGuard<'_, Relays>> {
        MutexGuard::try_map(self.relays.lock().await, Option::as_mut).ok()
    }

    /// Begins to read its input.
    pub async fn open_input(&self) -> Result<()> {
        match self.relays.lock().await.as_mut() {
            Some(relays) => relays.open_input(&self.paths.stdin),
            None => Ok(()),
        }
    }

    /// The engine has nothing more to write to it.
    pub async fn close_input(&self) {
        if let Some(relays) = self.relays.lock().await.as_mut() {
            relays.close_input();
        }
    }

    /// Waits until what it wrote has been read: an engine that is told of the end may read
    /// no more.
    pub async fn drained(&self) {
        let silence = if self.exec_id.is_empty() {
            SILENCE
        } else {
            EXEC_SILENCE
        };
        let mut relays = self.relays.lock().await;
        let Some(relays) = relays.as_mut() else {
            return;
        };
        if relays.drained(silence).await || self.exec_id.is_empty() {
            return;
        }
        // Or the guest is slow, and what the process wrote is on its way: an answer of the
        // guest's comes after it, by the same device.
        if let Some(guest) = self.guest() {
            let _ = tokio::time::timeout(SILENCE, guest.wait()).await;
        }
        relays.drained(silence).await;
    }

    /// Lets go of its streams once what it wrote has been moved.
    pub async fn finish(&self) {
        let relays = self.relays.lock().await.take();
        if let Some(relays) = relays {
            relays.finish(LATE_OUTPUT).await;
        }
    }
}
