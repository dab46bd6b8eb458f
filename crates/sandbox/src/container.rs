//! A container in a sandbox.

use caisson_protocol::agent::{
    self as api, ContainerRequest, CopyRequest, CreateContainerRequest, ExecRequest, Renewal,
    StatsResponse, ThawRequest, UpdateContainerRequest,
};
use caisson_protocol::agent_ttrpc::AgentClient;
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec, Spec};
use protobuf::{Message, MessageField};
use tokio::net::UnixStream;

use crate::disk::RootfsDisk;
use crate::process::{Process, ProcessStreams, StreamRequest, open_streams};
use crate::{Error, Result, Sandbox, agent, describe, seccomp, validate};

/// A container to be made.
#[derive(Debug, Clone)]
pub struct ContainerConfig {
    /// Name in the guest, unique in the sandbox.
    pub id: String,
    /// The OCI runtime specification.
    pub spec: Spec,
    /// Where its files come from.
    pub rootfs: Rootfs,
    /// Files put over those of the image: `/etc/hosts` and the like.
    pub files: Vec<RootfsFile>,
    /// Run a reaping init as its first process.
    pub init: bool,
    /// Its standard streams.
    pub streams: StreamRequest,
}

/// Where a container's files come from.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// A read-only image disk with a writable layer over it.
    Disks {
        /// Serial number of the disk with the image.
        image: String,
        /// Serial number of the disk for the writable layer; none: guest memory.
        scratch: Option<String>,
    },
    /// A folder of the virtio-fs share.
    Share(String),
    /// A file system of its own.
    Disk(RootfsDisk),
}

/// A file put over one of the image.
#[derive(Debug, Clone)]
pub struct RootfsFile {
    /// Absolute path in the container.
    pub path: String,
    /// What it holds.
    pub content: String,
}

/// The container of a machine that is a copy of another.
#[derive(Debug, Clone)]
pub struct ContainerCopy {
    /// Name in the guest, which is the first one's.
    pub id: String,
    /// The OCI runtime specification of the first one.
    pub spec: Spec,
    /// Host name.
    pub hostname: String,
    /// In place of the first one's.
    pub files: Vec<RootfsFile>,
    /// Its standard streams. It has a terminal if the first one had.
    pub streams: StreamRequest,
}

/// A container that has been created.
#[derive(Clone)]
pub struct Container {
    init: Process,
    seccomp: Vec<u8>,
    /// Serial number of the disk that goes with it.
    disk: Option<String>,
}

impl Sandbox {
    /// Makes a container; its first process waits for [`Container::start`].
    pub async fn create_container(
        &self,
        config: ContainerConfig,
    ) -> Result<(Container, ProcessStreams)> {
        validate::specification(&config.spec)?;
        let seccomp = filter(&config.spec)?;
        let mut request = self.describe(&config)?;
        request.seccomp_bpf = seccomp.clone();
        let mut disk = None;
        if let Rootfs::Disk(wanted) = &config.rootfs {
            let plugged = self.plug_rootfs(wanted).await?;
            disk = Some(plugged.serial.clone());
            request.rootfs.mut_or_insert_default().disk = MessageField::some(plugged);
        }
        let created = self.create(request, config.streams).await;
        if created.is_err()
            && let Some(serial) = &disk
        {
            self.unplug_rootfs(serial).await;
        }
        let (init, streams) = created?;
        let container = Container {
            init,
            seccomp,
            disk,
        };
        Ok((container, streams))
    }

    async fn create(
        &self,
        mut request: CreateContainerRequest,
        streams: StreamRequest,
    ) -> Result<(Process, ProcessStreams)> {
        let _open = self.open().await;
        let (stdio, streams) = open_streams(self, streams).await?;
        request.stdio = MessageField::some(stdio);
        let answer = self
            .call_with(
                "creating the container",
                async |agent| agent.create_container(agent::bounded(), &request).await,
                agent::not_executed("creating the container"),
            )
            .await?;
        let init = Process {
            sandbox: self.clone(),
            container: request.id,
            exec: String::new(),
            pid: answer.pid,
        };
        Ok((init, streams))
    }

