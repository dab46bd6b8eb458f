//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a process cannot be written, or not be copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request of the kernel's was refused.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was to be done.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The process has something that a copy could not have.
    #[error("a copy of the process could not have {0}")]
    Unsupported(String),

    /// A file that the process has mapped cannot be opened.
    #[error("cannot open {}, which the process has mapped: {source}", path.display())]
    Mapped {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A file that the process has mapped is not what it was.
    #[error("{}, which the process has mapped, is another file now", .0.display())]
    Changed(PathBuf),

    /// The description of the process cannot be read or written.
    #[error("cannot read or write the description of the process: {0}")]
    Description(#[from] serde_json::Error),

    /// The image was written under another kernel, or on another processor.
    #[error("the process was written under another kernel or on another processor")]
    OtherHost,

    /// There is no room between what the process and the copy have mapped.
    #[error("no room to begin the copy in")]
    NoRoom,
}

impl Error {
    /// For `map_err`: says what was being done.
    pub(crate) fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }
}
