//! Making a snapshot of a container that runs, and letting it go on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caisson_hypervisor::Copies;
use caisson_sandbox::{ProcessStreams, StreamRequest, TerminalSize};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{MutexGuard, mpsc, watch};

use super::log::Source;
use super::relay::Guest;
use super::{Live, now};
use crate::container::Status;
use crate::snapshot::{Making, SnapshotRecord, SnapshotStore};

/// How long a program may take to read what is being written to its input, and what it
/// has written to reach us.
const STREAMS_DEADLINE: Duration = Duration::from_secs(30);

/// The outputs of a container's first process, which are cut and joined again.
#[derive(Debug, Default)]
pub(super) struct Ties {
    frozen: Rc<Cell<bool>>,
    outputs: RefCell<Vec<(Source, Tie)>>,
}

/// Our hold on the relay of an output.
#[derive(Debug)]
struct Tie {
    next: mpsc::Sender<Guest>,
    waits: watch::Receiver<bool>,
}

/// A relay's hold on what comes after the end of its stream.
#[derive(Debug)]
pub struct Reconnection {
    frozen: Rc<Cell<bool>>,
    next: mpsc::Receiver<Guest>,
    waits: watch::Sender<bool>,
}

impl Reconnection {
    /// The stream in place of one that has ended; none if the end is the program's.
    pub async fn next(&mut self) -> Option<Guest> {
        if !self.frozen.get() {
            return None;
        }
        self.waits.send_replace(true);
        let stream = self.next.recv().await;
        self.waits.send_replace(false);
        stream
    }
}

impl Ties {
    /// For the relay of one more output.
    pub(super) fn tie(&self, source: Source) -> Reconnection {
        let (next, receiver) = mpsc::channel(1);
        let (sender, waits) = watch::channel(false);
        self.outputs
            .borrow_mut()
            .push((source, Tie { next, waits }));
        Reconnection {
            frozen: self.frozen.clone(),
            next: receiver,
            waits: sender,
        }
    }

    /// Waits until every relay has read its stream to the end.
    async fn all_wait(&self) {
        let all: Vec<_> = self
            .outputs
            .borrow()
            .iter()
            .map(|(_, tie)| tie.waits.clone())
            .collect();
        for mut waits in all {
            // One that is gone has ended for good.
            let _ = waits.wait_for(|waits| *waits).await;
        }
    }

    /// There will be no new streams: whoever waits for one has come to the end.
    fn abandon(&self) {
        self.frozen.set(false);
        self.outputs
            .borrow_mut()
            .retain(|(_, tie)| !*tie.waits.borrow());
    }

    /// Gives every relay its new stream.
    fn join(&self, mut stream: impl FnMut(Source) -> Option<Guest>) {
        for (source, tie) in self.outputs.borrow().iter() {
            if let Some(stream) = stream(*source) {
                // For one that has ended for good, the guest sees that it is closed.
                let _ = tie.next.try_send(stream);
            }
        }
        self.frozen.set(false);
    }
}

/// Makes a snapshot of the container. It goes on, also if that fails.
pub(super) async fn snapshot(live: &Live, name: &str, store: &SnapshotStore) -> Result<()> {
    let record = &live.container.record;
    if let Some(shared) = record.shares.first() {
        bail!(
            "container {} has the volume {}: files of the host cannot be in a snapshot; start it \
             without the volume and copy the data in with `caisson cp`",
            record.name,
            shared.source.display()
        );
    }
    match live.state.borrow().status {
        Status::Running => {}
        Status::Paused => bail!(
            "container {0} is paused; let it run first: `caisson unpause {0}`",
            record.name
        ),
        other => bail!("container {} is not running ({other})", record.name),
    }
    let Some(recipe) = &live.recipe else {
        bail!(
            "the machine of container {} cannot be copied: {}",
            record.name,
            live.state.borrow().hypervisor
        );
    };
    let making = store.begin(name).await?;
    freeze(live, &making).await?;
    let snapshot = SnapshotRecord {
        name: name.to_owned(),
        created: now(),
        container: record.clone(),
        guest_id: live.guest.id().to_owned(),
        scratch: String::new(),
        disk: 0,
    };
    let recipe = recipe.clone();
    // The container's output moves on meanwhile.
    tokio::task::spawn_blocking(move || making.finish(snapshot, &recipe)).await?
}

/// Freezes the container, leaves its machine in files, and thaws it.
async fn freeze(live: &Live, making: &Making) -> Result<()> {
    // Nobody writes to the program's input from here on.
    let stdin = tokio::time::timeout(STREAMS_DEADLINE, live.stdin.lock());
    let mut stdin = stdin.await.ok().with_context(|| {
        format!(
            "the program of container {} does not read its input, of which more is waiting than \
             can be in a snapshot",
            live.container.record.name
        )
    })?;
    live.ties.frozen.set(true);
    let frozen = match live.guest.freeze().await {
        Ok(frozen) => frozen,
        Err(error) => {
            live.ties.abandon();
            return Err(error.into());
        }
    };
    if let Some(writer) = stdin.as_mut() {
        // The guest takes what is on its way, up to this end.
        let _ = writer.shutdown().await;
    }
    let read = tokio::time::timeout(STREAMS_DEADLINE, live.ties.all_wait()).await;
    let (scratch, copy) = (live.container.scratch_disk(), making.scratch());
    let still = Box::new(move || caisson_storage::copy_disk(&scratch, &copy));
    let (thawing, saved) = match read {
        Ok(()) => {
            let directory = making.directory();
            frozen.snapshot(&directory, Copies::OnThisHost, still).await
        }
        // What nobody reads would be lost with the streams.
        Err(_) => (frozen.abandon().await, Ok(())),
    };
    let terminal = live.has_terminal();
    let request = StreamRequest {
        stdin: stdin.is_some(),
        terminal: terminal.then(TerminalSize::default),
    };
    match thawing.thaw(request, false).await {
        Ok(streams) => join(live, streams, &mut stdin),
        Err(error) => {
            // A container whose program does not go on is of no use to anybody.
            live.ties.abandon();
            tracing::error!(%error, "the container does not go on");
            live.sandbox.kill().await?;
            // The first of two failures is the cause.
            return Err(saved.err().unwrap_or(error).into());
        }
    }
    saved?;
    read.context(
        "what the program has written is not read, and cannot be in a snapshot; whoever is \
         attached to the container must read it",
    )?;
    Ok(())
}

/// Puts new streams in the place of the old ones.
fn join(live: &Live, streams: ProcessStreams, stdin: &mut MutexGuard<'_, Option<OwnedWriteHalf>>) {
    let ProcessStreams {
        stdin: input,
        stdout,
        stderr,
    } = streams;
    let (mut output, mut error): (Option<Guest>, Option<Guest>) = (None, None);
    if let Some(input) = input {
        let (from, to) = input.into_split();
        if stdin.is_some() {
            **stdin = Some(to);
        }
        // Without a terminal, nothing comes back this way.
        output = Some(Box::new(from));
    }
    if let Some(stdout) = stdout {
        output = Some(Box::new(stdout));
    }
    if let Some(stderr) = stderr {
        error = Some(Box::new(stderr));
    }
    live.ties.join(|source| match source {
        Source::Output => output.take(),
        Source::Error => error.take(),
    });
}
