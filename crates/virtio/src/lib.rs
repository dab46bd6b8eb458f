//! Device models on split virtqueues.
//!
//! A model knows the rings and the guest's memory, never how they reached it:
//! the same code is served over vhost-user to another VMM's process and called
//! directly by a VMM that has the devices in its own process. The memory may be
//! mapped or may be another process's, see [`memory`].
//!
//! Everything read from a ring or from guest memory is hostile. A model copies it
//! once into its own memory before it looks at it, keeps only what its limits
//! allow, and answers a ring that makes no sense with an [`Error`], after which the
//! device is dead until the driver resets it.

mod error;
pub mod memory;
pub mod queue;
pub mod vsock;

pub use error::{Error, Result};
