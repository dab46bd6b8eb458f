//! From a container's record to the machine around it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caisson_hypervisor::template::Recipe;
use caisson_hypervisor::{Disk, Hypervisor, Share, ShareMount, VmConfig};
use caisson_protocol::{IMAGE_DISK, SCRATCH_DISK, SHARE_TAG};
use caisson_sandbox::timing::Timing;
use caisson_sandbox::{
    ContainerConfig, ContainerCopy, Identity, Rootfs, RootfsFile, SandboxConfig, Snapshot,
    StreamRequest, TerminalSize,
};

use super::network::Network;
use crate::config::Settings;
use crate::container::Container;
use crate::snapshot::{CopyOf, SnapshotStore};

/// vsock address of every guest: each device process knows one guest only.
const GUEST_CID: u64 = 3;

/// What a sandbox is to be started with.
pub struct Prepared {
    /// Makes the machine.
    pub hypervisor: Box<dyn Hypervisor>,
    /// Which hypervisor, and why.
    pub reason: String,
    /// What it makes.
    pub sandbox: SandboxConfig,
}

/// Chooses the hypervisor and makes what the machine needs on disk.
pub fn prepare(container: &Container, settings: &Settings, timing: &Timing) -> Result<Prepared> {
    let record = &container.record;
    let stage = timing.stage("hypervisor");
    let (hypervisor, reason) = settings.select_hypervisor(Some(&record.machine.hypervisor))?;
    drop(stage);

    let stage = timing.stage("writable layer");
    let scratch = (container.scratch_disk(), empty_disk(container, settings)?);
    drop(stage);
    let vm = VmConfig {
        name: record.name.clone(),
        kernel: record.machine.kernel.clone(),
        initramfs: record.machine.initramfs.clone(),
        kernel_parameters: Vec::new(),
        template_parameters: Vec::new(),
        rehearsal: None,
        cpus: record.machine.cpus,
        memory: record.machine.memory,
        disks: disks(record.image_disk.clone(), scratch),
        share: share(container),
        interfaces: Vec::new(),
        network_namespace: None,
        host_ports: Vec::new(),
        cid: GUEST_CID,
        console: container.console_log(),
        run_directory: container.run_directory().to_owned(),
    };
    let sandbox = SandboxConfig {
        vm,
        network: None,
        identity: Identity {
            hostname: hostname(container),
            // The container sets those of its specification itself, in its namespaces.
            ..Identity::default()
        },
        snapshot: None,
        templates: settings.templates_to_fork(),
        boot_deadline: Duration::from_secs(settings.boot_deadline),
        guest_log: container.guest_log(),
    };
    Ok(Prepared {
        hypervisor,
        reason,
        sandbox,
    })
}

/// The disk with the image, and that of the writable layer at a path and, if it is to be
/// made with the machine, what it begins as.
fn disks(image: PathBuf, (scratch, new): (PathBuf, Option<PathBuf>)) -> Vec<Disk> {
    vec![
        Disk {
            path: image,
            serial: IMAGE_DISK.to_owned(),
            read_only: true,
            new: None,
        },
        Disk {
            path: scratch,
            serial: SCRATCH_DISK.to_owned(),
            read_only: false,
            new,
        },
    ]
}

/// The disks of machines for new containers, as their template has to know them.
pub fn new_disks(settings: &Settings) -> Result<Vec<Disk>> {
    let empty = caisson_storage::empty_disk(settings.scratch_size, &settings.cache())?;
    Ok(disks(PathBuf::new(), (PathBuf::new(), Some(empty))))
}

/// What the writable layer begins as, unless it is there already.
fn empty_disk(container: &Container, settings: &Settings) -> Result<Option<PathBuf>> {
    let record = &container.record;
    let path = container.scratch_disk();
    if path.exists() {
        return Ok(None);
    }
    let failed = || format!("cannot make the writable layer {}", path.display());
    if let Some(copy) = &record.copy_of {
        let snapshot = SnapshotStore::new(&settings.root).find(&copy.snapshot)?;
        caisson_storage::copy_disk(&snapshot.scratch(), &path).with_context(failed)?;
        return Ok(None);
    }
    caisson_storage::empty_disk(record.scratch_size, &settings.cache())
        .map(Some)
        .with_context(failed)
}