    /// Takes over the container of a machine that is a copy of another. It is given its
    /// identity and its streams, and goes on.
    pub async fn copy_container(
        &self,
        config: ContainerCopy,
    ) -> Result<(Container, ProcessStreams)> {
        let doing = "letting the copy go on";
        let seccomp = filter(&config.spec)?;
        let _open = self.open().await;
        let (stdio, streams) = open_streams(self, config.streams).await?;
        let renewal = Renewal {
            hostname: config.hostname,
            files: config.files.iter().map(file).collect(),
            ..Default::default()
        };
        let request = ThawRequest {
            id: config.id,
            stdio: MessageField::some(stdio),
            renewal: MessageField::some(renewal),
            ..Default::default()
        };
        let answer = self
            .call_with(
                doing,
                async |agent| agent.thaw_container(agent::bounded(), &request).await,
                agent::failed(doing),
            )
            .await?;
        let init = Process {
            sandbox: self.clone(),
            container: request.id,
            exec: String::new(),
            pid: answer.pid,
        };
        let container = Container {
            init,
            seccomp,
            disk: None,
        };
        Ok((container, streams))
    }

    /// Mounts a container's files and starts nothing, for copies in and out.
    pub async fn mount_container(&self, config: &ContainerConfig) -> Result<Container> {
        let request = self.describe(config)?;
        self.call("mounting the container's files", async |agent| {
            agent.mount_rootfs(agent::bounded(), &request).await
        })
        .await?;
        let init = Process {
            sandbox: self.clone(),
            container: config.id.clone(),
            exec: String::new(),
            pid: 0,
        };
        Ok(Container {
            init,
            seccomp: Vec::new(),
            disk: None,
        })
    }

    fn describe(&self, config: &ContainerConfig) -> Result<CreateContainerRequest> {
        let mut rootfs = api::Rootfs::new();
        match &config.rootfs {
            Rootfs::Disks { image, scratch } => {
                rootfs.image_disk.clone_from(image);
                rootfs.scratch_disk = scratch.clone().unwrap_or_default();
            }
            Rootfs::Share(path) => rootfs.share_path.clone_from(path),
            // Described when it is there.
            Rootfs::Disk(_) => {}
        }
        Ok(CreateContainerRequest {
            id: config.id.clone(),
            description: describe::container(&config.spec)?
                .write_to_bytes()
                .map_err(|error| Error::Host {
                    doing: "describing the container",
                    source: error.into(),
                })?,
            rootfs: MessageField::some(rootfs),
            files: config.files.iter().map(file).collect(),
            init: config.init,
            ..Default::default()
        })
    }
}

/// The system call filter that a specification asks for.
fn filter(spec: &Spec) -> Result<Vec<u8>> {
    let linux = spec.linux().as_ref();
    match linux.and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => seccomp::compile(profile),
        None => Ok(Vec::new()),
    }
}

fn file(file: &RootfsFile) -> api::File {
    api::File {
        path: file.path.clone(),
        content: file.content.clone().into_bytes(),
        mode: 0o644,
        ..Default::default()
    }
}

