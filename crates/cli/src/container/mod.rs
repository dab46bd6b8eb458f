//! Containers as they lie on disk.

pub mod lease;
mod network;
mod record;
mod state;
mod store;

pub use network::{Dns, Network, NetworkInterface, NetworkMode, NetworkState};
pub use record::{ContainerRecord, Machine, SharedPath};
pub use state::{State, Status};
pub use store::{Container, ContainerStore, StoreError};
