//! The few rtnetlink messages (rtnetlink(7)) that the host and the guest need, connections
//! (sock_diag(7)), and taps.
//!
//! Written by hand and blocking: the agent calls this once, right after its machine
//! has begun, where every instruction that runs for the first time is translated.
//! The kernel answers at once, so there is nothing to wait for asynchronously.

mod address;
mod changes;
mod cidr;
mod connection;
mod link;
mod message;
mod neighbour;
mod route;
mod socket;
mod tap;
mod traffic;

pub use address::Address;
pub use changes::Changes;
pub use cidr::Cidr;
pub use connection::{AT_REST, Connection, Connections};
pub use link::{Counters, Link};
pub use neighbour::Neighbour;
pub use route::Route;
pub use socket::Socket;
pub use tap::{open as open_tap, takes_offloads};

/// A hardware address of Ethernet.
pub type Mac = [u8; 6];

/// One of classic BPF (Documentation/networking/filter.rst).
pub type Instruction = libc::sock_filter;
