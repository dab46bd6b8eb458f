//! Containers as they lie on disk.

mod record;
mod state;
mod store;

pub use record::{ContainerRecord, Machine, SharedPath};
pub use state::{State, Status};
pub use store::{Container, ContainerStore, StoreError};
