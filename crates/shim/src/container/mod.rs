//! A container, from its creation to its deletion.

mod checkpoint;
mod create;
mod exec;
mod signal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::events::task::{
    TaskDelete, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::topics;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

use checkpoint::Copy;
pub use create::Request;
use exec::Exec;

use crate::bundle::{Bundle, Role};
use crate::error::{Error, Result};
use crate::hooks::{self, Moment, Subject};
use crate::pod::{Machine, Pod};
use crate::process::{Exit, Process, Status};
use crate::tree::Entry;

/// How long the execs of a container whose first process has ended may take to end.
const EXECS_FOLLOW: Duration = Duration::from_secs(2);

/// Exit code of a process whose machine has gone.
const KILLED: u32 = 137;

/// A container.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub bundle: PathBuf,
    /// Process of the host that stands for its processes.
    pub pid: u32,
    spec: Spec,
    role: Role,
    /// Its processes do not end with the first, as no pid namespace does.
    shares_pids: bool,
    guest: Guest,
    init: Arc<Process>,
    execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    paused: Mutex<bool>,
    /// What of the host it sees; unmounted when the container is deleted.
    entries: Mutex<Vec<Entry>>,
    /// One request at a time changes it.
    changing: tokio::sync::Mutex<()>,
}

/// What it is in the guest.
enum Guest {
    /// Nothing: it stands for the pod, which is the machine.
    Marker,
    /// A container.
    Container(caisson_sandbox::Container),
    /// What was in a checkpoint.
    Copy(Box<Copy>),
}

