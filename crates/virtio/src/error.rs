//! Errors of the device models.

use std::io;

/// What can go wrong in a device model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ring or descriptor that the specification does not allow. Nothing more can
    /// be done with the device until the driver resets it (virtio 1.2, 2.1.1
    /// `DEVICE_NEEDS_RESET`).
    #[error("the driver broke the {queue} queue: {source}; the device waits for a reset")]
    Queue {
        /// Which virtqueue.
        queue: &'static str,
        /// What was found in it.
        source: virtio_queue::Error,
    },
    /// The host refused a resource that the device needs to exist.
    #[error("cannot create the device's {what}: {source}")]
    Resource {
        /// What could not be made.
        what: &'static str,
        /// The system call's error.
        source: io::Error,
    },
}

/// Result of an operation on a device model.
pub type Result<T> = std::result::Result<T, Error>;
