//! `caisson-devices vsock`: the socket device.

mod backend;
mod calls;
mod control;
mod memory;
mod requests;
mod ring;
mod server;
mod state;

use std::os::fd::RawFd;

use anyhow::{Context, Result};
use caisson_virtio::vsock::{MAX_CONNECTIONS, Vsock};
use clap::Args;
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::{descriptor, jail, seccomp};
use control::Control;
use memory::Memory;
use state::State;

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
    /// Reach the guest's memory through the VMM's `/proc/PID/mem`, which the driver
    /// sends, instead of mapping it: that of a fork cannot be mapped.
    #[arg(long)]
    foreign_memory: bool,
    /// Descriptor of a file for what the guest's connections are. If it is not empty,
    /// another device has served the guest, and this one goes on with its connections.
    #[arg(long)]
    state_fd: Option<RawFd>,
}

/// Serves one connection of a VMM until it or the driver ends.
pub fn run(options: Options) -> Result<()> {
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("cannot draw a random number")?;
    let listener = descriptor::take(options.listener_fd, "--listener-fd")?;
    let control = descriptor::take(options.control_fd, "--control-fd")?;
    let state = options
        .state_fd
        .map(|number| descriptor::take(number, "--state-fd"))
        .transpose()?;
    let state = State::read(state)?;
    jail::raise_descriptor_limit(MAX_CONNECTIONS as u64 + OTHER_DESCRIPTORS)?;
    // An ordinary user's process keeps the user's view of the files: the filter of
    // system calls lets it open none.
    if rustix::process::geteuid().is_root() {
        jail::enter_namespaces(UnshareFlags::empty())?;
        let root = jail::empty_root()?;
        jail::attach_root(&root)?;
        jail::pivot_into(&root)?;
    }
    jail::keep_capabilities(CapabilitySet::empty())?;
    jail::die_with_parent()?;
    let mut allowed = calls::ALLOWED.to_vec();
    if options.foreign_memory {
        allowed.extend(calls::FOREIGN_MEMORY);
    }
    seccomp::install(&allowed)?;

    let mut device = Vsock::new(options.cid, options.host_ports, Control::new(control))?;
    device.scatter_ports(u32::from_ne_bytes(random));
    device.take_over(state.known());
    let memory = Memory::new(options.foreign_memory);
    server::serve(device, memory, state, listener)
}
