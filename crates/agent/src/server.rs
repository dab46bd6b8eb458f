//! The agent's API (`proto/agent.proto`): requests in, calls of containers out.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use caisson_protocol::agent::{
    ConfigureRequest, ConfigureResponse, ContainerRequest, CopyRequest, CopyResponse,
    CreateContainerRequest, CreateContainerResponse, Empty, ExecRequest, ExecResponse,
    ForwardResolverRequest, FreezeRequest, FreezeResponse, ListProcessesResponse, ProcessRequest,
    ResizeRequest, SignalRequest, StatsResponse, ThawRequest, ThawResponse, UpdateContainerRequest,
    UpdateNetworkRequest, WaitResponse,
};
use caisson_protocol::agent_ttrpc::Agent;
use tokio::io::AsyncReadExt;
use ttrpc::r#async::TtrpcContext;

use crate::boot::{self, monotonic_ns};
use crate::child::{CopyIn, CopyOut, TerminalSize};
use crate::container::{self, Container, Spare};
use crate::disks::Disks;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::reaper::Reaper;
use crate::resolver::Resolvers;
use crate::standby::stand_by;
use crate::streams::Streams;
use crate::{configure, network, process_list, stdio, template};

/// How long what the host has sent to a program may take to come.
const INPUT_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of a page, in which the kernel counts a process's memory.
const PAGE: u64 = 4096;

/// Serves the host.
#[derive(Debug)]
pub struct Server {
    streams: Arc<Streams>,
    resolvers: Resolvers,
    reaper: Arc<Reaper>,
    started_ns: i64,
    ready_ns: i64,
    host: Arc<Host>,
    disks: Arc<Disks>,
    spare: Arc<Spare>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

impl Server {
    /// `started_ns` is when the agent began, by the guest's monotonic clock.
    pub fn new(
        streams: Arc<Streams>,
        reaper: Arc<Reaper>,
        started_ns: i64,
        host: Arc<Host>,
        disks: Arc<Disks>,
        spare: Arc<Spare>,
    ) -> Self {
        Self {
            host,
            disks,
            spare,
            streams,
            resolvers: Resolvers::default(),
            reaper,
            started_ns,
            ready_ns: monotonic_ns(),
            containers: Mutex::default(),
        }
    }

    fn containers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.containers().get(id).cloned();
        container.ok_or_else(|| Error::Missing(format!("container {id:?}")))
    }

    /// A name that no container has.
    fn free(&self, id: &str) -> Result<()> {
        if self.containers().contains_key(id) {
            return Err(Error::Invalid(format!("there is a container {id:?}")));
        }
        Ok(())
    }

    async fn copy_stream(&self, number: u64) -> Result<OwnedFd> {
        let stream = self.streams.take(number).await?;
        let stream = stream.ok_or_else(|| Error::Invalid("a copy needs a stream".to_owned()))?;
        stdio::blocking(&stream)
    }
}

#[async_trait]
impl Agent for Server {
    async fn configure(
        &self,
        _: &TtrpcContext,
        request: ConfigureRequest,
    ) -> ttrpc::Result<ConfigureResponse> {
        configure::configure(&request)?;
        Ok(ConfigureResponse {
            agent_started_ns: self.started_ns,
            agent_ready_ns: self.ready_ns,
            kernel_release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            ..Default::default()
        })
    }

    async fn update_network(
        &self,
        _: &TtrpcContext,
        request: UpdateNetworkRequest,
    ) -> ttrpc::Result<Empty> {
        network::update(&request)?;
        Ok(Empty::new())
    }

