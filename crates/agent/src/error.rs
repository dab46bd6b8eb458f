//! What can go wrong in the guest, and how the host is told.

use std::io;
use std::path::{Path, PathBuf};

use ttrpc::Code;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No such container or process.
    #[error("there is no {0}")]
    Missing(String),
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done, with its object.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A child failed before it became the program.
    #[error("{0}")]
    Child(String),
    /// The program is not there.
    #[error("{0}")]
    ProgramNotFound(String),
    /// The program cannot be executed.
    #[error("{0}")]
    ProgramNotExecutable(String),
}

impl Error {
    /// For `map_err`: what was being done when the kernel refused.
    pub fn system<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// As [`Error::system`], on a path.
    pub fn path<E: Into<io::Error>>(doing: &str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing: format!("{doing} {}", path.display()),
            source: source.into(),
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Invalid(_) => Code::INVALID_ARGUMENT,
            Error::Missing(_) => Code::FAILED_PRECONDITION,
            Error::System { .. } | Error::Child(_) => Code::INTERNAL,
            Error::ProgramNotFound(_) => Code::NOT_FOUND,
            Error::ProgramNotExecutable(_) => Code::PERMISSION_DENIED,
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, error.to_string()))
    }
}

/// Checks a name that becomes a path component: a container's or a share's.
pub fn name(what: &str, name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty()
        && name.len() <= 128
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if plain {
        return Ok(PathBuf::from(name));
    }
    Err(Error::Invalid(format!("{what} cannot be named {name:?}")))
}
