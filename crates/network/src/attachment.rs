//! What a sandbox is attached to.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use caisson_netlink::{Cidr, Mac};

use crate::Result;
use crate::namespace::Joined;
use crate::passt::UserMode;

/// The networks of one sandbox. Clones are the same attachment.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// What the guest is told.
    pub guest: Guest,
    /// Where the frames go, one for each of the guest's interfaces, in their order.
    pub links: Vec<Link>,
    holder: Arc<Holder>,
}

/// What the descriptors lead to.
#[derive(Debug)]
pub(crate) enum Holder {
    UserMode(UserMode),
    Namespace(Joined),
}

/// The guest's network, as its agent sets it up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// Interfaces besides the loopback.
    pub interfaces: Vec<Interface>,
    /// Routes that do not come with an address.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

/// An interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, by which the guest finds it.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
}

/// A route of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Name of the interface.
    pub interface: String,
    /// Where it leads.
    pub destination: Cidr,
    /// The next hop; none if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The next hop is on the link, whatever the other routes say.
    pub on_link: bool,
    /// Address to send from.
    pub source: Option<IpAddr>,
    /// Lower is better; 0 is the default.
    pub metric: u32,
}

/// A permanent neighbour of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Name of the interface.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// A descriptor with frames.
#[derive(Debug, Clone)]
pub enum Link {
    /// A stream socket; each frame has its length before it, four bytes in network order.
    Stream(Arc<OwnedFd>),
    /// A tap device with a `virtio_net_hdr` before each frame (`IFF_VNET_HDR`).
    Tap(Arc<OwnedFd>),
}

impl Attachment {
    pub(crate) fn new(guest: Guest, links: Vec<Link>, holder: Holder) -> Self {
        Self {
            guest,
            links,
            holder: Arc::new(holder),
        }
    }

    /// Waits until frames go through, or says why they never will. Blocks, but not
    /// for longer than a program takes to start.
    pub fn ready(&self) -> Result<()> {
        match &*self.holder {
            Holder::UserMode(user) => user.ready(),
            Holder::Namespace(_) => Ok(()),
        }
    }

    /// Ends it, and waits until nothing of it is left on the host. May be called again.
    pub fn end(&self) {
        match &*self.holder {
            Holder::UserMode(user) => user.end(),
            Holder::Namespace(joined) => joined.end(),
        }
    }

    /// Host processes that belong to it.
    pub fn processes(&self) -> Vec<u32> {
        match &*self.holder {
            Holder::UserMode(user) => vec![user.process()],
            Holder::Namespace(_) => Vec::new(),
        }
    }
}
