//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;

use crate::host::KvmProbe;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the driver needs is not there.
    #[error("{program} was not found in {searched}; {remedy}")]
    ProgramMissing {
        /// Name of the program.
        program: String,
        /// Where it was looked for.
        searched: String,
        /// What to do about it.
        remedy: String,
    },
    /// A file given in the configuration cannot be used.
    #[error("cannot open {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A process could not be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// Name of the program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A process of the machine ended or refused while it was being set up.
    #[error("{program} failed while {doing}: {detail}")]
    Process {
        /// Name of the program.
        program: String,
        /// What it was asked to do.
        doing: &'static str,
        /// What it said, its last lines of standard error included.
        detail: String,
    },
    /// Nothing listens on that port of the guest.
    #[error("the guest refused a connection to its vsock port {0}")]
    ConnectionRefused(u32),
    /// The machine is gone.
    #[error("the virtual machine has ended")]
    Ended,
    /// Every slot of the machine is in use.
    #[error(
        "the virtual machine has no room for another disk or network interface: it takes five of both together"
    )]
    NoSlot,
    /// This driver cannot do that.
    #[error("{driver} cannot {what}")]
    Unsupported {
        /// Name of the driver.
        driver: &'static str,
        /// The operation.
        what: &'static str,
    },
    /// A setting has a value that means nothing.
    #[error("{key} cannot be {value:?}; it is one of: {known}")]
    UnknownChoice {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// The values that mean something.
        known: String,
    },
    /// KVM was asked for.
    #[error("{0}; leave the accelerator to `auto`, or choose `tcg`")]
    KvmUnusable(KvmProbe),
    /// There is no template and none can be made now.
    #[error("no template: {0}")]
    NoTemplate(String),
    /// Any other failure of the host.
    #[error("{doing}: {source}")]
    Host {
        /// What was being done.
        doing: String,
        /// The host's answer.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was being done when the host refused.
    pub(crate) fn host(doing: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host {
            doing: doing.to_owned(),
            source,
        }
    }
}
