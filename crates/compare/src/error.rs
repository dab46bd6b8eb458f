//! What can keep a comparison from being made. What a runtime does wrong is not here: it is
//! part of the report.

use std::io;
use std::path::PathBuf;

use crate::runtime::{EngineName, Kind, Outcome};

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The user ended it.
    #[error("interrupted; everything that was started has been taken down")]
    Interrupted,
    /// `--only` names a section that there is not.
    #[error("there is no section {id:?}; there are {all}")]
    Section {
        /// What was named.
        id: String,
        /// What there is.
        all: String,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A child could not be waited for.
    #[error("cannot wait for a command: {source}")]
    Wait {
        /// Why.
        source: io::Error,
    },
    /// An engine is not usable.
    #[error("engine {engine}: {reason}; {remedy}")]
    Engine {
        /// Which one.
        engine: EngineName,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A container was to run in the background and did not.
    #[error("{runtime}: `{}`: {}: {}", .outcome.command, .outcome.ending, .outcome.error_text())]
    NotStarted {
        /// Which runtime.
        runtime: Kind,
        /// What it said.
        outcome: Box<Outcome>,
    },
    /// Something that an engine has no way to do.
    #[error("engine {engine} has no {what}")]
    Unsupported {
        /// Which one.
        engine: EngineName,
        /// What was asked of it.
        what: &'static str,
    },
    /// What is run in containers is not there.
    #[error(
        "caisson-probe is missing: `make build` makes it; installed, it is lib/caisson/caisson-probe"
    )]
    Probe,
    /// An image cannot be used.
    #[error("image {image}: {reason}")]
    Image {
        /// As the user named it.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A command of ours failed.
    #[error("`{}`: {}: {}", .0.command, .0.ending, .0.error_text())]
    Command(Box<Outcome>),
}

/// Names the file of an error.
pub(crate) trait At<T> {
    /// The error of this file.
    fn at(self, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File {
            path: path.into(),
            source,
        })
    }
}
