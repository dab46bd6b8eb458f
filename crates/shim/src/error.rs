//! What can go wrong in a shim, and how containerd is told.

use std::io;
use std::path::Path;

use ttrpc::Code;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Arguments(String),
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] caisson_config::Error),
    /// No hypervisor can be used.
    #[error(transparent)]
    Hypervisor(#[from] caisson_hypervisor::Error),
    /// The sandbox failed or refused.
    #[error(transparent)]
    Sandbox(#[from] caisson_sandbox::Error),
    /// The network failed or was refused.
    #[error(transparent)]
    Network(#[from] caisson_network::Error),
    /// The specification asks for something that a virtual machine cannot honour.
    #[error("{field} cannot be honoured in a virtual machine: {reason}")]
    Specification {
        /// Field of the OCI runtime specification, dotted.
        field: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A request that comes at the wrong time.
    #[error("{0}")]
    State(String),
    /// No such container or process.
    #[error("{0}: not found")]
    Missing(String),
    /// It is there already.
    #[error("{0}: already exists")]
    Exists(String),
    /// Something that there is not.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A container that cannot be in a checkpoint, or not now.
    #[error("container {container} cannot be in a checkpoint: {reason}")]
    Checkpoint {
        /// Its id.
        container: String,
        /// Why.
        reason: String,
    },
    /// The shim's process did not come up.
    #[error("the shim did not start: {0}")]
    Daemon(String),
    /// A hook of the specification failed.
    #[error("the hook {hook} failed: {reason}")]
    Hook {
        /// Its program.
        hook: String,
        /// What happened.
        reason: String,
    },
    /// A failure of the host.
    #[error("cannot {doing}: {source}")]
    Host {
        /// What was being done, with its object.
        doing: String,
        /// The host's answer.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was being done when the host refused.
    pub fn host<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Host {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// As [`Error::host`], on a path.
    pub fn path<E: Into<io::Error>>(doing: &str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Host {
            doing: format!("{doing} {}", path.display()),
            source: source.into(),
        }
    }

    /// A field of a specification that is refused.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Specification {
            field: field.into(),
            reason: reason.into(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Arguments(_) | Self::Invalid(_) | Self::Specification { .. } => {
                Code::INVALID_ARGUMENT
            }
            Self::State(_) | Self::Checkpoint { .. } => Code::FAILED_PRECONDITION,
            Self::Missing(_) => Code::NOT_FOUND,
            Self::Exists(_) => Code::ALREADY_EXISTS,
            Self::Unsupported(_) => Code::UNIMPLEMENTED,
            _ => Code::UNKNOWN,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}