/// Everything on which a snapshot of a machine depends: the disks are its own.
///
/// # Errors
/// Why there can be none.
pub fn recipe(machine: &Prepared) -> caisson_hypervisor::Result<Recipe> {
    let vm = VmConfig {
        disks: Vec::new(),
        ..machine.sandbox.vm.clone()
    };
    machine.hypervisor.recipe(&vm)
}

/// What the machine of a container is a copy of, if it is one.
pub fn snapshot(
    container: &Container,
    settings: &Settings,
    recipe: Option<&Recipe>,
) -> Result<Option<Snapshot>> {
    let Some(copy) = &container.record.copy_of else {
        return Ok(None);
    };
    let name = &copy.snapshot;
    let recipe = recipe.with_context(|| format!("this hypervisor cannot copy snapshot {name}"))?;
    let snapshot = SnapshotStore::new(&settings.root).find(name)?;
    if snapshot.record.created != copy.created {
        bail!("snapshot {name} was replaced by another since the container was made");
    }
    Ok(Some(Snapshot {
        name: name.clone(),
        machine: snapshot.open(recipe)?,
    }))
}

/// The container of a machine that is a copy, as the agent is told.
pub fn copy(
    container: &Container,
    copy_of: &CopyOf,
    network: &Network,
    terminal: Option<(u16, u16)>,
) -> Result<ContainerCopy> {
    let config = self::container(container, Some(network), terminal)?;
    Ok(ContainerCopy {
        id: copy_of.guest_id.clone(),
        spec: config.spec,
        hostname: hostname(container),
        files: config.files,
        streams: config.streams,
    })
}

fn share(container: &Container) -> Option<Share> {
    let shares = &container.record.shares;
    (!shares.is_empty()).then(|| Share {
        tag: SHARE_TAG.to_owned(),
        mounts: shares
            .iter()
            .map(|shared| ShareMount {
                source: shared.source.clone(),
                name: shared.name.clone(),
                read_only: shared.read_only,
            })
            .collect(),
        tree: None,
    })
}

/// The container as the agent is told. Without a network, its files are only looked at.
pub fn container(
    container: &Container,
    network: Option<&Network>,
    terminal: Option<(u16, u16)>,
) -> Result<ContainerConfig> {
    let record = &container.record;
    let wants_terminal = record
        .spec
        .process()
        .as_ref()
        .and_then(|process| process.terminal())
        .unwrap_or(false);
    let size = terminal.unwrap_or_default();
    Ok(ContainerConfig {
        id: record.id.clone(),
        spec: record.spec.clone(),
        rootfs: Rootfs::Disks {
            image: IMAGE_DISK.to_owned(),
            scratch: Some(SCRATCH_DISK.to_owned()),
        },
        files: files(container, network),
        init: record.init,
        streams: StreamRequest {
            stdin: record.interactive,
            terminal: wants_terminal.then_some(TerminalSize {
                rows: size.0,
                columns: size.1,
            }),
        },
    })
}

fn hostname(container: &Container) -> String {
    container
        .record
        .spec
        .hostname()
        .clone()
        .unwrap_or_else(|| container.short_id().to_owned())
}

fn files(container: &Container, network: Option<&Network>) -> Vec<RootfsFile> {
    let hostname = hostname(container);
    let addresses: Vec<&str> = network
        .iter()
        .flat_map(|network| &network.state.interfaces)
        .flat_map(|interface| &interface.addresses)
        .filter_map(|address| address.split('/').next())
        .collect();
    let alias = if addresses.is_empty() {
        format!(" {hostname}")
    } else {
        String::new()
    };
    let mut hosts = format!(
        "127.0.0.1\tlocalhost{alias}\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    );
    for address in addresses {
        hosts.push_str(&format!("{address}\t{hostname}\n"));
    }
    let allowed = network.iter().flat_map(|network| &network.hosts);
    for line in container.record.extra_hosts.iter().chain(allowed) {
        hosts.push_str(line);
        hosts.push('\n');
    }
    let file = |path: &str, content: String| RootfsFile {
        path: path.to_owned(),
        content,
    };
    vec![
        file("/etc/hosts", hosts),
        file("/etc/hostname", format!("{hostname}\n")),
        file(
            "/etc/resolv.conf",
            network.map_or_else(String::new, |network| network.resolv_conf.clone()),
        ),
    ]
}
