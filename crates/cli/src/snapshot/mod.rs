//! Snapshots: containers that ran, frozen with their machines, of which copies are made.

mod record;
mod store;

pub use record::{CopyOf, SnapshotRecord};
pub use store::{Making, SnapshotStore};
