//! What is written down of a snapshot besides its machine.

use serde::{Deserialize, Serialize};

use crate::container::ContainerRecord;

/// A snapshot, as it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRecord {
    /// What it is called, with its tag.
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// The container that ran.
    pub container: ContainerRecord,
    /// Name of that container in its guest.
    pub guest_id: String,
    /// Tells the copy of its writable layer from any other file.
    pub scratch: String,
    /// Bytes of the host's disk that it takes.
    pub disk: u64,
}

/// In a container's record: what it is a copy of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyOf {
    /// The snapshot's name.
    pub snapshot: String,
    /// When that was made: another may have its name by now.
    pub created: String,
    /// Name of the container in the guest.
    pub guest_id: String,
}
