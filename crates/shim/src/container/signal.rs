//! Signals, and ends that nobody but the one who kills sees.

use std::time::Duration;

use super::{Container, Guest, KILLED};
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::process::{Exit, Process, Status};

/// How long a guest may take to kill a process: a busy one answers later than a fast one,
/// a dead one never.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

impl Container {
    /// Sends a signal.
    pub async fn signal(&self, pod: &Pod, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        if !matches!(self.guest, Guest::Marker) {
            return self.signal_guest(pod, &process, signal, all).await;
        }
        // As pause does: it ends at once, in good order if it was asked.
        let code = match i32::try_from(signal) {
            Ok(libc::SIGTERM | libc::SIGINT) => 0,
            Ok(libc::SIGKILL) => KILLED,
            _ => return Ok(()),
        };
        if process.exit().is_some() {
            return Err(Error::Missing("process already finished".to_owned()));
        }
        self.ended(pod, &process, Exit::now(code));
        Ok(())
    }

    async fn signal_guest(
        &self,
        pod: &Pod,
        process: &Process,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let sent = process.signal(signal, all);
        let sent = if signal == libc::SIGKILL.unsigned_abs() {
            tokio::time::timeout(KILL_DEADLINE, sent).await
        } else {
            Ok(sent.await)
        };
        match sent {
            Ok(Err(Error::Sandbox(caisson_sandbox::Error::GuestEnded { .. }))) => {
                self.end_unstarted(pod, process).await;
                // The engine may delete it as soon as it has the answer.
                process.wait().await;
                Err(Error::Missing("process already finished".to_owned()))
            }
            Ok(sent) => {
                if sent.is_ok() && signal == libc::SIGKILL.unsigned_abs() {
                    self.end_unstarted(pod, process).await;
                }
                sent
            }
            // Nothing outlives it, not even in a guest that does nothing any more.
            Err(_) => {
                tracing::error!(
                    container = self.id,
                    "the guest does not answer; its machine is killed"
                );
                pod.kill().await;
                self.end_unstarted(pod, process).await;
                Ok(())
            }
        }
    }

    /// Tells the end of a process that was killed before it was started: nobody waits for it.
    async fn end_unstarted(&self, pod: &Pod, process: &Process) {
        // A start that is going on has its own way of telling.
        let _turn = self.changing.lock().await;
        if process.status() == Status::Created {
            self.ended(pod, process, Exit::now(KILLED));
        }
    }

    /// Ends what the first process has left behind, as a pid namespace would.
    pub(super) async fn kill_rest(&self) {
        if self.shares_pids
            && let Some(guest) = self.init.guest()
            && let Err(error) = guest.signal(libc::SIGKILL.unsigned_abs(), true).await
        {
            tracing::debug!(%error, container = self.id, "the rest was not killed");
        }
    }
}
