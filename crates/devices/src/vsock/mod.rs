//! `caisson-devices vsock`: the socket device.

mod backend;
mod calls;
mod control;

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use caisson_virtio::vsock::{MAX_CONNECTIONS, Vsock};
use clap::Args;
use rustix::thread::CapabilitySet;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::{descriptor, jail, seccomp, serve};
use backend::{Backend, CONTROL_EVENT, RESUME_EVENT, SOCKET_EVENT};
use control::Control;

/// Descriptors besides those of the connections: memory regions, rings, own sockets.
const OTHER_DESCRIPTORS: u64 = 1024;

/// The socket device.
#[derive(Debug, Args)]
pub struct Options {
    /// Address of the guest, 3 or more.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..u64::from(u32::MAX)))]
    cid: u64,
    /// Descriptor of the listening socket for vhost-user.
    #[arg(long)]
    listener_fd: RawFd,
    /// Descriptor of a sequenced-packet socket for the driver's messages.
    #[arg(long)]
    control_fd: RawFd,
    /// Host port that the guest may connect to.
    #[arg(long = "host-port", value_name = "PORT")]
    host_ports: Vec<u32>,
}

/// Serves one connection of a VMM until it or the driver ends.
pub fn run(options: Options) -> Result<()> {
    let listener = descriptor::take(options.listener_fd, "--listener-fd")?;
    let control = descriptor::take(options.control_fd, "--control-fd")?;
    jail::raise_descriptor_limit(MAX_CONNECTIONS as u64 + OTHER_DESCRIPTORS)?;
    // An ordinary user's process keeps the user's view of the files: the filter of
    // system calls lets it open none.
    if rustix::process::geteuid().is_root() {
        jail::unshare_mounts()?;
        let root = jail::empty_root()?;
        jail::attach_root(&root)?;
        jail::pivot_into(&root)?;
    }
    jail::keep_capabilities(CapabilitySet::empty())?;
    jail::die_with_parent()?;
    seccomp::install(calls::ALLOWED)?;

    let control_number = control.as_raw_fd();
    let device = Vsock::new(options.cid, options.host_ports, Control::new(control))?;
    let sockets_number = device.as_fd().as_raw_fd();
    let backend = Backend::new(device)?;
    let timer_number = backend.timer().as_raw_fd();
    let backend = Arc::new(Mutex::new(backend));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let daemon = VhostUserDaemon::new("vhost-user".to_owned(), backend, memory)
        .map_err(|error| anyhow!("cannot set up the vhost-user backend: {error}"))?;
    for handler in daemon.get_epoll_handlers() {
        handler
            .register_listener(sockets_number, EventSet::IN, u64::from(SOCKET_EVENT))
            .context("cannot watch the connections")?;
        // Edge-triggered: the events tell both of new messages and of room for ours.
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        handler
            .register_listener(control_number, events, u64::from(CONTROL_EVENT))
            .context("cannot watch the control socket")?;
        handler
            .register_listener(timer_number, EventSet::IN, u64::from(RESUME_EVENT))
            .context("cannot watch the timer")?;
    }
    serve::serve(daemon, listener)
}
