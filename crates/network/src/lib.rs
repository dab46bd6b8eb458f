//! From a user-mode stack or a network namespace to descriptors for a machine, and to
//! what its guest is told.
//!
//! Nothing here knows of machines: an [`Attachment`] has, for each interface, a
//! descriptor with the frames and the addresses that go with it. Whoever holds the
//! attachment keeps the other side of the descriptors alive; with its last clone
//! everything that was made for it ends.

mod attachment;
mod change;
pub mod cni;
mod egress;
mod error;
mod filter;
mod found;
mod guard;
mod guest;
mod handshake;
mod host;
mod namespace;
mod need;
pub mod passt;
mod port;
mod program;
mod relay;
mod stack;
mod tap;

pub use attachment::{Attachment, Link};
pub use caisson_netlink::{Cidr, Mac};
pub use change::Change;
pub use egress::{Egress, Rule};
pub use error::{Error, Result};
pub use guard::Spoofing;
pub use guest::{Guest, Interface, Neighbour, Route};
pub use namespace::Namespace;
pub use port::{PortMapping, Protocol, parse_ports, reserve};
pub use stack::Condition;
