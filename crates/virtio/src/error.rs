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
        source: Box<Error>,
    },
    /// What was found in a ring.
    #[error("{0}")]
    Ring(&'static str),
    /// Not all of these bytes are the guest's memory.
    #[error("{length} bytes at {address:#x} are not all in the guest's memory")]
    OutsideMemory {
        /// Guest physical address.
        address: u64,
        /// Number of bytes.
        length: u64,
    },
    /// The process that holds the guest's memory did not let it be reached.
    #[error("cannot reach the guest's memory at {address:#x}: {source}")]
    Access {
        /// Guest physical address.
        address: u64,
        /// The system call's error; `UnexpectedEof` if the process has ended.
        source: io::Error,
    },
    /// A table of memory regions that cannot be meant.
    #[error("the table of memory regions makes no sense: {0}")]
    Regions(&'static str),
    /// Something is under way over a connection.
    #[error("the connection to port {port} of the guest is in use")]
    Busy {
        /// The guest's port.
        port: u32,
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

impl Error {
    /// The process that holds the guest's memory has ended, and the machine with it.
    pub fn is_end_of_memory(&self) -> bool {
        match self {
            Self::Queue { source, .. } => source.is_end_of_memory(),
            Self::Access { source, .. } => source.kind() == io::ErrorKind::UnexpectedEof,
            _ => false,
        }
    }
}

/// Result of an operation on a device model.
pub type Result<T> = std::result::Result<T, Error>;
