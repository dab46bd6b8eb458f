//! A container in a sandbox.

use caisson_protocol::agent::{
    self as api, ContainerRequest, CopyRequest, CreateContainerRequest, ExecRequest, StatsResponse,
    UpdateContainerRequest,
};
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec, Spec};
use protobuf::MessageField;
use tokio::net::UnixStream;

use crate::process::{Process, ProcessStreams, StreamRequest, open_streams};
use crate::{Error, Result, Sandbox, agent, seccomp, validate};

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
}

/// A file put over one of the image.
#[derive(Debug, Clone)]
pub struct RootfsFile {
    /// Absolute path in the container.
    pub path: String,
    /// What it holds.
    pub content: String,
}

/// A container that has been created.
#[derive(Clone)]
pub struct Container {
    init: Process,
    seccomp: Vec<u8>,
}

impl Sandbox {
    /// Makes a container; its first process waits for [`Container::start`].
    pub async fn create_container(
        &self,
        config: ContainerConfig,
    ) -> Result<(Container, ProcessStreams)> {
        validate::specification(&config.spec)?;
        let seccomp = match config
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref())
        {
            Some(profile) => seccomp::compile(profile)?,
            None => Vec::new(),
        };
        let mut request = self.describe(&config)?;
        request.seccomp_bpf = seccomp.clone();
        let (stdio, streams) = open_streams(self, config.streams).await?;
        request.stdio = MessageField::some(stdio);
        let answer = self
            .call_with(
                "creating the container",
                self.inner
                    .agent
                    .create_container(agent::bounded(), &request),
                agent::not_executed("creating the container"),
            )
            .await?;
        let init = Process {
            sandbox: self.clone(),
            container: config.id,
            exec: String::new(),
            pid: answer.pid,
        };
        Ok((Container { init, seccomp }, streams))
    }

    /// Mounts a container's files and starts nothing, for copies in and out.
    pub async fn mount_container(&self, config: &ContainerConfig) -> Result<Container> {
        let request = self.describe(config)?;
        self.call(
            "mounting the container's files",
            self.inner.agent.mount_rootfs(agent::bounded(), &request),
        )
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
        })
    }

    fn describe(&self, config: &ContainerConfig) -> Result<CreateContainerRequest> {
        let mut spec = config.spec.clone();
        // The filter goes ready made; the profile would only be parsed for nothing.
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(None);
        }
        let mut rootfs = api::Rootfs::new();
        match &config.rootfs {
            Rootfs::Disks { image, scratch } => {
                rootfs.image_disk.clone_from(image);
                rootfs.scratch_disk = scratch.clone().unwrap_or_default();
            }
            Rootfs::Share(path) => rootfs.share_path.clone_from(path),
        }
        Ok(CreateContainerRequest {
            id: config.id.clone(),
            spec_json: encode("encoding the container's specification", &spec)?,
            rootfs: MessageField::some(rootfs),
            files: config.files.iter().map(file).collect(),
            init: config.init,
            ..Default::default()
        })
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

fn encode(doing: &'static str, value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::Host {
        doing,
        source: error.into(),
    })
}

impl Container {
    fn sandbox(&self) -> &Sandbox {
        &self.init.sandbox
    }

    fn request(&self) -> ContainerRequest {
        ContainerRequest {
            id: self.init.container.clone(),
            ..Default::default()
        }
    }

    /// The first process.
    pub fn init(&self) -> &Process {
        &self.init
    }

    /// Lets the first process run.
    pub async fn start(&self) -> Result<()> {
        let doing = "starting the container";
        let agent = &self.sandbox().inner.agent;
        let request = self.request();
        let answer = agent.start_container(agent::bounded(), &request);
        self.sandbox()
            .call_with(doing, answer, agent::not_executed(doing))
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
        let (stdio, streams) = open_streams(sandbox, streams).await?;
        let request = ExecRequest {
            container_id: self.init.container.clone(),
            exec_id: exec_id.to_owned(),
            process_json: encode("encoding the process's specification", process)?,
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
                sandbox.inner.agent.exec(agent::bounded(), &request),
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
        let agent = &self.sandbox().inner.agent;
        self.sandbox()
            .call(
                "pausing the container",
                agent.pause_container(agent::bounded(), &self.request()),
            )
            .await
            .map(drop)
    }

    /// Undoes [`Self::pause`].
    pub async fn resume(&self) -> Result<()> {
        let agent = &self.sandbox().inner.agent;
        self.sandbox()
            .call(
                "resuming the container",
                agent.resume_container(agent::bounded(), &self.request()),
            )
            .await
            .map(drop)
    }

    /// Changes limits; those that are not named stay.
    pub async fn update(&self, resources: &LinuxResources) -> Result<()> {
        let request = UpdateContainerRequest {
            id: self.init.container.clone(),
            resources_json: encode("encoding the container's limits", resources)?,
            ..Default::default()
        };
        let agent = &self.sandbox().inner.agent;
        self.sandbox()
            .call(
                "changing the container's limits",
                agent.update_container(agent::bounded(), &request),
            )
            .await
            .map(drop)
    }

    /// What the container uses.
    pub async fn stats(&self) -> Result<StatsResponse> {
        let agent = &self.sandbox().inner.agent;
        self.sandbox()
            .call(
                "reading statistics",
                agent.stats(agent::bounded(), &self.request()),
            )
            .await
    }

    /// Kills what is left of the container and unmounts its files.
    pub async fn delete(&self) -> Result<()> {
        let agent = &self.sandbox().inner.agent;
        self.sandbox()
            .call(
                "removing the container",
                agent.delete_container(agent::bounded(), &self.request()),
            )
            .await
            .map(drop)
    }

    /// Begins to copy a path out: the stream carries a tar archive, to be read
    /// as hostile. The future ends with the copy.
    pub async fn copy_out(
        &self,
        path: &str,
        follow_link: bool,
    ) -> Result<(UnixStream, impl Future<Output = Result<()>> + use<>)> {
        let (stream, mut request) = self.copy_request(path).await?;
        request.follow_link = follow_link;
        let sandbox = self.sandbox().clone();
        let copy = async move {
            let agent = &sandbox.inner.agent;
            sandbox
                .call(
                    "copying out of the container",
                    agent.copy_out(agent::unbounded(), &request),
                )
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
        let (stream, mut request) = self.copy_request(path).await?;
        request.archive = keep_owner;
        let sandbox = self.sandbox().clone();
        let copy = async move {
            let agent = &sandbox.inner.agent;
            sandbox
                .call(
                    "copying into the container",
                    agent.copy_in(agent::unbounded(), &request),
                )
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
