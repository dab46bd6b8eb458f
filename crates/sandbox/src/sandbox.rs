//! The machine, from its first instruction to its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use caisson_hypervisor::{ExitReason, Hypervisor, RunningVm, TemplateStore, VmConfig};
use caisson_network::{Attachment, Condition};
use caisson_protocol::agent::ConfigureRequest;
use caisson_protocol::agent_ttrpc::AgentClient;
use caisson_protocol::{AGENT_PORT, LOG_PORT, SHARE_TAG, STREAM_PORT};
use protobuf::MessageField;
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

use crate::rehearsal::rehearsal;
use crate::start::{self, Origin, Snapshot, Started};
use crate::timing::Timing;
use crate::{Error, Result, agent, console, network};

/// Bytes of the agent's log that are kept; a guest may talk for ever.
const GUEST_LOG_LIMIT: u64 = 16 << 20;

/// How long a guest may take to sync its disks and power off.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// How long an agent may take to call again after a snapshot.
const RETURN_DEADLINE: Duration = Duration::from_secs(30);

/// A sandbox to be started.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// The machine. `host_ports` and `rehearsal` are filled in by [`Sandbox::start`].
    pub vm: VmConfig,
    /// Its networks; without any, the guest has the loopback only. The machine's
    /// interfaces are filled in by [`Sandbox::start`].
    pub network: Option<Attachment>,
    /// Where there are templates to be forked; without it, every machine boots.
    pub templates: Option<TemplateStore>,
    /// Instead: what the machine is to be a copy of. Its container is taken over by
    /// [`Sandbox::copy_container`].
    pub snapshot: Option<Snapshot>,
    /// Who the guest is.
    pub identity: Identity,
    /// How long the guest may take from the first instruction to a listening agent.
    pub boot_deadline: Duration,
    /// Receives the agent's log and the kernel's messages, up to 16 MiB.
    pub guest_log: PathBuf,
}

/// What makes one guest differ from another.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Host name.
    pub hostname: String,
    /// Kernel parameters of the whole guest.
    pub sysctls: BTreeMap<String, String>,
}

/// A running machine whose agent answers.
///
/// Clones are the same sandbox. The machine ends with the last clone at the latest.
#[derive(Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) vm: Box<dyn RunningVm>,
    agent: Mutex<Link>,
    /// Whoever speaks to the agent holds it for reading; for writing, who cuts the
    /// connection and makes another.
    pub(crate) gate: Arc<RwLock<()>>,
    pub(crate) network: Option<Attachment>,
    /// One change of the network at a time is brought into the guest.
    pub(crate) following: tokio::sync::Mutex<()>,
    /// Resolvers that the guest has been given.
    pub(crate) resolvers: tokio::sync::Mutex<Vec<IpAddr>>,
    /// Told of each change that has been brought there.
    pub(crate) followed: watch::Sender<()>,
    origin: Origin,
    /// Why we ended the machine ourselves: a part of it beside its VMM was lost.
    lost: OnceLock<ExitReason>,
    pub(crate) console: PathBuf,
    guest_log: PathBuf,
    next_stream: AtomicU64,
    pub(crate) next_disk: AtomicU64,
}

/// The connection to the agent.
struct Link {
    client: AgentClient,
    /// How many there were before.
    number: u64,
}

impl Sandbox {
    /// Makes the machine, waits for its agent and gives it its identity.
    pub async fn start(
        hypervisor: &dyn Hypervisor,
        mut config: SandboxConfig,
        timing: &Timing,
    ) -> Result<Self> {
        config.vm.host_ports = vec![LOG_PORT];
        let mut expected = None;
        if let Some(attachment) = &config.network {
            config.vm.interfaces = network::interfaces(attachment);
            config.vm.network_namespace = attachment.namespace();
            if config.vm.has_plain_network() {
                let guest = attachment.guest();
                let parameter = network::template_parameter(&guest)?;
                config.vm.template_parameters.push(parameter);
                expected = Some(guest);
            }
        }
        config.vm.rehearsal = Some(rehearsal(expected.as_ref()));
        if let Some(snapshot) = &config.snapshot {
            let started = start::copied(hypervisor, snapshot, &config, timing).await?;
            return Self::introduce(started, &config, None, timing).await;
        }
        let reason = match &config.templates {
            None => "templates are off".to_owned(),
            Some(templates) => match Self::fork(hypervisor, templates, &config, timing).await? {
                Ok(sandbox) => return Ok(sandbox),
                Err(reason) => reason,
            },
        };
        let started = start::booted(hypervisor, &config, reason, timing).await?;
        Self::introduce(started, &config, None, timing).await
    }

