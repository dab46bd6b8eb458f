//! A sandbox: a microVM with our agent in it, and the containers that run there.
//!
//! This is the only place where a start or a stop is a sequence of steps.
//! Nothing here knows of command-line flags or of an engine's API: the front
//! doors translate theirs into [`SandboxConfig`] and [`ContainerConfig`].

mod agent;
mod console;
mod container;
mod describe;
mod disk;
mod error;
mod frozen;
mod memory;
mod network;
mod process;
mod rehearsal;
mod resolver;
mod sandbox;
mod seccomp;
mod start;
pub mod timing;
mod validate;

pub use container::{Container, ContainerConfig, ContainerCopy, Rootfs, RootfsFile};
pub use disk::RootfsDisk;
pub use error::{Error, Result};
pub use frozen::{Frozen, Thawing};
pub use memory::guest_memory;
pub use network::template_parameter;
pub use process::{Exit, Process, ProcessStreams, StreamRequest, TerminalSize};
pub use rehearsal::rehearsal;
pub use sandbox::{Identity, Sandbox, SandboxConfig};
pub use start::{Origin, Snapshot};
