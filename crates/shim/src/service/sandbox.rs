//! The Sandbox service, through which containerd 1.7 and later makes a pod without a
//! container that stands for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::Sandbox;
use containerd_shim_protos::types::platform::Platform;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::watch;
use ttrpc::r#async::TtrpcContext;

use crate::bundle::Bundle;
use crate::description;
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::process::Exit;

/// Names of the states, as containerd has them.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// Serves one pod.
pub struct SandboxService {
    pod: Arc<Pod>,
    described: Mutex<Option<Bundle>>,
    started: Mutex<Option<(SystemTime, u32)>>,
    ended: watch::Sender<Option<Exit>>,
}

impl SandboxService {
    /// One whose sandbox has not been started.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self {
            pod,
            described: Mutex::default(),
            started: Mutex::default(),
            ended: watch::Sender::new(None),
        }
    }

    fn started(&self) -> Option<(SystemTime, u32)> {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn described(&self) -> MutexGuard<'_, Option<Bundle>> {
        self.described
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, id: &str) -> Result<()> {
        if id == self.pod.place.id {
            return Ok(());
        }
        Err(Error::Missing(format!("sandbox {id}")))
    }

    async fn start(&self, id: &str) -> Result<(SystemTime, u32)> {
        self.known(id)?;
        if self.started().is_some() {
            return Err(Error::State("the sandbox has been started".to_owned()));
        }
        // The engine need not have written a specification for it.
        let bundle = self
            .described()
            .clone()
            .or_else(|| Bundle::read(&self.pod.place.folder).ok());
        let machine = self.pod.machine(bundle.as_ref(), None).await?;
        let started = (SystemTime::now(), machine.pid);
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        let ended = self.ended.clone();
        tokio::spawn(async move {
            machine.sandbox.wait().await;
            ended.send_replace(Some(Exit::now(0)));
        });
        Ok(started)
    }

    async fn wait(&self) -> Exit {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(exit)) => *exit,
            // The sender is a part of this service.
            _ => Exit::now(0),
        }
    }
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        self.known(&request.sandbox_id)?;
        let options = request.options.get_or_default();
        *self.described() =
            description::read(options, &request.sandbox_id, &self.pod.place.folder)?;
        if !request.netns_path.is_empty() {
            self.pod.set_network_namespace(request.netns_path.into())?;
        }
        self.pod.set_sandbox();
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let (at, pid) = self.start(&request.sandbox_id).await?;
        Ok(StartSandboxResponse {
            pid,
            created_at: MessageField::some(Timestamp::from(at)),
            ..Default::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        _: PlatformRequest,
    ) -> ttrpc::Result<PlatformResponse> {
        Ok(PlatformResponse {
            platform: MessageField::some(Platform {
                os: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        self.known(&request.sandbox_id)?;
        self.pod.stop().await;
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(Exit::now(0));
            }
            first
        });
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        self.known(&request.sandbox_id)?;
        let exit = self.wait().await;
        Ok(WaitSandboxResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(Timestamp::from(exit.at)),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        self.known(&request.sandbox_id)?;
        let ended = *self.ended.borrow();
        let started = self.started();
        let ready = started.is_some() && ended.is_none();
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: started.map_or(0, |(_, pid)| pid),
            state: if ready { READY } else { NOT_READY }.to_owned(),
            created_at: started.map(|(at, _)| Timestamp::from(at)).into(),
            exited_at: ended.map(|exit| Timestamp::from(exit.at)).into(),
            ..Default::default()
        })
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: PingRequest,
    ) -> ttrpc::Result<PingResponse> {
        self.known(&request.sandbox_id)?;
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        self.known(&request.sandbox_id)?;
        self.pod.finish();
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        _: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        Err(Error::Unsupported("metrics of a whole sandbox, which its containers have,").into())
    }
}