    /// A fork, or why its machine has to boot.
    async fn fork(
        hypervisor: &dyn Hypervisor,
        templates: &TemplateStore,
        config: &SandboxConfig,
        timing: &Timing,
    ) -> Result<std::result::Result<Self, String>> {
        let forked = start::forked(hypervisor, templates, config, timing).await;
        let (started, template) = match forked {
            Ok(forked) => forked,
            Err(reason) => return Ok(Err(reason)),
        };
        let deadline = Some(start::fork_deadline(config));
        match Self::introduce(started, config, deadline, timing).await {
            // That its agent does not live is the template's fault.
            Err(error @ (Error::GuestEnded { .. } | Error::BootDeadline { .. })) => {
                Ok(Err(start::discard(templates, &template, &error)))
            }
            introduced => introduced.map(Ok),
        }
    }

    /// Gives a guest its identity. Its agent may take so long to answer.
    async fn introduce(
        started: Started,
        config: &SandboxConfig,
        deadline: Option<Duration>,
        timing: &Timing,
    ) -> Result<Self> {
        let Started {
            vm,
            log,
            logged,
            origin,
        } = started;
        tokio::spawn(keep_log(log, logged, config.guest_log.clone()));

        let stage = timing.stage("agent");
        let client = connect(vm.as_ref(), &config.vm.console).await?;
        let sandbox = Self {
            inner: Arc::new(Inner {
                vm,
                agent: Mutex::new(Link { client, number: 0 }),
                gate: Arc::default(),
                network: config.network.clone(),
                following: tokio::sync::Mutex::default(),
                resolvers: tokio::sync::Mutex::default(),
                followed: watch::Sender::new(()),
                origin,
                lost: OnceLock::new(),
                console: config.vm.console.clone(),
                guest_log: config.guest_log.clone(),
                next_stream: AtomicU64::new(1),
                next_disk: AtomicU64::new(0),
            }),
        };
        let mut devices = sandbox.inner.vm.new_devices();
        devices.extend(sandbox.inner.vm.renew_networks().await?);
        let request = ConfigureRequest {
            // In a copy it is mounted.
            share_tag: if config.vm.share.is_some() && config.snapshot.is_none() {
                SHARE_TAG.to_owned()
            } else {
                String::new()
            },
            devices,
            again: config.snapshot.is_some(),
            ..Default::default()
        };
        let configured = sandbox.configure(&config.identity, request, timing);
        match deadline {
            None => configured.await?,
            Some(deadline) => match tokio::time::timeout(deadline, configured).await {
                Ok(configured) => configured?,
                Err(_) => return Err(start::late(&config.vm.console, deadline)),
            },
        }
        if let Some(attachment) = &sandbox.inner.network {
            attachment.ready().await?;
        }
        sandbox.watch_network();
        sandbox.follow_network()?;
        drop(stage);
        Ok(sandbox)
    }

