//! One queue of the device: what the frontend said of it, and the queue in use.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use caisson_virtio::memory::GuestMemory;
use caisson_virtio::queue::{Layout, MAX_SIZE, Queue};
use rustix::event::epoll::{self, EventData, EventFlags};
use tracing::debug;
use vhost::vhost_user::{Error, Result};

/// A queue as vhost-user's "ring states" have it: it runs from when all is known of it
/// and it is enabled to when the frontend asks where it stands.
pub struct Ring {
    /// Watches kicks while the queue runs.
    epoll: Arc<OwnedFd>,
    token: u64,
    size: u16,
    /// Descriptors, available ring and used ring.
    addresses: Option<[u64; 3]>,
    base: u16,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    enabled: bool,
    /// The queue while it runs.
    pub queue: Option<Queue>,
    /// Where a queue was left that ran before. Only the frontend can change that, and
    /// it does when the driver starts afresh: a paused machine resumes where it was, a
    /// reset one has new rings or starts at 0.
    left: Option<(Layout, u16)>,
    /// It is to be taken up where another device left it, which the frontend does not know.
    taken_up: bool,
}

impl Ring {
    /// `taken_up` says that another device has served it.
    pub fn new(epoll: Arc<OwnedFd>, token: u64, taken_up: bool) -> Self {
        Self {
            epoll,
            token,
            size: 0,
            addresses: None,
            base: 0,
            kick: None,
            call: None,
            enabled: false,
            queue: None,
            left: None,
            taken_up,
        }
    }

    pub fn set_size(&mut self, size: u32) -> Result<()> {
        self.stop()?;
        match u16::try_from(size) {
            Ok(size) if size <= MAX_SIZE && size.is_power_of_two() => self.size = size,
            _ => return Err(Error::InvalidParam),
        }
        Ok(())
    }

    /// Takes the guest physical addresses of descriptors, available and used ring.
    pub fn set_addresses(&mut self, addresses: [u64; 3]) -> Result<()> {
        self.stop()?;
        self.addresses = Some(addresses);
        Ok(())
    }

    pub fn set_base(&mut self, base: u32) -> Result<()> {
        self.stop()?;
        self.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    pub fn set_kick(&mut self, kick: Option<OwnedFd>) -> Result<()> {
        self.stop()?;
        self.kick = kick;
        Ok(())
    }

    /// Takes the descriptor to interrupt with. One that comes while the queue runs is
    /// written at once: a frontend starts the device first and then unmasks its
    /// interrupts, and takes no note of one in between.
    pub fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call;
        if self.queue.is_some() {
            self.interrupt();
        }
    }

    pub fn set_enabled(&mut self, enabled: bool) -> Result<()> {
        self.stop()?;
        self.enabled = enabled;
        Ok(())
    }

    /// Interrupts the guest.
    pub fn interrupt(&self) {
        if let Some(call) = &self.call
            && let Err(source) = rustix::io::write(call, &1_u64.to_ne_bytes())
        {
            debug!(%source, "cannot interrupt the guest");
        }
    }

    /// Lets the queue run if all is known of it. If it now starts, returns whether it
    /// does so somewhere else than where it was left: then its driver is a new one.
    pub fn start(&mut self, memory: &dyn GuestMemory, event_index: bool) -> Result<Option<bool>> {
        let (Some([descriptors, available, used]), Some(kick), None, true) =
            (self.addresses, &self.kick, &self.queue, self.enabled)
        else {
            return Ok(None);
        };
        let layout = Layout {
            size: self.size,
            descriptors,
            available,
            used,
        };
        let failed = |error| Error::ReqHandlerError(io::Error::other(error));
        let is_taken_up = std::mem::take(&mut self.taken_up);
        if is_taken_up {
            // Whatever the other device took it has given back.
            self.base = layout.used_index(memory).map_err(failed)?;
            self.left = Some((layout, self.base));
        }
        let queue = Queue::new(memory, layout, self.base, event_index).map_err(failed)?;
        // Each write is an event, as is what was written before: nothing is read.
        epoll::add(
            &self.epoll,
            kick,
            EventData::new_u64(self.token),
            EventFlags::IN | EventFlags::ET,
        )
        .map_err(|errno| Error::ReqHandlerError(errno.into()))?;
        self.queue = Some(queue);
        if is_taken_up {
            // The guest may have missed the last one of the other device.
            self.interrupt();
        }
        Ok(Some(self.left != Some((layout, self.base))))
    }

    /// Stops the queue where it stands.
    pub fn stop(&mut self) -> Result<()> {
        let Some(queue) = self.queue.take() else {
            return Ok(());
        };
        self.base = queue.next_available();
        self.left = Some((queue.layout(), self.base));
        if let Some(kick) = &self.kick {
            // Closing it is not enough: the frontend has the same open file.
            epoll::delete(&self.epoll, kick)
                .map_err(|errno| Error::ReqHandlerError(errno.into()))?;
        }
        Ok(())
    }

    /// Stops the queue until the frontend sets it up again. Returns where it stands.
    pub fn end(&mut self) -> Result<u16> {
        self.stop()?;
        self.kick = None;
        self.call = None;
        Ok(self.base)
    }
}
