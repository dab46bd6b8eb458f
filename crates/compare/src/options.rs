//! What a comparison is told.

use std::path::PathBuf;

use crate::runtime::{EngineName, Interrupt, Kind};

/// What a comparison is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// An archive, or a name that skopeo can fetch; none for the demo's image.
    pub image: Option<String>,
    /// Which runtimes.
    pub runtimes: Vec<Kind>,
    /// Who runs them; none for the best that is installed.
    pub engine: Option<EngineName>,
    /// Ids of the sections; none for all.
    pub only: Vec<String>,
    /// Runs of each start-up measurement.
    pub runs: usize,
    /// Whether rows are allowed that could disturb the host.
    pub allow_unsafe: bool,
    /// Port of the host on which the web application is published.
    pub port: u16,
    /// Folder of the report; it is made if it is not there.
    pub out: PathBuf,
    /// The `caisson` command.
    pub caisson: PathBuf,
    /// How the user ends the comparison.
    pub interrupt: Interrupt,
}