    /// Ends the machine with its network: a guest without the network that it was given is
    /// not what was asked for.
    fn watch_network(&self) {
        let Some(mut condition) = self.network_condition() else {
            return;
        };
        let sandbox = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let ended = condition.wait_for(|now| matches!(now, Condition::Ended(_)));
            let Ok(Condition::Ended(reason)) = ended.await.as_deref().cloned() else {
                return;
            };
            if let Some(inner) = sandbox.upgrade() {
                inner.network_ended(&reason).await;
            }
        });
    }

    /// How it is with the network, if a process carries it: [`Self::processes`] has that process
    /// from when it is needed.
    pub fn network_condition(&self) -> Option<watch::Receiver<Condition>> {
        let attachment = self.inner.network.as_ref();
        attachment.and_then(Attachment::condition)
    }

    async fn configure(
        &self,
        identity: &Identity,
        mut request: ConfigureRequest,
        timing: &Timing,
    ) -> Result<()> {
        request.entropy = agent::entropy()?;
        request.realtime_ns = realtime_ns();
        request.hostname.clone_from(&identity.hostname);
        request.sysctls = identity.sysctls.clone().into_iter().collect();
        if let Some(attachment) = &self.inner.network {
            request.network = MessageField::some(network::describe(&attachment.guest()));
        }
        let begin = Instant::now();
        let answer = self
            .call("configuring the guest", async |agent: AgentClient| {
                agent.configure(agent::bounded(), &request).await
            })
            .await?;
        timing.add("agent: configure", begin, begin.elapsed());
        tracing::debug!(
            kernel = console::printable(&answer.kernel_release),
            "guest configured"
        );
        Ok(())
    }

    /// Asks the agent, and waits for its answer or for the machine's end.
    pub(crate) async fn call<T>(
        &self,
        doing: &'static str,
        ask: impl AsyncFnOnce(AgentClient) -> ttrpc::Result<T>,
    ) -> Result<T> {
        let _open = self.open().await;
        self.call_with(doing, ask, agent::failed(doing)).await
    }

    /// While the result lives, the connection to the agent stays.
    pub(crate) async fn open(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.inner.gate).read_owned().await
    }

    /// As [`Self::call`], with another translation of the agent's refusal. The caller sees
    /// to it that the connection stays, or that it does not matter.
    pub(crate) async fn call_with<T>(
        &self,
        doing: &'static str,
        ask: impl AsyncFnOnce(AgentClient) -> ttrpc::Result<T>,
        refused: impl FnOnce(ttrpc::Error) -> Error,
    ) -> Result<T> {
        let client = self.link().client.clone();
        tokio::select! {
            biased;
            answer = ask(client) => match answer {
                Ok(value) => Ok(value),
                // The connection breaks a moment before the machine is seen to end.
                Err(ttrpc::Error::RpcStatus(status)) => Err(refused(ttrpc::Error::RpcStatus(status))),
                Err(error) => match tokio::time::timeout(Duration::from_secs(1), self.wait()).await {
                    Ok(reason) => Err(self.ended(doing, &reason)),
                    Err(_) => Err(refused(error)),
                },
            },
            reason = self.wait() => Err(self.ended(doing, &reason)),
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.inner
            .agent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Which connection to the agent it is.
    pub(crate) fn link_number(&self) -> u64 {
        self.link().number
    }

    /// Makes another connection to the agent, which calls when it can be reached again.
    pub(crate) async fn reconnect(&self) -> Result<()> {
        let inner = &self.inner;
        let log = start::wait_for_agent(inner.vm.as_ref(), &inner.console, RETURN_DEADLINE).await?;
        tokio::spawn(keep_log(log, None, inner.guest_log.clone()));
        let client = connect(inner.vm.as_ref(), &inner.console).await?;
        let mut link = self.link();
        link.client = client;
        link.number += 1;
        Ok(())
    }

    pub(crate) fn ended(&self, doing: &'static str, reason: &ExitReason) -> Error {
        Error::GuestEnded {
            doing,
            reason: describe(reason),
            console: console::tail(&self.inner.console),
        }
    }

    /// Opens a numbered stream to the agent. Returns the number for the request
    /// that uses it and our end.
    pub(crate) async fn open_stream(&self) -> Result<(u64, tokio::net::UnixStream)> {
        let number = self.inner.next_stream.fetch_add(1, Ordering::Relaxed);
        let doing = "opening a stream to the guest";
        let stream = match self.inner.vm.connect(STREAM_PORT).await {
            Ok(stream) => stream,
            Err(caisson_hypervisor::Error::Ended) => {
                return Err(self.ended(doing, &self.wait().await));
            }
            Err(error) => return Err(error.into()),
        };
        Ok((number, agent::number(stream, number).await?))
    }

    /// Waits for the machine's end and says why it ended.
    pub async fn wait(&self) -> ExitReason {
        let reason = self.inner.vm.wait().await;
        self.inner.lost.get().cloned().unwrap_or(reason)
    }

    /// Asks the guest to sync and power off, and ends the machine if it does not.
    pub async fn shutdown(&self) -> Result<ExitReason> {
        let request = caisson_protocol::agent::Empty::new();
        let client = self.link().client.clone();
        let powered_off = async {
            let asked = client.shutdown(agent::bounded(), &request);
            // The answer may be lost with the machine: only its end counts.
            tokio::join!(asked, self.inner.vm.wait()).1
        };
        match tokio::time::timeout(SHUTDOWN_DEADLINE, powered_off).await {
            Ok(reason) => {
                self.end_network();
                Ok(reason)
            }
            Err(_) => self.kill().await,
        }
    }

    /// Ends the machine at once.
    pub async fn kill(&self) -> Result<ExitReason> {
        let killed = self.inner.vm.kill().await;
        self.end_network();
        Ok(killed?)
    }

    /// Its ports are free when this returns.
    fn end_network(&self) {
        if let Some(attachment) = &self.inner.network {
            attachment.end();
        }
    }

    /// How the machine began.
    pub fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// The processes of the machine and of its network on the host, as of now.
    pub fn processes(&self) -> Vec<u32> {
        let network = self.inner.network.iter().flat_map(Attachment::processes);
        self.inner
            .vm
            .processes()
            .into_iter()
            .chain(network)
            .collect()
    }
}

impl Inner {
    async fn network_ended(&self, reason: &str) {
        // In an orderly end, the machine goes first.
        let ended = tokio::time::timeout(Duration::ZERO, self.vm.wait()).await;
        if ended.is_err() {
            let reason = ExitReason::ProcessDied(format!("its network (passt) ended: {reason}"));
            // There is one reason: the first.
            let _ = self.lost.set(reason);
            if let Err(error) = self.vm.kill().await {
                tracing::warn!(%error, "a machine without its network could not be ended");
            }
        }
    }
}

/// Speaks to the agent of a machine.
async fn connect(vm: &dyn RunningVm, console: &Path) -> Result<AgentClient> {
    match vm.connect(AGENT_PORT).await {
        Ok(stream) => agent::connect(stream),
        Err(caisson_hypervisor::Error::Ended) => Err(Error::GuestEnded {
            doing: "connecting to its agent",
            reason: describe(&vm.wait().await),
            console: console::tail(console),
        }),
        Err(error) => Err(error.into()),
    }
}

/// The host's wall clock, for a guest.
pub(crate) fn realtime_ns() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Why a machine ended, as part of a sentence.
pub(crate) fn describe(reason: &ExitReason) -> String {
    match reason {
        ExitReason::PoweredOff => "the guest powered off".to_owned(),
        ExitReason::Crashed(what) => format!("the guest crashed ({})", console::printable(what)),
        ExitReason::Killed => "it was killed".to_owned(),
        ExitReason::ProcessDied(what) => what.clone(),
    }
}

/// Writes what the guest logs to a file, a bounded part of it; reads on after
/// that, so that the guest does not block.
async fn keep_log(stream: std::os::unix::net::UnixStream, before: Option<PathBuf>, path: PathBuf) {
    let open = || {
        let mut file = std::fs::File::create(&path)?;
        if let Some(before) = before {
            std::io::copy(&mut std::fs::File::open(before)?, &mut file)?;
        }
        Ok::<_, std::io::Error>(file)
    };
    let opened = stream
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixStream::from_std(stream))
        .and_then(|stream| Ok((stream, open()?)));
    let (mut stream, mut file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            return tracing::warn!(%error, path = %path.display(), "the guest's log is not kept");
        }
    };
    let mut buffer = vec![0; 16 << 10];
    let mut left = GUEST_LOG_LIMIT;
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let kept = usize::try_from(left).unwrap_or(usize::MAX).min(read);
        if let Err(error) = file.write_all(&buffer[..kept]) {
            tracing::warn!(%error, path = %path.display(), "the guest's log is cut here");
            left = 0;
        } else {
            left -= kept as u64;
        }
    }
}