impl Container {
    fn new(
        request: &Request,
        bundle: Bundle,
        machine: &Machine,
        guest: Guest,
        entries: Vec<Entry>,
    ) -> Self {
        Self {
            id: request.id.clone(),
            role: bundle.role(),
            bundle: bundle.path,
            pid: machine.pid,
            shares_pids: shares_pids(&bundle.spec),
            spec: bundle.spec,
            guest,
            init: Arc::new(Process::new(String::new(), request.paths.clone())),
            execs: Mutex::default(),
            paused: Mutex::default(),
            entries: Mutex::new(entries),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Its specification, as the engine wrote it.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    fn hooks(&self, pod: &Pod, moment: Moment) -> Result<()> {
        let subject = Subject {
            id: &self.id,
            pid: self.pid,
            bundle: &self.bundle,
            spec: &self.spec,
        };
        hooks::run(moment, subject, pod.tree.host())
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execs(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exec(&self, exec_id: &str) -> Result<Arc<Exec>> {
        let exec = self.execs().get(exec_id).cloned();
        exec.ok_or_else(|| Error::Missing(format!("process {exec_id} of container {}", self.id)))
    }

    /// A process: the first if there is no id.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        self.exec(exec_id).map(|exec| exec.process.clone())
    }

    fn guest(&self) -> Result<&caisson_sandbox::Container> {
        match &self.guest {
            Guest::Container(guest) => Ok(guest),
            Guest::Copy(copy) => copy
                .guest()
                .ok_or_else(|| Error::State(format!("container {} does not run", self.id))),
            Guest::Marker => Err(Error::State(format!(
                "{} stands for its pod and has no processes",
                self.id
            ))),
        }
    }

    /// Lets the first process run, or starts a prepared one.
    pub async fn start(self: &Arc<Self>, pod: &Arc<Pod>, exec_id: &str) -> Result<()> {
        let _turn = self.changing.lock().await;
        let process = self.process(exec_id)?;
        if process.status() != Status::Created {
            return Err(Error::State("the process has been started".to_owned()));
        }
        if exec_id.is_empty() {
            self.start_first(pod).await
        } else {
            self.start_exec(pod, exec_id).await
        }
    }

    async fn start_first(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        if let Err(error) = self.start_in_guest(pod).await {
            // It will never run: the engine may delete it.
            self.init.stopped(Exit::now(match &error {
                Error::Sandbox(caisson_sandbox::Error::ProgramNotFound(_)) => 127,
                Error::Sandbox(caisson_sandbox::Error::ProgramNotExecutable(_)) => 126,
                _ => KILLED,
            }));
            return Err(error);
        }
        self.init.open_input().await?;
        self.init.running();
        pod.events.send(
            topics::TASK_START_EVENT_TOPIC,
            &TaskStart {
                container_id: self.id.clone(),
                pid: self.pid,
                ..Default::default()
            },
        );
        if let Err(error) = self.hooks(pod, Moment::Started) {
            tracing::warn!(%error, container = self.id, "a hook failed");
        }
        // After the event, so that the end comes after the start.
        tokio::spawn(watch(pod.clone(), self.clone(), self.init.clone()));
        Ok(())
    }

    async fn start_in_guest(&self, pod: &Pod) -> Result<()> {
        // It is there from the first instruction on.
        pod.update_network(&self.spec).await?;
        match &self.guest {
            Guest::Container(guest) => Ok(guest.start().await?),
            Guest::Copy(copy) => self.start_copy(pod, copy).await,
            Guest::Marker => Ok(()),
        }
    }

    /// Freezes every process.
    pub async fn pause(&self, pod: &Pod) -> Result<()> {
        let _turn = self.changing.lock().await;
        self.guest()?.pause().await?;
        self.set_paused(true);
        let container_id = self.id.clone();
        pod.events.send(
            topics::TASK_PAUSED_EVENT_TOPIC,
            &TaskPaused {
                container_id,
                ..Default::default()
            },
        );
        Ok(())
    }

    /// Undoes [`Self::pause`].
    pub async fn resume(&self, pod: &Pod) -> Result<()> {
        let _turn = self.changing.lock().await;
        self.guest()?.resume().await?;
        self.set_paused(false);
        let container_id = self.id.clone();
        pod.events.send(
            topics::TASK_RESUMED_EVENT_TOPIC,
            &TaskResumed {
                container_id,
                ..Default::default()
            },
        );
        Ok(())
    }

    fn set_paused(&self, paused: bool) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
    }

    /// Whether its processes are frozen.
    pub fn is_paused(&self) -> bool {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes limits.
    pub async fn update(&self, resources: &LinuxResources) -> Result<()> {
        match &self.guest {
            Guest::Container(_) | Guest::Copy(_) => Ok(self.guest()?.update(resources).await?),
            Guest::Marker => Ok(()),
        }
    }

    /// What it uses.
    pub async fn stats(&self) -> Result<caisson_protocol::agent::StatsResponse> {
        match &self.guest {
            Guest::Container(_) | Guest::Copy(_) => Ok(self.guest()?.stats().await?),
            Guest::Marker => Ok(caisson_protocol::agent::StatsResponse::new()),
        }
    }

    /// Deletes a process that has ended, and with the first the container.
    pub async fn delete(&self, pod: &Pod, exec_id: &str) -> Result<Exit> {
        let _turn = self.changing.lock().await;
        let process = self.process(exec_id)?;
        let exit = match process.status() {
            Status::Stopped(exit) => exit,
            // One that was never started has nothing to lose.
            Status::Created => Exit::now(KILLED),
            Status::Running => return Err(Error::State("the process still runs".to_owned())),
        };
        process.stopped(exit);
        if !exec_id.is_empty() {
            process.finish().await;
            self.execs().remove(exec_id);
            // Whoever listens for deletions takes them for the container's.
            return Ok(exit);
        }
        self.delete_all(pod).await;
        pod.events.send(
            topics::TASK_DELETE_EVENT_TOPIC,
            &TaskDelete {
                container_id: self.id.clone(),
                pid: self.pid,
                exit_status: exit.code,
                exited_at: MessageField::some(Timestamp::from(exit.at)),
                ..Default::default()
            },
        );
        Ok(exit)
    }

    async fn delete_all(&self, pod: &Pod) {
        self.discard().await;
        pod.remove(&self.id);
        if pod.is_over() {
            pod.stop().await;
        }
        self.entries().clear();
        if let Err(error) = self.hooks(pod, Moment::Deleted) {
            tracing::warn!(%error, container = self.id, "a hook failed");
        }
    }

    /// Takes it away from the guest and lets go of its streams.
    async fn discard(&self) {
        if let Ok(guest) = self.guest()
            && let Err(error) = guest.delete().await
        {
            // The machine may have ended; nothing is left in it then.
            tracing::debug!(%error, container = self.id, "the guest did not delete it");
        }
        self.init.finish().await;
    }

    /// Records and tells the end of a process, once.
    fn ended(&self, pod: &Pod, process: &Process, exit: Exit) {
        if !process.stopped(exit) {
            return;
        }
        let id = if process.exec_id.is_empty() {
            &self.id
        } else {
            &process.exec_id
        };
        pod.events.send(
            topics::TASK_EXIT_EVENT_TOPIC,
            &TaskExit {
                container_id: self.id.clone(),
                id: id.clone(),
                pid: self.pid,
                exit_status: exit.code,
                exited_at: MessageField::some(Timestamp::from(exit.at)),
                ..Default::default()
            },
        );
    }

    async fn execs_ended(&self) {
        let running: Vec<_> = self
            .execs()
            .values()
            .filter(|exec| exec.process.status() == Status::Running)
            .cloned()
            .collect();
        let ended = async {
            for exec in running {
                exec.process.wait().await;
            }
        };
        // They end with their pid namespace, if they have that of the first process.
        let _ = tokio::time::timeout(EXECS_FOLLOW, ended).await;
    }
}

/// Waits for the end of a process and tells it.
async fn watch(pod: Arc<Pod>, container: Arc<Container>, process: Arc<Process>) {
    let exit = match process.guest() {
        Some(guest) => match guest.wait().await {
            Ok(exit) => {
                if exit.oom_killed {
                    let container_id = container.id.clone();
                    pod.events.send(
                        topics::TASK_OOM_EVENT_TOPIC,
                        &TaskOOM {
                            container_id,
                            ..Default::default()
                        },
                    );
                }
                Exit::now(exit.code.into())
            }
            Err(error) => {
                tracing::error!(%error, container = container.id, "a process is lost");
                Exit::now(KILLED)
            }
        },
        // The marker ends with the machine at the latest.
        None => match pod.running().await {
            Some(machine) => {
                tokio::select! {
                    exit = process.wait() => exit,
                    reason = machine.sandbox.wait() => {
                        tracing::warn!(?reason, "the machine of the pod has ended");
                        Exit::now(KILLED)
                    }
                }
            }
            None => Exit::now(KILLED),
        },
    };
    if process.exec_id.is_empty() {
        container.kill_rest().await;
    }
    process.drained().await;
    if process.exec_id.is_empty() {
        container.execs_ended().await;
    }
    container.ended(&pod, &process, exit);
}

/// Whether a specification has no pid namespace of its own.
fn shares_pids(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    !namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}
