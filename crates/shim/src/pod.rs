//! What a shim serves: one machine and its containers. Without a pod it is one container.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use caisson_config::Settings;
use caisson_hypervisor::template::Recipe;
use caisson_hypervisor::{Share, VmConfig};
use caisson_protocol::SHARE_TAG;
use caisson_sandbox::timing::Timing;
use caisson_sandbox::{Identity, Sandbox, SandboxConfig, Snapshot};
use oci_spec::runtime::Spec;
use tokio::sync::{Notify, watch};

use crate::bundle::{Bundle, Role};
use crate::cgroup::Placement;
use crate::checkpoint::Checkpoint;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::network::{self, Resolvers};
use crate::tree::Tree;

/// vsock address of every guest: each device process knows one guest only.
const GUEST_CID: u64 = 3;

/// A memory limit from here on is none.
const NO_LIMIT: u64 = 1 << 50;

/// Annotations with the sum of what the containers of a pod may use (containerd's CRI).
pub const POD_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
pub const POD_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
pub const POD_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// Where a pod is and what belongs to it.
#[derive(Debug)]
pub struct Place {
    /// Its id, which is that of its first container.
    pub id: String,
    /// Namespace of containerd's.
    pub namespace: String,
    /// Folder of its first container; the machine's files are in it, too.
    pub folder: PathBuf,
    /// What is configured.
    pub settings: Settings,
}

/// A machine and its containers.
pub struct Pod {
    /// Where it is.
    pub place: Place,
    /// What the guest sees of the host.
    pub tree: Tree,
    /// Where events go.
    pub events: Events,
    machine: tokio::sync::Mutex<Option<Machine>>,
    network_namespace: OnceLock<PathBuf>,
    resolvers: Resolvers,
    placement: Mutex<Option<Placement>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    is_sandbox: AtomicBool,
    /// The machine was ended: there will be no other, as whoever is in a pod with the one
    /// that is gone would not be in a pod with the next.
    has_ended: AtomicBool,
    done: Notify,
}

/// A running machine.
#[derive(Clone)]
pub struct Machine {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its main process on the host, which stands for all processes in the guest.
    pub pid: u32,
    /// What a copy of it must be made of, or why there can be none.
    pub recipe: Arc<std::result::Result<Recipe, String>>,
}

/// How large a machine is to be.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    cpus: u32,
    memory: u64,
}

impl Pod {
    /// One without a machine yet.
    pub fn new(place: Place, tree: Tree, events: Events) -> Self {
        Self {
            place,
            tree,
            events,
            machine: tokio::sync::Mutex::default(),
            network_namespace: OnceLock::new(),
            resolvers: Resolvers::default(),
            placement: Mutex::default(),
            containers: Mutex::default(),
            is_sandbox: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            done: Notify::new(),
        }
    }

