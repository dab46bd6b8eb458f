//! What can go wrong with a sandbox.

use std::io;
use std::time::Duration;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine could not be made or has failed.
    #[error(transparent)]
    Hypervisor(#[from] caisson_hypervisor::Error),
    /// The network could not be made or has failed.
    #[error(transparent)]
    Network(#[from] caisson_network::Error),
    /// The guest did not come up in time.
    #[error("the guest was not ready after {} s; the last it said on its console: {console}", deadline.as_secs())]
    BootDeadline {
        /// How long it was given.
        deadline: Duration,
        /// Tail of the console.
        console: String,
    },
    /// The machine ended while it was needed.
    #[error(
        "the virtual machine ended while {doing}: {reason}; the last it said on its console: {console}"
    )]
    GuestEnded {
        /// What was being done.
        doing: &'static str,
        /// Why it ended.
        reason: String,
        /// Tail of the console.
        console: String,
    },
    /// The agent refused or failed.
    #[error("the guest agent failed while {doing}: {message}")]
    Agent {
        /// What it was asked to do.
        doing: &'static str,
        /// What it said, cleaned of control characters and bounded.
        message: String,
    },
    /// The program of the process does not exist in the container (exit code 127).
    #[error("{0}")]
    ProgramNotFound(String),
    /// The program of the process cannot be executed (exit code 126).
    #[error("{0}")]
    ProgramNotExecutable(String),
    /// The specification asks for something that a virtual machine cannot honour.
    #[error("{field} cannot be honoured in a virtual machine: {reason}")]
    Specification {
        /// Field of the OCI runtime specification, dotted.
        field: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// A failure of the host.
    #[error("{doing}: {source}")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

impl Error {
    /// Adds what was being done to an I/O error.
    pub(crate) fn host(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Host { doing, source }
    }
}
