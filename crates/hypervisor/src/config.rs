//! What a machine is made of.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::Result;

/// A machine to be made. Paths are the host's and stay the caller's.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Name for logs and process titles; not interpreted.
    pub name: String,
    /// Uncompressed kernel with a PVH entry.
    pub kernel: PathBuf,
    /// Initramfs with the agent as `/init`.
    pub initramfs: PathBuf,
    /// Added to the driver's own kernel command line.
    pub kernel_parameters: Vec<String>,
    /// Added to that of its template: what the template's agent does that each fork would do.
    pub template_parameters: Vec<String>,
    /// What the guest of its template is made to do before it is frozen.
    pub rehearsal: Option<Arc<dyn Rehearsal>>,
    /// Number of virtual CPUs, at least 1.
    pub cpus: u32,
    /// Memory in bytes, rounded up to a MiB by the driver.
    pub memory: u64,
    /// Disks in slot order.
    pub disks: Vec<Disk>,
    /// The folder tree shared by virtio-fs, if any.
    pub share: Option<Share>,
    /// Network interfaces.
    pub interfaces: Vec<NetworkInterface>,
    /// The network namespace in which the machine's process lives; none: the caller's.
    pub network_namespace: Option<Arc<OwnedFd>>,
    /// Host vsock ports that the guest may connect to.
    pub host_ports: Vec<u32>,
    /// vsock address of the guest, 3 or more.
    pub cid: u64,
    /// File that receives the guest's serial console.
    pub console: PathBuf,
    /// Existing folder for sockets while the machine runs. The driver leaves
    /// nothing in it.
    pub run_directory: PathBuf,
}

/// What a template's guest is made to do once, as each fork will be. A fork that begins as a
/// copy of the process that ran the template has what was translated for that.
#[async_trait]
pub trait Rehearsal: std::fmt::Debug + Send + Sync {
    /// Has the guest do it, and leave nothing of it: what it is made to do then is in the
    /// memory of all forks. Connections are closed when this returns. An error says what
    /// went wrong.
    /// `layer` is the serial number of the new disk, if there is one.
    async fn rehearse(
        &self,
        guest: &dyn Ports,
        layer: Option<&str>,
    ) -> std::result::Result<(), String>;
}

/// The vsock ports of a guest.
#[async_trait]
pub trait Ports: Send + Sync {
    /// See [`crate::RunningVm::connect`].
    async fn connect(&self, port: u32) -> Result<UnixStream>;
}

#[cfg(test)]
impl VmConfig {
    /// A small machine without devices, of which a test says what it is about.
    pub(crate) fn sample() -> Self {
        Self {
            name: "test".to_owned(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_parameters: Vec::new(),
            template_parameters: Vec::new(),
            rehearsal: None,
            cpus: 1,
            memory: 256 << 20,
            disks: Vec::new(),
            share: None,
            interfaces: Vec::new(),
            network_namespace: None,
            host_ports: Vec::new(),
            cid: 3,
            console: "/c".into(),
            run_directory: "/r".into(),
        }
    }
}

impl VmConfig {
    /// The new disk, if the machine's disks can be in its template: every other one is
    /// then read-only. What a writable disk holds that was there before is for its own
    /// guest to read.
    pub fn new_disk(&self) -> Option<&Disk> {
        let mut writable = self.disks.iter().filter(|disk| !disk.read_only);
        let only = writable.next().filter(|disk| disk.new.is_some())?;
        writable.next().is_none().then_some(only)
    }

    /// Whether a template of the machine has a network interface as well: one, which
    /// leaves nothing to its other end, as there is none in the template.
    pub fn has_plain_network(&self) -> bool {
        self.new_disk().is_some() && matches!(&self.interfaces[..], [only] if only.is_stream())
    }
}

/// A raw image attached as a virtio disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Raw image file.
    pub path: PathBuf,
    /// Serial number by which the guest finds it, at most 20 bytes (virtio 1.2, 5.2.6.1).
    pub serial: String,
    /// Attach it so that the guest cannot write.
    pub read_only: bool,
    /// The disk is made with the machine: as a copy of this empty ext4 file system, which
    /// the guest finds mounted if it is a fork of a template with such a disk. Whatever
    /// was at `path` is replaced.
    pub new: Option<PathBuf>,
}

/// An opened disk for a machine that runs.
#[derive(Debug, Clone)]
pub struct OpenDisk {
    /// Raw image file or block device, opened for what the guest may do.
    pub file: Arc<File>,
    /// As that of a [`Disk`], and no other disk's of the machine.
    pub serial: String,
    /// Whether it is opened for reading only.
    pub read_only: bool,
}

/// One virtio-fs device that serves a tree of mounts.
#[derive(Debug, Clone)]
pub struct Share {
    /// virtio-fs tag.
    pub tag: String,
    /// What appears in the tree.
    pub mounts: Vec<ShareMount>,
    /// Instead of `mounts`: a shared mount point of the host. What is mounted below it
    /// appears in the tree, also while the machine runs.
    pub tree: Option<PathBuf>,
}

/// A file or folder of the host that appears in a [`Share`].
#[derive(Debug, Clone)]
pub struct ShareMount {
    /// File or folder of the host.
    pub source: PathBuf,
    /// Single path component: its name at the root of the share.
    pub name: String,
    /// Refuse writes on the host's side.
    pub read_only: bool,
}

/// A network interface of the machine.
#[derive(Debug, Clone)]
pub struct NetworkInterface {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Where its frames go.
    pub backend: NetworkBackend,
}

impl NetworkInterface {
    /// Whether its frames go through a stream socket.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.backend, NetworkBackend::Stream(_))
    }
}

/// An opened descriptor with the frames of an interface.
#[derive(Debug, Clone)]
pub enum NetworkBackend {
    /// A connected stream socket; each frame has its length before it, four bytes in
    /// network order.
    Stream(Arc<OwnedFd>),
    /// A tap device. With `IFF_VNET_HDR`, checksums and segmentation are left to whoever is
    /// behind it.
    Tap(Arc<OwnedFd>),
}

impl NetworkBackend {
    /// Whatever it is.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(descriptor) | Self::Tap(descriptor) => descriptor.as_fd(),
        }
    }
}