    fn containers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A container.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.containers().get(id).cloned();
        container.ok_or_else(|| Error::Missing(format!("container {id}")))
    }

    /// Refuses an id that a container has.
    pub fn free(&self, id: &str) -> Result<()> {
        if self.containers().contains_key(id) {
            return Err(Error::Exists(format!("container {id}")));
        }
        Ok(())
    }

    /// Adds a container.
    pub fn insert(&self, container: Arc<Container>) {
        self.containers().insert(container.id.clone(), container);
    }

    /// Takes a container away.
    pub fn remove(&self, id: &str) {
        self.containers().remove(id);
    }

    /// Whether there is no container.
    pub fn is_empty(&self) -> bool {
        self.containers().is_empty()
    }

    /// Whether nothing needs the machine any more. A sandbox of the engine's outlives its
    /// containers, of which others may follow.
    pub fn is_over(&self) -> bool {
        !self.is_sandbox.load(Ordering::Relaxed) && self.is_empty()
    }

    /// Whether the shim has nothing left to do once the engine has no more use for the task
    /// `id`, which it says of every container. A sandbox ends by the Sandbox service, but
    /// an engine that has found the shim and knows of no sandbox gives its name here.
    pub fn ends_with(&self, id: &str) -> bool {
        self.is_over() || id == self.place.id && self.is_empty()
    }

    /// Names the network namespace of a machine that has not been started.
    pub fn set_network_namespace(&self, path: PathBuf) -> Result<()> {
        self.network_namespace
            .set(path)
            .map_err(|_| Error::State("the sandbox has been created".to_owned()))
    }

    /// The engine has made it a sandbox of its own, which it starts when it likes.
    pub fn set_sandbox(&self) {
        self.is_sandbox.store(true, Ordering::Relaxed);
    }

    /// Whether nobody has asked for anything that needs a machine, or it has ended.
    pub fn is_unused(&self) -> bool {
        // A machine that is being started has the lock.
        self.is_over()
            && self
                .machine
                .try_lock()
                .is_ok_and(|machine| machine.is_none())
    }

    /// The machine, if it runs.
    pub async fn running(&self) -> Option<Machine> {
        self.machine.lock().await.clone()
    }

    /// The machine, which is started for the first who asks: as a copy, if there is a
    /// checkpoint.
    pub async fn machine(
        self: &Arc<Self>,
        bundle: Option<&Bundle>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Machine> {
        let mut machine = self.machine.lock().await;
        if let Some(machine) = machine.as_ref() {
            return Ok(machine.clone());
        }
        if self.has_ended.load(Ordering::Relaxed) {
            return Err(Error::State(format!(
                "the machine of sandbox {} has ended",
                self.place.id
            )));
        }
        self.enter_cgroup(bundle);
        let started = self.start(bundle, checkpoint).await?;
        let changes = started.sandbox.network_changes();
        tokio::spawn(follow_resolvers(Arc::downgrade(self), changes));
        Ok(machine.insert(started).clone())
    }

    fn enter_cgroup(&self, bundle: Option<&Bundle>) {
        let linux = bundle.and_then(|bundle| bundle.spec.linux().as_ref());
        let Some(path) = linux.and_then(|linux| linux.cgroups_path().as_ref()) else {
            return;
        };
        let mut placement = self
            .placement
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A start that failed may be tried again.
        if placement.is_none() {
            *placement = Some(Placement::enter(path, &self.place.folder));
        }
    }

    /// Leaves the host's cgroup, after the machine has ended.
    pub fn leave_cgroup(&self) {
        let placement = self
            .placement
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(placement) = placement {
            placement.leave();
        }
    }

    async fn start(
        &self,
        bundle: Option<&Bundle>,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Machine> {
        let settings = &self.place.settings;
        let (hypervisor, reason) = settings.select_hypervisor(None)?;
        let size = bundle.map_or_else(
            || Size::default_of(settings),
            |bundle| Size::of(bundle, settings),
        );
        let network = network::attach(
            bundle,
            self.network_namespace.get().map(PathBuf::as_path),
            &self.place.folder,
            self.tree.host(),
            network::spoofing(settings),
        )?;
        let mut config = SandboxConfig {
            snapshot: None,
            vm: VmConfig {
                name: self.place.id.clone(),
                kernel: settings.kernel.clone(),
                initramfs: settings.initramfs.clone(),
                kernel_parameters: Vec::new(),
                template_parameters: Vec::new(),
                rehearsal: None,
                cpus: size.cpus,
                memory: size.memory,
                disks: Vec::new(),
                share: Some(Share {
                    tag: SHARE_TAG.to_owned(),
                    mounts: Vec::new(),
                    tree: Some(self.tree.folder().to_owned()),
                }),
                interfaces: Vec::new(),
                network_namespace: None,
                host_ports: Vec::new(),
                cid: GUEST_CID,
                console: self.place.folder.join("console.log"),
                run_directory: self.place.folder.clone(),
            },
            network: Some(network),
            templates: settings.templates_to_fork(),
            identity: bundle.map_or_else(Identity::default, identity),
            boot_deadline: Duration::from_secs(settings.boot_deadline),
            guest_log: self.place.folder.join("guest.log"),
        };
        let recipe = hypervisor
            .recipe(&config.vm)
            .map_err(|error| error.to_string());
        if let Some(checkpoint) = checkpoint {
            let recipe = recipe.as_ref().map_err(|reason| {
                Error::State(format!(
                    "this hypervisor cannot copy a checkpoint: {reason}"
                ))
            })?;
            config.snapshot = Some(Snapshot {
                name: self.place.id.clone(),
                machine: checkpoint.machine(recipe)?,
            });
        }
        let timing = Timing::started(Duration::ZERO);
        let sandbox = Sandbox::start(hypervisor.as_ref(), config, &timing).await?;
        let pid = sandbox
            .processes()
            .first()
            .copied()
            .unwrap_or_else(std::process::id);
        tracing::debug!(hypervisor = reason, pid, "the machine runs");
        Ok(Machine {
            sandbox,
            pid,
            recipe: Arc::new(recipe),
        })
    }

    /// Brings what engines have put into the network namespace since the machine began into
    /// the guest, and resolvers that a container is to use there.
    pub async fn update_network(&self, spec: &Spec) -> Result<()> {
        let Some(machine) = self.running().await else {
            return Ok(());
        };
        machine.sandbox.update_network().await?;
        self.resolvers
            .offer(&machine.sandbox, spec, self.tree.host())
            .await
    }

    async fn take_machine(&self) -> Option<Machine> {
        let machine = self.machine.lock().await.take();
        if machine.is_some() {
            self.has_ended.store(true, Ordering::Relaxed);
        }
        machine
    }

    /// Lets the guest write what it has to write and ends the machine.
    pub async fn stop(&self) {
        let machine = self.take_machine().await;
        if let Some(machine) = machine {
            match machine.sandbox.shutdown().await {
                Ok(reason) => tracing::debug!(?reason, "the machine has ended"),
                Err(error) => tracing::warn!(%error, "cannot end the machine"),
            }
        }
    }

    /// Ends the machine at once.
    pub async fn kill(&self) {
        let machine = self.take_machine().await;
        if let Some(machine) = machine
            && let Err(error) = machine.sandbox.kill().await
        {
            tracing::warn!(%error, "cannot end the machine");
        }
    }

    /// The shim has nothing left to do.
    pub fn finish(&self) {
        self.done.notify_one();
    }

    /// Waits until it has.
    pub async fn finished(&self) {
        self.done.notified().await;
    }
}

/// With a network that comes later, an engine may write another resolver into the files of
/// its containers.
async fn follow_resolvers(pod: Weak<Pod>, mut changes: watch::Receiver<()>) {
    while changes.changed().await.is_ok() {
        let Some(pod) = pod.upgrade() else {
            return;
        };
        let Some(machine) = pod.running().await else {
            return;
        };
        let containers: Vec<_> = pod.containers().values().cloned().collect();
        for container in containers {
            let host = pod.tree.host();
            let offer = pod
                .resolvers
                .offer(&machine.sandbox, container.spec(), host);
            // The file goes with the container, whose network may go first.
            if let Err(error) = offer.await {
                tracing::debug!(%error, container = container.id, "its resolvers are not known");
            }
        }
    }
}

/// The guest's own host name and parameters: a pod's are the guest's, a lone container
/// has them in namespaces of its own.
fn identity(bundle: &Bundle) -> Identity {
    let mut identity = Identity {
        hostname: bundle.spec.hostname().clone().unwrap_or_default(),
        ..Identity::default()
    };
    if bundle.role() == Role::Sandbox {
        let sysctls = bundle
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.sysctl().as_ref());
        identity.sysctls = sysctls
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
    }
    identity
}