impl Container {
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.init.sandbox
    }

    fn request(&self) -> ContainerRequest {
        ContainerRequest {
            id: self.init.container.clone(),
            ..Default::default()
        }
    }

    /// Its name in the guest.
    pub fn id(&self) -> &str {
        &self.init.container
    }

    /// The first process.
    pub fn init(&self) -> &Process {
        &self.init
    }

    /// Lets the first process run.
    pub async fn start(&self) -> Result<()> {
        let doing = "starting the container";
        let request = self.request();
        let _open = self.sandbox().open().await;
        let ask =
            async |agent: AgentClient| agent.start_container(agent::bounded(), &request).await;
        self.sandbox()
            .call_with(doing, ask, agent::not_executed(doing))
            .await
            .map(drop)
    }

    /// Starts one more process. `exec_id` is unique in the container and not empty.
    /// `confined` applies the container's system call filter.
    pub async fn exec(
        &self,
        exec_id: &str,
        process: &ProcessSpec,
        confined: bool,
        streams: StreamRequest,
    ) -> Result<(Process, ProcessStreams)> {
        let doing = "starting a process";
        let sandbox = self.sandbox();
        let _open = sandbox.open().await;
        let (stdio, streams) = open_streams(sandbox, streams).await?;
        let request = ExecRequest {
            container_id: self.init.container.clone(),
            exec_id: exec_id.to_owned(),
            process: MessageField::some(describe::process(process)?),
            stdio: MessageField::some(stdio),
            seccomp_bpf: if confined {
                self.seccomp.clone()
            } else {
                Vec::new()
            },
            ..Default::default()
        };
        let answer = sandbox
            .call_with(
                doing,
                async |agent| agent.exec(agent::bounded(), &request).await,
                agent::not_executed(doing),
            )
            .await?;
        let process = Process {
            sandbox: sandbox.clone(),
            container: request.container_id,
            exec: request.exec_id,
            pid: answer.pid,
        };
        Ok((process, streams))
    }

    /// Freezes every process.
    pub async fn pause(&self) -> Result<()> {
        self.sandbox()
            .call("pausing the container", async |agent| {
                agent
                    .pause_container(agent::bounded(), &self.request())
                    .await
            })
            .await
            .map(drop)
    }

    /// Undoes [`Self::pause`].
    pub async fn resume(&self) -> Result<()> {
        self.sandbox()
            .call("resuming the container", async |agent| {
                agent
                    .resume_container(agent::bounded(), &self.request())
                    .await
            })
            .await
            .map(drop)
    }

    /// Changes limits; those that are not named stay.
    pub async fn update(&self, resources: &LinuxResources) -> Result<()> {
        let request = UpdateContainerRequest {
            id: self.init.container.clone(),
            resources: MessageField::some(describe::resources(resources)),
            ..Default::default()
        };
        self.sandbox()
            .call("changing the container's limits", async |agent| {
                agent.update_container(agent::bounded(), &request).await
            })
            .await
            .map(drop)
    }

    /// What the container uses.
    pub async fn stats(&self) -> Result<StatsResponse> {
        self.sandbox()
            .call("reading statistics", async |agent| {
                agent.stats(agent::bounded(), &self.request()).await
            })
            .await
    }

    /// Kills what is left of the container and unmounts its files.
    pub async fn delete(&self) -> Result<()> {
        self.sandbox()
            .call("removing the container", async |agent| {
                agent
                    .delete_container(agent::bounded(), &self.request())
                    .await
            })
            .await?;
        if let Some(serial) = &self.disk {
            self.sandbox().unplug_rootfs(serial).await;
        }
        Ok(())
    }

    /// Begins to copy a path out: the stream carries a tar archive, to be read
    /// as hostile. The future ends with the copy.
    pub async fn copy_out(
        &self,
        path: &str,
        follow_link: bool,
    ) -> Result<(UnixStream, impl Future<Output = Result<()>> + use<>)> {
        let open = self.sandbox().open().await;
        let (stream, mut request) = self.copy_request(path).await?;
        request.follow_link = follow_link;
        let sandbox = self.sandbox().clone();
        let copy = async move {
            let _open = open;
            let doing = "copying out of the container";
            let ask = async |agent: AgentClient| agent.copy_out(agent::unbounded(), &request).await;
            sandbox
                .call_with(doing, ask, agent::failed(doing))
                .await
                .map(drop)
        };
        Ok((stream, copy))
    }

    /// Begins to copy a tar archive into the folder `path`. The future ends with the copy.
    pub async fn copy_in(
        &self,
        path: &str,
        keep_owner: bool,
    ) -> Result<(UnixStream, impl Future<Output = Result<()>> + use<>)> {
        let open = self.sandbox().open().await;
        let (stream, mut request) = self.copy_request(path).await?;
        request.archive = keep_owner;
        let sandbox = self.sandbox().clone();
        let copy = async move {
            let _open = open;
            let doing = "copying into the container";
            let ask = async |agent: AgentClient| agent.copy_in(agent::unbounded(), &request).await;
            sandbox
                .call_with(doing, ask, agent::failed(doing))
                .await
                .map(drop)
        };
        Ok((stream, copy))
    }

    async fn copy_request(&self, path: &str) -> Result<(UnixStream, CopyRequest)> {
        let (number, stream) = self.sandbox().open_stream().await?;
        let request = CopyRequest {
            container_id: self.init.container.clone(),
            path: path.to_owned(),
            stream: number,
            ..Default::default()
        };
        Ok((stream, request))
    }
}
