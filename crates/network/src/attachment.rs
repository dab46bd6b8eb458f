//! What a sandbox is attached to.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::change::Change;
use crate::guest::Guest;
use crate::namespace::Joined;
use crate::passt::UserMode;
use crate::{Condition, Error, Result};

/// The networks of one sandbox. Clones are the same attachment.
#[derive(Debug, Clone)]
pub struct Attachment(Arc<Holder>);

/// What the descriptors lead to.
#[derive(Debug)]
pub(crate) enum Holder {
    UserMode {
        user: UserMode,
        guest: Guest,
        link: Link,
    },
    Namespace(Joined),
}

/// A descriptor with frames.
#[derive(Debug, Clone)]
pub enum Link {
    /// A stream socket; each frame has its length before it, four bytes in network order.
    Stream(Arc<OwnedFd>),
    /// A tap device, which may have a `virtio_net_hdr` before each frame (`IFF_VNET_HDR`).
    Tap(Arc<OwnedFd>),
}

impl Attachment {
    pub(crate) fn new(holder: Holder) -> Self {
        Self(Arc::new(holder))
    }

    /// What the guest is to be told.
    pub fn guest(&self) -> Guest {
        match &*self.0 {
            Holder::UserMode { guest, .. } => guest.clone(),
            Holder::Namespace(joined) => joined.guest(),
        }
    }

    /// Where the frames go, one for each of the guest's interfaces, in their order.
    pub fn links(&self) -> Vec<Link> {
        match &*self.0 {
            Holder::UserMode { link, .. } => vec![link.clone()],
            Holder::Namespace(joined) => joined.links(),
        }
    }

    /// The network namespace whose place the guest takes. Engines look for it by the
    /// machine's process.
    pub fn namespace(&self) -> Option<Arc<OwnedFd>> {
        match &*self.0 {
            Holder::UserMode { .. } => None,
            Holder::Namespace(joined) => Some(joined.namespace()),
        }
    }

    /// Can be read when [`Self::update`] may find something; none if nothing ever changes.
    pub fn changes(&self) -> Option<BorrowedFd<'_>> {
        match &*self.0 {
            Holder::UserMode { .. } => None,
            Holder::Namespace(joined) => Some(joined.changes().as_fd()),
        }
    }

    /// Looks for what has changed since it was made or looked at last. Blocks a moment.
    pub fn update(&self) -> Result<Change> {
        match &*self.0 {
            Holder::UserMode { .. } => Ok(Change::default()),
            Holder::Namespace(joined) => joined.update(),
        }
    }

    /// Opens a connection in the network namespace, as its processes would. Blocks.
    pub fn connect(&self, to: SocketAddr, patience: Duration) -> Result<TcpStream> {
        match &*self.0 {
            Holder::UserMode { .. } => Err(Error::NoNamespace),
            Holder::Namespace(joined) => joined.connect(to, patience),
        }
    }

    /// Waits until frames go through, or would if there were any, or says why they never
    /// will. It takes no longer than a program takes to start.
    pub async fn ready(&self) -> Result<()> {
        match &*self.0 {
            Holder::UserMode { user, .. } => user.stack.ready().await,
            Holder::Namespace(_) => Ok(()),
        }
    }

    /// How it is with it, for whoever has to know of its end or of new [`Self::processes`];
    /// none if it has no process and lasts until it is ended.
    pub fn condition(&self) -> Option<watch::Receiver<Condition>> {
        match &*self.0 {
            Holder::UserMode { user, .. } => Some(user.stack.condition()),
            Holder::Namespace(_) => None,
        }
    }

    /// Ends it, and waits until nothing of it is left on the host. May be called again.
    pub fn end(&self) {
        match &*self.0 {
            Holder::UserMode { user, .. } => user.end(),
            Holder::Namespace(joined) => joined.end(),
        }
    }

    /// Host processes that belong to it now.
    pub fn processes(&self) -> Vec<u32> {
        match &*self.0 {
            Holder::UserMode { user, .. } => user.stack.process().into_iter().collect(),
            Holder::Namespace(_) => Vec::new(),
        }
    }
}
