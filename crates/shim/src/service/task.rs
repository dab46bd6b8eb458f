//! The Task service: messages in, calls of the pod and its containers out.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status as TaskStatus, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{CodedInputStream, MessageField, MessageFull};
use ttrpc::r#async::TtrpcContext;

use crate::container::Request;
use crate::error::{Error, Result};
use crate::metrics;
use crate::pod::Pod;
use crate::process::Status;
use crate::stdio::Paths;

/// Serves one pod.
pub struct TaskService(pub Arc<Pod>);

impl TaskService {
    async fn create_task(&self, request: CreateTaskRequest) -> Result<u32> {
        if !request.parent_checkpoint.is_empty() {
            return Err(Error::Unsupported("a checkpoint that is based on another"));
        }
        let request = Request {
            id: request.id,
            bundle: request.bundle.into(),
            rootfs: request.rootfs,
            paths: Paths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            checkpoint: (!request.checkpoint.is_empty()).then(|| request.checkpoint.into()),
        };
        match self.0.create(request).await {
            Ok(container) => Ok(container.pid),
            Err(error) => {
                if self.0.is_over() {
                    // There is nobody else who would end it.
                    self.0.kill().await;
                }
                Err(error)
            }
        }
    }

    async fn update_task(&self, request: UpdateTaskRequest) -> Result<()> {
        let container = self.0.container(&request.id)?;
        let resources = serde_json::from_slice(&request.resources.get_or_default().value)
            .map_err(|error| Error::Invalid(format!("the limits: {error}")))?;
        container.update(&resources).await
    }

    async fn stats_task(&self, request: StatsRequest) -> Result<Any> {
        let stats = self.0.container(&request.id)?.stats().await?;
        pack(&metrics::from_guest(&stats))
    }

    fn state_task(&self, request: StateRequest) -> Result<StateResponse> {
        let container = self.0.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let status = match process.status() {
            Status::Created => TaskStatus::CREATED,
            Status::Running if container.is_paused() => TaskStatus::PAUSED,
            Status::Running => TaskStatus::RUNNING,
            Status::Stopped(_) => TaskStatus::STOPPED,
        };
        let exit = process.exit();
        Ok(StateResponse {
            id: request.id,
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: container.pid,
            status: status.into(),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status: exit.map_or(0, |exit| exit.code),
            exited_at: exit.map(|exit| Timestamp::from(exit.at)).into(),
            exec_id: request.exec_id,
            ..Default::default()
        })
    }
}

/// Whether the container is to end when its checkpoint is made: field 1 of
/// `containerd.runc.v1.CheckpointOptions`, the only options that engines send.
fn exits(options: &[u8]) -> Result<bool> {
    const EXIT: u32 = 1 << 3;
    let mut exit = false;
    let mut read = || -> protobuf::Result<()> {
        let mut stream = CodedInputStream::from_bytes(options);
        while let Some(tag) = stream.read_raw_tag_or_eof()? {
            match tag {
                EXIT => exit = stream.read_bool()?,
                other => protobuf::rt::skip_field_for_tag(other, &mut stream)?,
            }
        }
        Ok(())
    };
    read().map_err(|error| Error::Invalid(format!("the checkpoint's options: {error}")))?;
    Ok(exit)
}

/// A message in an envelope that names its type.
pub fn pack<M: MessageFull>(message: &M) -> Result<Any> {
    let value = message
        .write_to_bytes()
        .map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(Any {
        type_url: M::descriptor().full_name().to_owned(),
        value,
        ..Default::default()
    })
}

/// Turns an error into a status, and puts it into the log.
fn told<T>(call: &'static str, id: &str, result: Result<T>) -> ttrpc::Result<T> {
    result.map_err(|error| {
        tracing::debug!(%error, call, id, "refused");
        error.into()
    })
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        Ok(self.state_task(request)?)
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let id = request.id.clone();
        let pid = told("create", &id, self.create_task(request).await)?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let container = self.0.container(&request.id)?;
        let started = container.start(&self.0, &request.exec_id).await;
        told("start", &request.id, started)?;
        Ok(StartResponse {
            pid: container.pid,
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let container = self.0.container(&request.id)?;
        let deleted = container.delete(&self.0, &request.exec_id).await;
        let exit = told("delete", &request.id, deleted)?;
        Ok(DeleteResponse {
            pid: container.pid,
            exit_status: exit.code,
            exited_at: MessageField::some(Timestamp::from(exit.at)),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.0.container(&request.id)?;
        // Engines look these up on the host, where a number of the guest's names somebody
        // else. What runs there for the container is the machine.
        let processes = vec![ProcessInfo {
            pid: container.pid,
            ..Default::default()
        }];
        Ok(PidsResponse {
            processes,
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let paused = self.0.container(&request.id)?.pause(&self.0).await;
        told("pause", &request.id, paused)?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let resumed = self.0.container(&request.id)?.resume(&self.0).await;
        told("resume", &request.id, resumed)?;
        Ok(Empty::new())
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.0.container(&request.id)?;
        let exit = exits(&request.options.get_or_default().value)?;
        let left = container.checkpoint(&self.0, request.path.as_ref(), exit);
        told("checkpoint", &request.id, left.await)?;
        Ok(Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let container = self.0.container(&request.id)?;
        let killed = container
            .signal(&self.0, &request.exec_id, request.signal, request.all)
            .await;
        told("kill", &request.id, killed)?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let container = self.0.container(&request.id)?;
        let paths = Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let spec = &request.spec.get_or_default().value;
        let added = container.add_exec(&self.0, &request.exec_id, spec, paths);
        told("exec", &request.id, added)?;
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let process = self.0.container(&request.id)?.process(&request.exec_id)?;
        let resized = process.resize(request.height, request.width).await;
        told("resize", &request.id, resized)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let process = self.0.container(&request.id)?.process(&request.exec_id)?;
        if request.stdin {
            process.close_input().await;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let id = request.id.clone();
        told("update", &id, self.update_task(request).await)?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let process = self.0.container(&request.id)?.process(&request.exec_id)?;
        let exit = process.wait().await;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(Timestamp::from(exit.at)),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let id = request.id.clone();
        let stats = told("stats", &id, self.stats_task(request).await)?;
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        let container = self.0.container(&request.id);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: container.map_or(0, |container| container.pid),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        if request.now || self.0.ends_with(&request.id) {
            self.0.finish();
        }
        Ok(Empty::new())
    }
}

#[cfg(test)]
mod tests {
    use super::exits;

    #[test]
    fn options_of_a_checkpoint_are_read() {
        assert!(!exits(&[]).expect("none"));
        assert!(exits(&[0x08, 1, 0x22, 1, b'x', 0x18, 1]).expect("three fields"));
        assert!(!exits(&[0x18, 1]).expect("another field"));
        assert!(exits(&[0x08]).is_err());
    }
}
