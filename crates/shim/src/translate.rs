//! From the specification of a container of the host's kernel to one of the guest's: what
//! names files of the host becomes a share, what a guest has itself stays, and what it
//! cannot have is refused by name.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceType, Mount, Process as ProcessSpec, Spec,
};

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::tree::{Entry, Names, Tree};

/// File systems that the guest's kernel has and that name nothing of the host.
const OWN: [&str; 9] = [
    "proc",
    "sysfs",
    "tmpfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "ramfs",
    "hugetlbfs",
];

/// Devices that every Linux has under the same numbers (`Documentation/admin-guide/devices`):
/// memory devices, terminals and pseudo-terminals.
const COMMON_DEVICES: [i64; 3] = [1, 5, 136];

/// A container as the guest is told.
#[derive(Debug)]
pub struct Translated {
    /// Its specification.
    pub spec: Spec,
    /// What of the host it sees.
    pub entries: Vec<Entry>,
}

/// Translates a specification. In a pod, namespaces of the pod are the guest's own.
pub fn container(
    bundle: &Bundle,
    tree: &Tree,
    names: &mut Names,
    in_pod: bool,
) -> Result<Translated> {
    let mut spec = bundle.spec.clone();
    let mut entries = Vec::new();
    if let Some(mounts) = spec.mounts_mut() {
        for (number, mount) in mounts.iter_mut().enumerate() {
            entries.extend(self::mount(mount, number, bundle, (tree, names))?);
        }
    }
    if let Some(process) = spec.process_mut() {
        self::process(process);
    }
    if let Some(linux) = spec.linux_mut() {
        self::linux(linux, in_pod)?;
    }
    // Run by the shim; see `hooks`.
    spec.set_hooks(None);
    Ok(Translated { spec, entries })
}

/// A process without what belongs to the host's kernel.
pub fn process(process: &mut ProcessSpec) {
    // Security modules of the host's confine the processes of the machine.
    process.set_apparmor_profile(None);
    process.set_selinux_label(None);
    // Means something else to our agent; engines have resolved names.
    process.user_mut().set_username(None);
}

fn linux(linux: &mut Linux, in_pod: bool) -> Result<()> {
    linux.set_mount_label(None);
    linux.set_cgroups_path(None);
    if let Some(namespaces) = linux.namespaces_mut() {
        let shared = |namespace: &LinuxNamespace| in_pod && namespace.path().is_some();
        // The pod's namespaces are those that the guest was born with.
        namespaces.retain(|namespace| !shared(namespace));
        for namespace in namespaces.iter_mut() {
            if namespace.typ() == LinuxNamespaceType::Network {
                namespace.set_path(None);
            }
        }
    }
    if let Some(devices) = linux.devices_mut() {
        devices.retain(|device| {
            let common = COMMON_DEVICES.contains(&device.major());
            if !common {
                tracing::info!(device = %device.path().display(), "a device of the host does not exist in the guest");
            }
            common
        });
    }
    Ok(())
}

/// Whether a mount makes a file or folder of the host visible.
fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind")
        || options
            .into_iter()
            .any(|option| option == "bind" || option == "rbind")
}

fn mount(
    mount: &mut Mount,
    number: usize,
    bundle: &Bundle,
    (tree, names): (&Tree, &mut Names),
) -> Result<Option<Entry>> {
    let options = mount.options().clone().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option == name);
    let kind = mount.typ().clone().unwrap_or_default();
    let destination = mount.destination().display().to_string();
    let refuse = |reason: String| {
        Err(Error::field(
            format!("mounts[{number}] ({destination})"),
            reason,
        ))
    };
    if !is_bind(mount) {
        if OWN.contains(&kind.as_str()) {
            return Ok(None);
        }
        return refuse(format!("the guest has no file system {kind:?}"));
    }
    if has("shared") || has("rshared") {
        return refuse(
            "what the guest mounts cannot appear on the host (bidirectional propagation)"
                .to_owned(),
        );
    }
    if let Some(option) = options.iter().find(|option| option.contains("idmap")) {
        return refuse(format!("{option} is not supported"));
    }
    let source = source(mount, &bundle.path);
    let metadata = match tree.host().with(|| std::fs::metadata(&source))? {
        Ok(metadata) => metadata,
        Err(error) => return refuse(format!("{}: {error}", source.display())),
    };
    if !metadata.is_dir() && !metadata.is_file() {
        return refuse(format!(
            "{} is a device, a FIFO or a socket of the host, behind which there is nothing in the guest",
            source.display()
        ));
    }
    let entry = tree.bind(mount.destination(), &source, has("ro"), names)?;
    mount.set_source(Some(entry.guest_path()));
    Ok(Some(entry))
}

/// Relative to the bundle (OCI runtime-spec, config, Mounts).
fn source(mount: &Mount, bundle: &Path) -> PathBuf {
    let source = mount.source().clone().unwrap_or_default();
    bundle.join(source)
}
