//! What a container is, decided when it is created and never changed after.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::Network;
use crate::snapshot::CopyOf;

/// A container as it was created: enough to start it any number of times.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique name, given or made up.
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// Name of the image as the user gave it.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// EROFS disk of the image.
    pub image_disk: PathBuf,
    /// Program and leading arguments that go before [`Self::command`].
    pub entrypoint: Vec<String>,
    /// Arguments, or the program too if there is no entrypoint.
    pub command: Vec<String>,
    /// The container, as any OCI runtime would be told. Bind mounts of host
    /// paths have a source below [`caisson_protocol::SHARE_ROOT`] and an entry
    /// in `shares`.
    pub spec: Spec,
    /// What the virtual machine shares with the host.
    pub shares: Vec<SharedPath>,
    /// The virtual machine around it.
    pub machine: Machine,
    /// `-i`: keep standard input open.
    pub interactive: bool,
    /// `--rm`.
    pub auto_remove: bool,
    /// `--init`.
    pub init: bool,
    /// `--privileged`.
    pub privileged: bool,
    /// Number of the signal that `stop` sends.
    pub stop_signal: i32,
    /// Seconds that `stop` waits before it kills.
    pub stop_timeout: u64,
    /// Labels, those of the image included.
    pub labels: BTreeMap<String, String>,
    /// Its network.
    #[serde(default)]
    pub network: Network,
    /// Lines added to `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Bytes of the writable layer's disk.
    pub scratch_size: u64,
    /// The snapshot that it is a copy of.
    #[serde(default)]
    pub copy_of: Option<CopyOf>,
}

/// A file or folder of the host that the container sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedPath {
    /// Name below the share's root.
    pub name: String,
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Enforced on the host's side.
    pub read_only: bool,
}

/// Size and make of the virtual machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Virtual CPUs, at least 1.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Driver: `auto`, `qemu`...
    pub hypervisor: String,
    /// Uncompressed guest kernel.
    pub kernel: PathBuf,
    /// Initramfs with the agent.
    pub initramfs: PathBuf,
}