    async fn forward_resolver(
        &self,
        _: &TtrpcContext,
        request: ForwardResolverRequest,
    ) -> ttrpc::Result<Empty> {
        let address = network::address(&request.address)?;
        let stream = self.streams.take(request.stream).await?;
        let stream =
            stream.ok_or_else(|| Error::Invalid("a resolver needs a stream".to_owned()))?;
        self.resolvers.forward(address, stream).await?;
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<CreateContainerResponse> {
        self.free(&request.id)?;
        let id = request.id.clone();
        let container = Container::create(
            request,
            &self.disks,
            &self.streams,
            &self.spare,
            &self.reaper,
        )
        .await?;
        let pid = container.process("")?.pid();
        self.containers().insert(id, Arc::new(container));
        Ok(CreateContainerResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.container(&request.id)?.start().await?;
        self.host.program_runs();
        Ok(Empty::new())
    }

    async fn delete_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let Ok(container) = self.container(&request.id) else {
            return Ok(Empty::new());
        };
        container.delete().await?;
        self.containers().remove(&request.id);
        Ok(Empty::new())
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.container(&request.id)?.cgroup()?.freeze(true).await?;
        Ok(Empty::new())
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.container(&request.id)?.cgroup()?.freeze(false).await?;
        Ok(Empty::new())
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: UpdateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.container(&request.id)?;
        container.cgroup()?.update(&request.resources)?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ExecResponse> {
        let container = self.container(&request.container_id)?;
        let pid = container
            .exec(&request, &self.streams, &self.reaper)
            .await?;
        Ok(ExecResponse {
            pid,
            ..Default::default()
        })
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: SignalRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.container(&request.container_id)?;
        if request.all {
            container.signal_all(request.signal)?;
        } else {
            container
                .process(&request.exec_id)?
                .signal(request.signal)?;
        }
        Ok(Empty::new())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: ProcessRequest,
    ) -> ttrpc::Result<WaitResponse> {
        let container = self.container(&request.container_id)?;
        let (exit, oom_killed) = container.wait(&request.exec_id).await?;
        Ok(WaitResponse {
            exit_code: exit.code.into(),
            oom_killed,
            exited_at_ns: exit.at_ns,
            ..Default::default()
        })
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: ResizeRequest,
    ) -> ttrpc::Result<Empty> {
        let size = TerminalSize {
            rows: u16::try_from(request.rows).unwrap_or(u16::MAX),
            columns: u16::try_from(request.columns).unwrap_or(u16::MAX),
        };
        self.container(&request.container_id)?
            .process(&request.exec_id)?
            .resize(size)?;
        Ok(Empty::new())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<ListProcessesResponse> {
        let container = self.container(&request.id)?;
        Ok(ListProcessesResponse {
            processes: process_list::describe(&container.cgroup()?.processes()),
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<StatsResponse> {
        let mut stats = self.container(&request.id)?.cgroup()?.stats();
        let system = rustix::system::sysinfo();
        stats.memory_total_bytes = system.totalram * u64::from(system.mem_unit);
        stats.agent_rss_bytes = resident_bytes();
        stats.interfaces = network::stats()?;
        Ok(stats)
    }

    async fn mount_rootfs(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.free(&request.id)?;
        let id = request.id.clone();
        let container = Container::mount(request, &self.disks)?;
        self.containers().insert(id, Arc::new(container));
        Ok(Empty::new())
    }

    async fn copy_out(
        &self,
        _: &TtrpcContext,
        request: CopyRequest,
    ) -> ttrpc::Result<CopyResponse> {
        let container = self.container(&request.container_id)?;
        let copy = CopyOut {
            path: container::absolute(&request.path)?,
            follow_link: request.follow_link,
            stream: self.copy_stream(request.stream).await?,
        };
        let kind = container
            .in_files(&self.reaper, |reporter| copy.execute(reporter))
            .await?;
        Ok(CopyResponse {
            is_directory: kind == "folder",
            ..Default::default()
        })
    }

    async fn copy_in(&self, _: &TtrpcContext, request: CopyRequest) -> ttrpc::Result<CopyResponse> {
        let container = self.container(&request.container_id)?;
        let copy = CopyIn {
            folder: container::absolute(&request.path)?,
            keep_owner: request.archive,
            stream: self.copy_stream(request.stream).await?,
        };
        container
            .in_files(&self.reaper, |reporter| copy.execute(reporter))
            .await?;
        Ok(CopyResponse::new())
    }

    async fn freeze_container(
        &self,
        _: &TtrpcContext,
        request: FreezeRequest,
    ) -> ttrpc::Result<FreezeResponse> {
        let stream = self.streams.take(request.stream).await?;
        let mut stream =
            stream.ok_or_else(|| Error::Invalid("a freeze needs a stream".to_owned()))?;
        let container = self.container(&request.id)?;
        container.freeze().await?;
        let input = match container.leave().await {
            Ok(input) => input,
            Err(error) => {
                return Ok(FreezeResponse {
                    problem: error.to_string(),
                    ..Default::default()
                });
            }
        };
        let host = Arc::clone(&self.host);
        tokio::spawn(async move {
            // Whatever ends the stream, the host waits for the agent to let go.
            if let Ok(1..) = stream.read(&mut [0]).await {
                return;
            }
            if let Some(input) = input {
                let _ = tokio::time::timeout(INPUT_DEADLINE, input).await;
            }
            drop(stream);
            if let Err(error) = host.let_go().await {
                // Nobody can reach this guest any more.
                eprintln!("agent: {error}");
                boot::restart();
            }
        });
        Ok(FreezeResponse::new())
    }

    async fn thaw_container(
        &self,
        _: &TtrpcContext,
        request: ThawRequest,
    ) -> ttrpc::Result<ThawResponse> {
        configure::set_clock(request.realtime_ns)?;
        let container = self.container(&request.id)?;
        let pid = container
            .thaw(&request, &self.streams, &self.reaper)
            .await?;
        self.host.program_runs();
        Ok(ThawResponse {
            pid,
            ..Default::default()
        })
    }

    async fn stand_by(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        let wanted = template::wanted()?
            .ok_or_else(|| Error::Invalid("this machine is to be no template".to_owned()))?;
        stand_by(&wanted, &self.disks, &self.spare, &self.reaper).await?;
        Ok(Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        rustix::fs::sync();
        boot::restart()
    }
}

/// The agent's own memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * PAGE
}
