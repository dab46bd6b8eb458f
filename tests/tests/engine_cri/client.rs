//! What the kubelet does: gRPC to containerd's CRI plugin, and WebSockets for streams.

use std::net::TcpStream;
use std::path::PathBuf;

use caisson_end_to_end::engine::{Containerd, IMAGE, Release};
use caisson_end_to_end::{COMMAND_DEADLINE, eventually, text};
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    AttachRequest, ContainerConfig, ContainerMetadata, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecRequest, ExecSyncRequest, ImageSpec, ImageStatusRequest,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxStatsRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest,
};
use tonic::transport::{Channel, Endpoint};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// A containerd and a connection to its CRI plugin.
pub struct Cri {
    /// The engine.
    pub engine: Containerd,
    runtime: tokio::runtime::Runtime,
    /// The runtime service.
    pub service: RuntimeServiceClient<Channel>,
}

/// A pod that runs.
pub struct Pod<'a> {
    /// Where.
    pub cri: &'a Cri,
    /// Its id.
    pub id: String,
    config: PodSandboxConfig,
}

impl Cri {
    /// Starts one.
    pub fn start(release: Release) -> Self {
        Self::of(Containerd::with_cri(release))
    }

    /// Connects to one.
    pub fn of(engine: Containerd) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let address = format!("unix://{}", engine.socket().display());
        let endpoint = Endpoint::from_shared(address)
            .expect("an address")
            .timeout(COMMAND_DEADLINE);
        let channel = runtime.block_on(endpoint.connect()).expect("connected");
        let cri = Self {
            service: RuntimeServiceClient::new(channel.clone()),
            runtime,
            engine,
        };
        let mut images = ImageServiceClient::new(channel);
        eventually("the plugin knows the imported image", || {
            let request = ImageStatusRequest {
                image: Some(image()),
                verbose: false,
            };
            let status = cri.runtime.block_on(images.image_status(request));
            status.is_ok_and(|status| status.into_inner().image.is_some())
        });
        cri
    }

    /// Waits for an answer, which must not be an error.
    pub fn ok<T>(&self, call: impl Future<Output = tonic::Result<tonic::Response<T>>>) -> T {
        self.result(call)
            .unwrap_or_else(|status| panic!("{status}"))
    }

    /// Waits for an answer.
    pub fn result<T>(
        &self,
        call: impl Future<Output = tonic::Result<tonic::Response<T>>>,
    ) -> tonic::Result<T> {
        self.runtime.block_on(call).map(tonic::Response::into_inner)
    }

    /// The runtime service, for one call.
    pub fn service(&self) -> RuntimeServiceClient<Channel> {
        self.service.clone()
    }

    /// A pod as the kubelet describes it; `pid` says whose processes its containers see.
    pub fn config(&self, name: &str, pid: NamespaceMode) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "test".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs().to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.engine.cgroup_name()),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(pid)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Runs a pod.
    pub fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_of(self.config(name, NamespaceMode::Container))
    }

    /// Runs a pod.
    pub fn pod_of(&self, config: PodSandboxConfig) -> Pod<'_> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let id = self
            .ok(self.service().run_pod_sandbox(request))
            .pod_sandbox_id;
        Pod {
            cri: self,
            id,
            config,
        }
    }

    fn logs(&self) -> PathBuf {
        self.engine.folder("logs")
    }

    /// Lines of a container's log: stream and text (the CRI log format).
    pub fn log(&self, name: &str) -> Vec<(String, String)> {
        let path = self.logs().join(format!("{name}.log"));
        let log = std::fs::read_to_string(path).unwrap_or_default();
        log.lines()
            .filter_map(|line| {
                let mut words = line.splitn(4, ' ');
                let (_, stream, tag) = (words.next()?, words.next()?, words.next()?);
                assert!(tag == "F" || tag == "P", "{line}");
                Some((stream.to_owned(), words.next()?.to_owned()))
            })
            .collect()
    }

    /// Runs a command in a container to its end: code and both outputs.
    pub fn exec(&self, container: &str, command: &[&str]) -> (i32, String, String) {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: owned(command),
            timeout: 0,
        };
        let answer = self.ok(self.service().exec_sync(request));
        (answer.exit_code, text(&answer.stdout), text(&answer.stderr))
    }

    /// Runs a script in a container, which must succeed, and returns what it printed.
    pub fn shell(&self, container: &str, script: &str) -> String {
        let (code, output, error) = self.exec(container, &["sh", "-ec", script]);
        assert_eq!(code, 0, "{script}: {error}");
        output
    }

    /// Runs a command with streams.
    pub fn exec_stream(&self, container: &str, command: &[&str], tty: bool) -> Streams {
        let request = ExecRequest {
            container_id: container.to_owned(),
            cmd: owned(command),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        let url = self.ok(self.service().exec(request)).url;
        Streams::open(&self.engine, &url)
    }

    /// The streams of a container's own process.
    pub fn attach(&self, container: &str) -> Streams {
        let request = AttachRequest {
            container_id: container.to_owned(),
            stdin: true,
            tty: false,
            stdout: true,
            stderr: true,
        };
        let url = self.ok(self.service().attach(request)).url;
        Streams::open(&self.engine, &url)
    }

    /// Bytes of memory that a pod uses, once that is known.
    pub fn pod_memory(&self, pod: &Pod<'_>) -> Option<u64> {
        let request = PodSandboxStatsRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        let stats = self.ok(self.service().pod_sandbox_stats(request)).stats?;
        Some(stats.linux?.memory?.usage_bytes?.value)
    }

    /// What is known of a container.
    pub fn status(&self, container: &str) -> ContainerStatus {
        let request = ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        let answer = self.ok(self.service().container_status(request));
        answer.status.expect("a status")
    }
}

