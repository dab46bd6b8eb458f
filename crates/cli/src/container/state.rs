//! What has become of a container.

use caisson_sandbox::timing::Stage;
use serde::{Deserialize, Serialize};

use super::NetworkState;

/// Docker's words for where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started.
    #[default]
    Created,
    /// Its machine is being made.
    Starting,
    /// Its first process runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its first process has ended.
    Exited,
    /// Its supervisor or its machine was lost.
    Dead,
}

impl Status {
    /// Whether a supervisor holds the container.
    pub fn is_live(self) -> bool {
        matches!(self, Status::Starting | Status::Running | Status::Paused)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Starting => "starting",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Exited => "exited",
            Status::Dead => "dead",
        })
    }
}

/// What has become of a container; written by its supervisor alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Process that holds it, while it is live.
    pub supervisor_pid: u32,
    /// Processes of its machine on the host, while it is live.
    pub machine_pids: Vec<u32>,
    /// Its network, while it is live.
    pub network: Option<NetworkState>,
    /// RFC 3339, UTC.
    pub started_at: Option<String>,
    /// RFC 3339, UTC.
    pub finished_at: Option<String>,
    /// Exit code of the first process.
    pub exit_code: u8,
    /// It ran out of memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Why it is dead, or could not be started.
    pub error: Option<String>,
    /// Hypervisor and why it was chosen.
    pub hypervisor: String,
    /// Where the time of the last start went.
    pub stages: Vec<Stage>,
}

impl State {
    /// The status, and what a container died of: for errors.
    pub fn told(&self) -> String {
        match (self.status, &self.error) {
            (Status::Dead, Some(error)) => format!("{}: {error}", self.status),
            (status, _) => status.to_string(),
        }
    }
}
