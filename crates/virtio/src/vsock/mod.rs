//! The socket device (virtio 1.2, section 5.10): stream connections between ports
//! of the guest and sockets of the host.
//!
//! ```text
//!   host: one stream socket per connection          guest: AF_VSOCK
//!        |  epoll                                        |
//!      Connection  <-- Vsock: ports, fairness -->  rx queue, tx queue
//! ```
//!
//! What goes to the guest is read from the host's socket straight before it is put
//! into a receive buffer, so without a buffer nothing is read and the host's writer
//! blocks. What comes from the guest goes straight into the host's socket; what does
//! not fit waits in the connection's backlog, whose size is the credit that the
//! guest was given. Every queue is bounded whatever the guest does: the number of
//! connections, the backlogs, and the answers to stray packets, for which the tx
//! queue is left alone when there is no room.
//!
//! Only streams are served. The event queue, with which a device tells the guest
//! that its address changed, needs no work until machines are moved.

mod connection;
mod device;
mod handover;
mod packet;
mod rings;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::MAX_PAYLOAD;
pub use device::{Host, Signals, Vsock};
pub use handover::Standing;
pub use packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// Index of the queue with the driver's receive buffers (virtio 1.2, 5.10.2).
pub const RX_QUEUE: usize = 0;
/// Index of the queue with the driver's packets.
pub const TX_QUEUE: usize = 1;

/// Address of the host (virtio 1.2, 5.10.4).
pub const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_F_STREAM`, `VIRTIO_RING_F_INDIRECT_DESC`, `VIRTIO_RING_F_EVENT_IDX`
/// and `VIRTIO_F_VERSION_1`.
pub const FEATURES: u64 = 1 | 1 << 28 | 1 << 29 | 1 << 32;

/// Most connections at one time, whoever asked for them.
pub const MAX_CONNECTIONS: usize = 1024;

/// Most of them that the guest may have asked for, so that it cannot lock the host
/// out.
pub const MAX_GUEST_CONNECTIONS: usize = MAX_CONNECTIONS / 2;
