//! What the two sides of the VM boundary agree on, and nothing else: the agent
//! API (`proto/agent.proto`), the vsock ports, the paths and the kernel
//! command line parameters.

mod generated {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used, unsafe_op_in_unsafe_fn)]
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

pub use generated::agent;
pub use generated::agent_ttrpc;

/// vsock port on which the agent serves its ttrpc API.
pub const AGENT_PORT: u32 = 1024;

/// Host port to which the agent connects once [`AGENT_PORT`] is listening: the
/// connection is the sign of life and then carries the guest's log as text lines.
pub const LOG_PORT: u32 = 1025;

/// Guest port of the debug console, closed unless asked for.
pub const DEBUG_PORT: u32 = 1026;

/// Guest port to which the host connects once for each stdio or copy stream.
/// The first [`STREAM_HEADER_LEN`] bytes are the stream's number, big endian.
pub const STREAM_PORT: u32 = 1027;

/// Bytes of the number that opens a connection to [`STREAM_PORT`].
pub const STREAM_HEADER_LEN: usize = 8;

/// vsock address of the host (virtio 1.2, section 5.10.4).
pub const HOST_CID: u32 = 2;

/// Where the agent mounts the virtio-fs share that holds all volumes.
pub const SHARE_ROOT: &str = "/run/caisson/share";

/// virtio-fs tag of that share.
pub const SHARE_TAG: &str = "caisson";

/// Serial number of the disk with the container image.
pub const IMAGE_DISK: &str = "image";

/// Serial number of the disk with the writable layer.
pub const SCRATCH_DISK: &str = "scratch";

/// Files of a container's cgroup that the host may have written.
pub const LIMIT_FILES: [&str; 8] = [
    "cpu.max",
    "cpu.weight",
    "io.max",
    "memory.high",
    "memory.low",
    "memory.max",
    SWAP_LIMIT_FILE,
    "pids.max",
];

/// The one of them that a guest without swap space does not have.
pub const SWAP_LIMIT_FILE: &str = "memory.swap.max";

/// Program in a container's files that is run in each copy of a snapshot, before the
/// container's own processes go on.
pub const ON_FORK: &str = "/run/caisson/on-fork";

/// Kernel parameter of a machine that is to be frozen into a template, once its agent has
/// called ([`LOG_PORT`]) and has been called. Its agent does beforehand what each fork
/// would do.
pub const TEMPLATE_PARAMETER: &str = "caisson.template";

/// Kernel parameter of such a machine: the serial number of a disk with an empty file
/// system, of which each fork has a copy. The agent mounts it before the machine is
/// frozen.
pub const NEW_DISK_PARAMETER: &str = "caisson.new_disk";

/// Kernel parameter of such a machine: what its only interface will nearly always be given,
/// a `Network` without the hardware address, in hexadecimal. The agent sets it up before the
/// machine is frozen; whatever a fork is to have instead, it is given.
pub const NETWORK_PARAMETER: &str = "caisson.network";

/// Line on the serial console with which the agent says that it has let go of the vsock
/// device. It then waits there for one line, in the machine that goes on and in each copy of
/// it. The line holds the numbers of the platform devices `virtio-mmio.N` that it is to look
/// at, between spaces. Behind [`WAKE_UP_GONE`], if it is there, are those of the devices that
/// it is to let go of.
pub const LET_GO: &str = "caisson-agent: has let go";

/// See [`LET_GO`].
pub const WAKE_UP_GONE: &str = "-";

/// Longest line with which a copy is woken: what the serial port takes before its
/// driver runs.
pub const WAKE_UP_LIMIT: usize = 16;
