//! The one thread of the device: it waits for the frontend, the driver of the machine,
//! the guest's kicks and the connections, whichever comes first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow};
use caisson_virtio::vsock::Vsock;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use vhost::vhost_user::{BackendReqHandler, Error as VhostUserError};

use super::backend::{Backend, QUEUES};
use super::control::Control;
use super::memory::Memory;
use super::state::State;

// The kicks' tokens are the queues' indexes.
const FRONTEND: u64 = QUEUES as u64;
const CONTROL: u64 = QUEUES as u64 + 1;
const SOCKETS: u64 = QUEUES as u64 + 2;

/// Serves the connection that waits in `listener` until it or the control socket ends.
pub fn serve(
    device: Vsock<Control>,
    memory: Memory,
    state: State,
    listener: OwnedFd,
) -> Result<()> {
    let (connection, _) = UnixListener::from(listener)
        .accept()
        .context("no VMM connected to the vhost-user socket")?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot make an epoll set")?;
    let epoll = Arc::new(epoll);
    let watch = |fd: BorrowedFd<'_>, token, events| {
        epoll::add(&epoll, fd, EventData::new_u64(token), events)
    };
    watch(device.as_fd(), SOCKETS, EventFlags::IN).context("cannot watch the connections")?;
    // Edge-triggered: the events tell both of new messages and of room for ours.
    let edges = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
    watch(device.host().as_fd(), CONTROL, edges).context("cannot watch the control socket")?;
    watch(connection.as_fd(), FRONTEND, EventFlags::IN)
        .context("cannot watch the vhost-user connection")?;

    let backend = Arc::new(Mutex::new(Backend::new(device, memory, state, &epoll)));
    let mut frontend = BackendReqHandler::from_stream(connection, Arc::clone(&backend));
    let mut events = Vec::with_capacity(8);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for events"),
        }
        for event in &events {
            let goes_on = match event.data.u64() {
                FRONTEND => answer(&mut frontend)?,
                CONTROL => lock(&backend).control()?,
                // What they tell of is looked at below.
                _ => true,
            };
            if !goes_on {
                return Ok(());
            }
        }
        // After a message of the frontend as well: a machine that was paused comes back
        // without a kick, with whatever either side had left to do.
        lock(&backend).process();
    }
}

/// Answers one request. Returns whether there can be more.
fn answer(frontend: &mut BackendReqHandler<Mutex<Backend>>) -> Result<bool> {
    match frontend.handle_request() {
        Ok(()) => Ok(true),
        Err(
            VhostUserError::Disconnected
            | VhostUserError::PartialMessage
            | VhostUserError::SocketBroken(_),
        ) => Ok(false),
        Err(error) => Err(anyhow!("the VMM's vhost-user connection failed: {error}")),
    }
}

fn lock(backend: &Mutex<Backend>) -> MutexGuard<'_, Backend> {
    // A panic ends the one thread there is.
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}