impl Pod<'_> {
    /// A container's configuration.
    pub fn container(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(image()),
            command: owned(&["sh", "-c", script]),
            log_path: format!("{name}.log"),
            linux: Some(k8s_cri::v1::LinuxContainerConfig {
                security_context: Some(k8s_cri::v1::LinuxContainerSecurityContext {
                    namespace_options: self
                        .config
                        .linux
                        .as_ref()
                        .and_then(|linux| linux.security_context.as_ref())
                        .and_then(|context| context.namespace_options.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Makes and starts a container, and returns its id.
    pub fn run(&self, name: &str, script: &str) -> String {
        self.run_of(self.container(name, script))
    }

    /// Makes and starts a container, and returns its id.
    pub fn run_of(&self, config: ContainerConfig) -> String {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self
            .cri
            .ok(self.cri.service().create_container(request))
            .container_id;
        let request = StartContainerRequest {
            container_id: id.clone(),
        };
        self.cri.ok(self.cri.service().start_container(request));
        id
    }

    /// Stops and removes a container.
    pub fn remove(&self, container: &str) {
        let request = StopContainerRequest {
            container_id: container.to_owned(),
            timeout: 0,
        };
        self.cri.ok(self.cri.service().stop_container(request));
        let request = RemoveContainerRequest {
            container_id: container.to_owned(),
        };
        self.cri.ok(self.cri.service().remove_container(request));
    }

    /// Stops and removes the pod with all that is in it.
    pub fn end(self) {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.cri.ok(self.cri.service().stop_pod_sandbox(request));
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.cri.ok(self.cri.service().remove_pod_sandbox(request));
    }
}

/// The image that every engine here has.
fn image() -> ImageSpec {
    ImageSpec {
        image: IMAGE.to_owned(),
        ..Default::default()
    }
}

/// Which namespaces of the pod a container shares.
fn namespaces(pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The kubelet's protocol for streams over a WebSocket, `v4.channel.k8s.io`: the first byte
/// of each message names the stream.
pub struct Streams(WebSocket<TcpStream>);

impl Streams {
    /// Opens the address that the engine has given.
    fn open(engine: &Containerd, url: &str) -> Self {
        let mut request = url.into_client_request().expect("an address");
        let port = request.uri().port_u16().expect("a port");
        *request.uri_mut() = url.replacen("http://", "ws://", 1).parse().expect("one");
        request.headers_mut().insert(
            "Sec-WebSocket-Protocol",
            "v4.channel.k8s.io".parse().expect("a header"),
        );
        let stream = engine.connect(port);
        let (socket, answer) = tungstenite::client(request, stream).expect("upgraded");
        let protocol = answer.headers().get("Sec-WebSocket-Protocol");
        assert_eq!(
            protocol.and_then(|value| value.to_str().ok()),
            Some("v4.channel.k8s.io")
        );
        Self(socket)
    }

    /// Writes to standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let message = [&[0], bytes].concat();
        self.0.send(Message::binary(message)).expect("sent");
    }

    /// Sets the terminal's size.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let size = format!("\u{4}{{\"Width\":{columns},\"Height\":{rows}}}");
        self.0
            .send(Message::binary(size.into_bytes()))
            .expect("sent");
    }

    /// Reads standard output until it contains something.
    pub fn expect(&mut self, what: &str) {
        let mut seen = String::new();
        while !seen.contains(what) {
            let (stream, bytes) = self
                .next()
                .unwrap_or_else(|| panic!("no {what:?} in {seen:?}"));
            assert_eq!(stream, 1, "{}", text(&bytes));
            seen.push_str(&text(&bytes));
        }
    }

    /// Reads all streams to their end: output, error output and the status that comes last.
    pub fn end(mut self) -> (String, String, serde_json::Value) {
        let mut streams = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        while let Some((stream, bytes)) = self.next() {
            streams[stream].extend(bytes);
        }
        let [_, output, error, status] = streams;
        let status = serde_json::from_slice(&status)
            .unwrap_or_else(|problem| panic!("{problem}: {}", text(&status)));
        (text(&output), text(&error), status)
    }

    fn next(&mut self) -> Option<(usize, Vec<u8>)> {
        loop {
            match self.0.read() {
                Ok(Message::Binary(bytes)) => {
                    let (stream, rest) = bytes.split_first().expect("the name of a stream");
                    return Some((usize::from(*stream), rest.to_vec()));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
