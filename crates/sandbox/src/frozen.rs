//! A container that stands still for a snapshot of its machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use caisson_hypervisor::{Copies, WhileStill};
use caisson_protocol::agent::{FreezeRequest, ThawRequest};
use protobuf::MessageField;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::OwnedRwLockWriteGuard;

use crate::process::{ProcessStreams, StreamRequest, open_streams};
use crate::sandbox::realtime_ns;
use crate::{Container, Error, Result, agent, console};

/// How long calls that are under way are waited for.
const CALLS_DEADLINE: Duration = Duration::from_secs(10);

/// A container whose processes stand still and whose streams end. Calls to the guest wait
/// until it is thawed; it must be, whatever happens.
pub struct Frozen {
    container: Container,
    /// Until the agent may let go of the vsock device.
    hold: UnixStream,
    /// Why there can be no snapshot.
    problem: Option<Error>,
    _alone: OwnedRwLockWriteGuard<()>,
}

impl Container {
    /// Stops the container for a snapshot. What its program has written comes out of its
    /// streams, and then their end; nothing more must be sent to its input.
    ///
    /// # Errors
    /// If it cannot be stopped now. It goes on.
    pub async fn freeze(&self) -> Result<Frozen> {
        let doing = "freezing the container";
        let sandbox = self.sandbox();
        let gate = Arc::clone(&sandbox.inner.gate).write_owned();
        let alone = tokio::time::timeout(CALLS_DEADLINE, gate)
            .await
            .map_err(|_| Error::Agent {
                doing,
                message: "files are being copied in or out; try again when that is done".to_owned(),
            })?;
        let (stream, hold) = sandbox.open_stream().await?;
        let request = FreezeRequest {
            id: self.init().container.clone(),
            stream,
            ..Default::default()
        };
        let answer = sandbox
            .call_with(
                doing,
                async |agent| agent.freeze_container(agent::bounded(), &request).await,
                agent::failed(doing),
            )
            .await?;
        let problem = (!answer.problem.is_empty()).then(|| Error::Agent {
            doing,
            message: console::printable(&answer.problem),
        });
        Ok(Frozen {
            container: self.clone(),
            hold,
            problem,
            _alone: alone,
        })
    }
}

impl Frozen {
    /// There will be no snapshot.
    pub async fn abandon(mut self) -> Thawing {
        // If the guest cannot be reached, the next call says so.
        let _ = self.hold.write_all(&[0]).await;
        Thawing {
            container: self.container,
            _alone: self._alone,
        }
    }

    /// Leaves a snapshot of the machine in new files of `directory`; see
    /// [`caisson_hypervisor::RunningVm::snapshot`]. The streams have ended by now. Returns
    /// when the guest can be reached again.
    pub async fn snapshot(
        self,
        directory: &Path,
        copies: Copies,
        still: WhileStill,
    ) -> (Thawing, Result<()>) {
        let thawing = Thawing {
            container: self.container,
            _alone: self._alone,
        };
        if let Some(problem) = self.problem {
            return (thawing, Err(problem));
        }
        drop(self.hold);
        let sandbox = thawing.container.sandbox();
        let saved = sandbox.inner.vm.snapshot(directory, copies, still).await;
        let result = match sandbox.reconnect().await {
            Ok(()) => saved.map_err(Error::from),
            // The first of two failures is the cause.
            Err(lost) => Err(saved.map_or_else(Error::from, |()| lost)),
        };
        (thawing, result)
    }
}

/// A container that is to go on.
pub struct Thawing {
    container: Container,
    _alone: OwnedRwLockWriteGuard<()>,
}

impl Thawing {
    /// Lets the container go on, with these streams in the place of those that have ended.
    /// One that was paused stays so.
    pub async fn thaw(self, streams: StreamRequest, paused: bool) -> Result<ProcessStreams> {
        let doing = "thawing the container";
        let sandbox = self.container.sandbox();
        sandbox.forward_resolvers_again().await;
        let (stdio, streams) = open_streams(sandbox, streams).await?;
        let request = ThawRequest {
            id: self.container.init().container.clone(),
            stdio: MessageField::some(stdio),
            realtime_ns: realtime_ns(),
            paused,
            ..Default::default()
        };
        sandbox
            .call_with(
                doing,
                async |agent| agent.thaw_container(agent::bounded(), &request).await,
                agent::failed(doing),
            )
            .await?;
        Ok(streams)
    }
}
