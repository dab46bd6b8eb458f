//! What can go wrong with a network.

use std::io;
use std::path::PathBuf;

use crate::PortMapping;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there.
    #[error("{program} was not found; {remedy}")]
    ProgramMissing {
        /// Name of the program.
        program: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A program could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program has ended or said no.
    #[error("{program} failed: {message}")]
    Program {
        /// Name of the program.
        program: String,
        /// Its last words.
        message: String,
    },
    /// A port of the host is taken.
    #[error("port {port} cannot be published: {reason}")]
    Port {
        /// What was asked for.
        port: PortMapping,
        /// Why not.
        reason: String,
    },
    /// A CNI network cannot be used.
    #[error("network {name}: {reason}")]
    Network {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// An interface cannot be joined to a machine.
    #[error(
        "the network interface {name} (a {kind}) carries no Ethernet frames and cannot be joined to a virtual machine"
    )]
    Interface {
        /// Its name.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// Two interfaces that a guest could not tell apart, such as one and a VLAN of it.
    #[error(
        "the network interfaces {name} and {other} have the same hardware address; a virtual machine can be joined to one of them only"
    )]
    Alike {
        /// The name of one.
        name: String,
        /// The name of the other.
        other: String,
    },
    /// A user-mode network is in no namespace.
    #[error("a user-mode network has no network namespace")]
    NoNamespace,
    /// The namespace is a running machine's.
    #[error(
        "the network namespace belongs to another virtual machine, whose kernel has its addresses; give the container a network of its own, or put both into one pod"
    )]
    Taken,
    /// Any other failure of the host.
    #[error("cannot {doing}: {source}")]
    Host {
        /// What was being done.
        doing: String,
        /// The host's answer.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was being done when the host refused.
    pub(crate) fn host<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Host {
            doing: doing.into(),
            source: source.into(),
        }
    }
}
