//! Processes beside a container's first.

use std::sync::Arc;

use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted};
use containerd_shim_protos::topics;
use oci_spec::runtime::Process as ProcessSpec;

use super::{Container, watch};
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::process::{Exit, Process, Status};
use crate::stdio::{Io, Owner, Paths};
use crate::translate;

/// One more process.
pub(super) struct Exec {
    pub(super) process: Arc<Process>,
    spec: ProcessSpec,
}

impl Container {
    pub(super) async fn start_exec(self: &Arc<Self>, pod: &Arc<Pod>, exec_id: &str) -> Result<()> {
        let exec = self.exec(exec_id)?;
        let owner = Owner {
            namespace: &pod.place.namespace,
            container: &self.id,
        };
        let io = exec.process.paths.open(owner).await?;
        if let Err(error) = self.make_exec(exec_id, &exec, io).await {
            exec.process.stopped(Exit::now(127));
            return Err(error);
        }
        exec.process.running();
        pod.events.send(
            topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            &TaskExecStarted {
                container_id: self.id.clone(),
                exec_id: exec_id.to_owned(),
                pid: self.pid,
                ..Default::default()
            },
        );
        tokio::spawn(watch(pod.clone(), self.clone(), exec.process.clone()));
        Ok(())
    }

    async fn make_exec(&self, exec_id: &str, exec: &Exec, io: Io) -> Result<()> {
        let (process, streams) = self
            .guest()?
            .exec(exec_id, &exec.spec, true, exec.process.paths.request())
            .await?;
        exec.process.made(process, io.join(streams)).await;
        exec.process.open_input().await
    }

    /// Prepares one more process.
    pub fn add_exec(&self, pod: &Pod, exec_id: &str, spec: &[u8], paths: Paths) -> Result<()> {
        self.guest()?;
        if self.init.status() != Status::Running {
            return Err(Error::State(format!("container {} does not run", self.id)));
        }
        let mut spec: ProcessSpec = serde_json::from_slice(spec)
            .map_err(|error| Error::Invalid(format!("the process's specification: {error}")))?;
        translate::process(&mut spec);
        let process = Arc::new(Process::new(exec_id.to_owned(), paths));
        {
            let mut execs = self.execs();
            if exec_id.is_empty() || execs.contains_key(exec_id) {
                return Err(Error::Exists(format!("process {exec_id:?}")));
            }
            execs.insert(exec_id.to_owned(), Arc::new(Exec { process, spec }));
        }
        pod.events.send(
            topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            &TaskExecAdded {
                container_id: self.id.clone(),
                exec_id: exec_id.to_owned(),
                ..Default::default()
            },
        );
        Ok(())
    }
}
