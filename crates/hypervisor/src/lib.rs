//! Virtual machines, whatever makes them.
//!
//! A [`Hypervisor`] makes machines from a [`VmConfig`] (cold) or from a
//! [`Template`] (fork). What can be asked of a machine depends on its state, and
//! the state is in its type: a [`RunningVm`] has vsock ports, can be paused and can
//! leave a snapshot of itself, a [`PausedVm`] can be resumed, and a stopped machine
//! is only an [`ExitReason`].

mod config;
mod device;
mod error;
pub mod host;
mod process;
pub mod qemu;
mod select;
pub mod template;

pub use config::{
    Disk, NetworkBackend, NetworkInterface, OpenDisk, Ports, Rehearsal, Share, ShareMount, VmConfig,
};
pub use error::{Error, Result};
pub use select::{Selected, Selection, select};
pub use template::{Template, TemplateStore};

use std::os::unix::net::UnixStream;
use std::path::Path;

use async_trait::async_trait;

use template::Recipe;

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest's kernel panicked or reset the machine.
    Crashed(String),
    /// The machine was ended by [`RunningVm::kill`].
    Killed,
    /// A process that the machine consists of ended: its name and status.
    ProcessDied(String),
}

/// What is done while a machine stands still.
pub type WhileStill = Box<dyn FnOnce() -> std::io::Result<()> + Send>;

/// Where there are to be copies of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// On this host, by whoever wrote it: the process that runs the machine is left with it, if
    /// it can be, for copies to begin as copies of that.
    OnThisHost,
    /// Anywhere: the machine is left alone. A process is executed as it is found, and fits no
    /// other host.
    Anywhere,
}

/// Makes virtual machines.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Short name, as in the configuration: `qemu`, `builtin`.
    fn name(&self) -> &'static str;

    /// Boots a new machine. Returns as soon as it runs, long before its agent
    /// is ready: the agent's first connection to the log port tells that.
    async fn boot(&self, config: &VmConfig) -> Result<Box<dyn RunningVm>>;

    /// Everything on which a template for such machines depends. An error says why
    /// they cannot be forked.
    fn recipe(&self, config: &VmConfig) -> Result<Recipe>;

    /// Boots a machine with at most disks, waits until its agent says that it can be
    /// frozen, and leaves it in files of `directory`, which is there and empty.
    async fn make_template(&self, config: &VmConfig, directory: &Path) -> Result<()>;

    /// Starts a copy of a template whose recipe is that of `config`. Disks and shares
    /// come into its empty slots. Of a snapshot, the copy has the same disks, and what
    /// they held. Returns when it runs; as after a boot, the agent's first connection to
    /// the log port tells that it is ready.
    async fn fork(&self, template: &Template, config: &VmConfig) -> Result<Box<dyn RunningVm>>;
}

/// A machine whose CPUs run.
///
/// Dropping it ends the machine and every process that belongs to it.
#[async_trait]
pub trait RunningVm: Send + Sync {
    /// Opens a stream to a vsock port of the guest. Fails with
    /// [`Error::ConnectionRefused`] when nothing listens there.
    async fn connect(&self, port: u32) -> Result<UnixStream>;

    /// The next stream that the guest opened, with the host port it named.
    /// Only ports in [`VmConfig::host_ports`] can be reached.
    async fn accept(&self) -> Result<(u32, UnixStream)>;

    /// Numbers of those of the machine's devices `virtio-mmio.N` that it began with and
    /// its guest has not looked at, which is what its agent has to do first: those that a
    /// fork has beside its template's.
    fn new_devices(&self) -> Vec<u32>;

    /// Gives a copy of a snapshot the network interfaces in whose places its guest had others,
    /// which it has let go of on waking up. Returns the numbers of their devices
    /// `virtio-mmio.N`, which the guest has to look at.
    async fn renew_networks(&self) -> Result<Vec<u32>>;

    /// Gives the machine one more network interface. Returns the number of its device
    /// `virtio-mmio.N` in the guest, which has to look at it.
    async fn plug(&self, interface: &NetworkInterface) -> Result<u32>;

    /// Takes away the network interface of a hardware address, which the guest does not
    /// use any more. None of that address is no error.
    async fn unplug(&self, mac: [u8; 6]) -> Result<()>;

    /// Gives the machine one more disk. Returns the number of its device `virtio-mmio.N` in
    /// the guest, which has to look at it.
    async fn plug_disk(&self, disk: &OpenDisk) -> Result<u32>;

    /// Takes away the disk with a serial number, which the guest does not use any more. What
    /// it has written is in the file then. None of that number is no error.
    async fn unplug_disk(&self, serial: &str) -> Result<()>;

    /// Leaves the state of the machine in new files of `directory`, and lets it go on.
    /// `still` is run while it stands still: that is when its disks can be copied.
    ///
    /// The agent has been asked to let go of the vsock device: every stream ends, and as
    /// after a boot, its first connection to the log port tells that it is there again,
    /// also where this fails.
    async fn snapshot(&self, directory: &Path, copies: Copies, still: WhileStill) -> Result<()>;

    /// Stops the CPUs; the state stays in memory.
    async fn pause(self: Box<Self>) -> Result<Box<dyn PausedVm>>;

    /// Waits for the end of the machine. Cancel safe, may be called again.
    async fn wait(&self) -> ExitReason;

    /// Ends the machine at once and waits until its processes are gone.
    async fn kill(&self) -> Result<ExitReason>;

    /// Host processes of this machine: what to account, what to place in a cgroup.
    fn processes(&self) -> Vec<u32>;
}

/// A machine whose CPUs stand still.
#[async_trait]
pub trait PausedVm: Send + Sync {
    /// Lets the CPUs run again.
    async fn resume(self: Box<Self>) -> Result<Box<dyn RunningVm>>;

    /// Ends the machine.
    async fn kill(self: Box<Self>) -> Result<ExitReason>;
}