impl Size {
    fn default_of(settings: &Settings) -> Self {
        Self {
            cpus: settings.cpus,
            memory: settings.memory,
        }
    }

    /// With limits, a machine in which they can be used; else the configured size. A pod
    /// has that beside the limits: not each of its containers need have one.
    fn of(bundle: &Bundle, settings: &Settings) -> Self {
        let number = |name| {
            bundle
                .annotation(name)
                .and_then(|text| text.parse::<u64>().ok())
        };
        let default = Self::default_of(settings);
        let (memory, quota, period) = match bundle.role() {
            Role::Sandbox => (number(POD_MEMORY), number(POD_QUOTA), number(POD_PERIOD)),
            Role::Alone | Role::Member(_) => limits(&bundle.spec),
        };
        let is_pod = bundle.role() == Role::Sandbox;
        let memory = memory
            .filter(|limit| (1..NO_LIMIT).contains(limit))
            .and_then(caisson_sandbox::guest_memory)
            .map_or(default.memory, |memory| {
                if is_pod {
                    memory.saturating_add(default.memory)
                } else {
                    memory
                }
            });
        let cpus = match (
            quota.filter(|quota| *quota > 0),
            period.filter(|period| *period > 0),
        ) {
            (Some(quota), Some(period)) => {
                u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX)
            }
            _ => default.cpus,
        };
        Self {
            cpus: cpus
                .clamp(1, 128)
                .max(if is_pod { default.cpus } else { 1 }),
            memory,
        }
    }
}

/// Memory, quota and period of a container.
fn limits(spec: &Spec) -> (Option<u64>, Option<u64>, Option<u64>) {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let positive = |value: i64| u64::try_from(value).ok();
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    (
        memory.and_then(|memory| memory.limit()).and_then(positive),
        cpu.and_then(|cpu| cpu.quota()).and_then(positive),
        cpu.map(|cpu| cpu.period().unwrap_or(100_000)),
    )
}
