//! The device: the two rings, the table of connections and the sockets' events.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tracing::debug;

use super::connection::{Connection, MAX_PAYLOAD, Notice};
use super::handover::Standing;
use super::packet::{Header, Operation};
use super::stream::HostStream;
use super::{MAX_CONNECTIONS, MAX_GUEST_CONNECTIONS};
use crate::{Error, Result};

/// Most answers to stray packets that wait for a receive buffer.
pub(super) const MAX_REPLIES: usize = 256;

/// Buffer promised for each of the first [`WIDE_CONNECTIONS`] connections; Linux's
/// own default.
const WIDE_BUFFER: u32 = 256 * 1024;
const WIDE_CONNECTIONS: usize = 64;
/// Buffer promised for the others: with it, backlogs stay below 80 MiB in total.
const NARROW_BUFFER: u32 = MAX_PAYLOAD as u32;

/// Most packets in each direction in one call of [`Vsock::process`], so that a busy
/// guest cannot keep the thread from its other duties.
const BUDGET: usize = 512;

/// Ports given to connections that the host asks for; below are the ports on which
/// the host is asked.
const FIRST_EPHEMERAL_PORT: u32 = 1 << 30;
/// `VMADDR_PORT_ANY`, never a port.
const PORT_ANY: u32 = u32::MAX;

/// Token of the wake-up descriptor among the sockets' tokens, which are keys.
const WAKE_TOKEN: u64 = u64::MAX;

/// The host's side of the device: what happens to it.
pub trait Host {
    /// The connection asked for under this number is open.
    fn connected(&mut self, id: u64);

    /// The connection asked for under this number will not be: nothing listens on
    /// the guest's port, the guest was reset, or there are too many.
    fn refused(&mut self, id: u64);

    /// The guest connected to a port of the host; `stream` is the host's end. An
    /// error refuses the connection.
    fn incoming(&mut self, port: u32, stream: OwnedFd) -> io::Result<()>;
}

/// Which queues have something new for the driver, so that it must be interrupted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// The receive queue.
    pub rx: bool,
    /// The transmit queue.
    pub tx: bool,
}

/// Ports of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host: u32,
    pub(super) guest: u32,
}

impl Key {
    fn token(self) -> u64 {
        u64::from(self.host) << 32 | u64::from(self.guest)
    }

    fn from_token(token: u64) -> Self {
        Self {
            host: (token >> 32) as u32,
            guest: token as u32,
        }
    }
}

/// The device model. Its descriptor ([`AsFd`]) is readable when
/// [`Vsock::process`] should be called; a kick of a queue is the other reason.
#[derive(Debug)]
pub struct Vsock<H> {
    pub(super) guest_cid: u64,
    host_ports: Vec<u32>,
    pub(super) host: H,
    epoll: OwnedFd,
    wake: OwnedFd,
    pub(super) connections: HashMap<Key, Connection>,
    /// Connections that may have a packet for the guest, each at most once, served
    /// in turn.
    pub(super) ready: VecDeque<Key>,
    /// Connections that the guest has from another device's time, until the host asks for
    /// one to their port.
    pub(super) idle: Vec<Standing>,
    /// `RST`s for packets that belong to no connection.
    pub(super) replies: VecDeque<Header>,
    next_port: u32,
    pub(super) budget: usize,
    /// The packet at hand: a header and its payload.
    pub(super) packet: Box<[u8]>,
    pub(super) scratch: Box<[u8]>,
}

impl<H: Host> Vsock<H> {
    /// A device for the guest with address `guest_cid`, which may connect to
    /// `host_ports`.
    pub fn new(guest_cid: u64, host_ports: Vec<u32>, host: H) -> Result<Self> {
        let resource = |what| {
            move |source: rustix::io::Errno| Error::Resource {
                what,
                source: source.into(),
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(resource("epoll set"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(resource("wake-up descriptor"))?;
        epoll::add(
            &epoll,
            &wake,
            EventData::new_u64(WAKE_TOKEN),
            EventFlags::IN,
        )
        .map_err(resource("epoll set"))?;
        Ok(Self {
            guest_cid,
            host_ports: host_ports
                .into_iter()
                .filter(|&port| port != PORT_ANY)
                .collect(),
            host,
            epoll,
            wake,
            connections: HashMap::new(),
            ready: VecDeque::new(),
            idle: Vec::new(),
            replies: VecDeque::new(),
            next_port: FIRST_EPHEMERAL_PORT,
            budget: BUDGET,
            packet: vec![0; Header::LEN + MAX_PAYLOAD].into_boxed_slice(),
            scratch: vec![0; MAX_PAYLOAD].into_boxed_slice(),
        })
    }

    /// The configuration space: the guest's address (virtio 1.2, 5.10.4).
    pub fn config(&self) -> [u8; 8] {
        self.guest_cid.to_le_bytes()
    }

    /// The host's side.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The host's side.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Connections at this time.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Asks for a connection to a port of the guest, to become `stream`. The answer
    /// comes through [`Host`], when the guest's driver is up. [`Vsock::process`] has
    /// to follow.
    pub fn connect(&mut self, id: u64, port: u32, stream: OwnedFd) {
        if let Some(known) = self.take_idle(port) {
            return self.go_on(id, &known, stream);
        }
        let Some(key) = self.free_key(port) else {
            return self.host.refused(id);
        };
        let buffer = self.next_buffer();
        let connection = |stream| Connection::requested(id, stream, buffer);
        if let Err(error) = self.insert(key, stream, connection) {
            debug!(port, %error, "cannot watch the socket of a new connection");
            self.host.refused(id);
        }
    }

    /// Forgets everything the guest knew: the driver was reset. Requests that it has
    /// not seen wait for the next one.
    pub fn reset(&mut self) {
        self.idle.clear();
        self.replies.clear();
        let (host, scratch) = (&mut self.host, &mut self.scratch);
        self.connections.retain(|_, connection| {
            match connection.pending_request() {
                Some((_, false)) => return true,
                Some((id, true)) => host.refused(id),
                None => {}
            }
            connection.abandon(scratch);
            false
        });
        let connections = &self.connections;
        self.ready.retain(|key| connections.contains_key(key));
    }

    /// Takes note of the host sockets' events without touching the guest's memory.
    pub fn poll_host(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(64);
        let now = Timespec::default();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::Resource {
                    what: "list of socket events",
                    source: errno.into(),
                });
            }
        }
        for event in events {
            let token = event.data.u64();
            if token == WAKE_TOKEN {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                continue;
            }
            let key = Key::from_token(token);
            let notice = self
                .connections
                .get_mut(&key)
                .and_then(|connection| connection.host_event(event.flags, &mut self.scratch));
            self.tell(notice);
            self.touch(key);
        }
        Ok(())
    }

    /// Makes the descriptor readable, so that [`Vsock::process`] is called again.
    pub(super) fn wake(&self) {
        // A counter that is full is readable all the same.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Opens a connection that the guest asks for.
    pub(super) fn accept(&mut self, key: Key, request: &Header) {
        let taken = self
            .connections
            .values()
            .filter(|connection| connection.guest_initiated)
            .count();
        if !self.host_ports.contains(&key.host)
            || self.connections.len() >= MAX_CONNECTIONS
            || taken >= MAX_GUEST_CONNECTIONS
        {
            return self.reply_reset(request);
        }
        let buffer = self.next_buffer();
        let connection = |stream| Connection::accepted(request, stream, buffer);
        if let Err(error) = self.offer(key, connection) {
            debug!(port = key.host, %error, "refused a connection of the guest");
            self.reply_reset(request);
        }
    }

    /// Gives the host the far end of a connection that the guest has asked for.
    pub(super) fn offer(
        &mut self,
        key: Key,
        connection: impl FnOnce(HostStream) -> Connection,
    ) -> io::Result<()> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        self.host.incoming(key.host, theirs)?;
        self.insert(key, ours, connection)
    }

    pub(super) fn reply_reset(&mut self, packet: &Header) {
        // A RST that answers a RST would be answered in turn.
        if packet.op != Some(Operation::Reset) {
            self.replies.push_back(packet.reset_reply());
        }
    }

    /// Passes a connection's notice on to the host.
    pub(super) fn tell(&mut self, notice: Option<Notice>) {
        match notice {
            Some(Notice::Connected(id)) => self.host.connected(id),
            Some(Notice::Refused(id)) => self.host.refused(id),
            None => {}
        }
    }

    /// After a change of a connection: queues it if it has something for the guest,
    /// drops it if it is over.
    pub(super) fn touch(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if connection.is_over() {
            let queued = connection.queued;
            self.connections.remove(&key);
            if queued {
                self.ready.retain(|other| *other != key);
            }
        } else if connection.wants_to_send() && !connection.queued {
            connection.queued = true;
            self.ready.push_back(key);
        }
    }

    pub(super) fn insert(
        &mut self,
        key: Key,
        socket: OwnedFd,
        connection: impl FnOnce(HostStream) -> Connection,
    ) -> io::Result<()> {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(
            &self.epoll,
            &socket,
            EventData::new_u64(key.token()),
            interest,
        )?;
        self.connections
            .insert(key, connection(HostStream::new(socket)));
        self.touch(key);
        Ok(())
    }

    /// Begins anywhere with the host ports of connections to the guest. A guest that had
    /// another device before may still hold sockets of it, and would take a connection
    /// with the same ports for an old one.
    pub fn scatter_ports(&mut self, random: u32) {
        let ports = PORT_ANY - FIRST_EPHEMERAL_PORT;
        self.next_port = FIRST_EPHEMERAL_PORT + random % ports;
    }

    /// A host port for a connection to a port of the guest.
    fn free_key(&mut self, guest: u32) -> Option<Key> {
        if self.connections.len() >= MAX_CONNECTIONS || guest == PORT_ANY {
            return None;
        }
        // There are more ports than connections, so one of the next is free.
        loop {
            let host = self.next_port;
            self.next_port = match host + 1 {
                PORT_ANY => FIRST_EPHEMERAL_PORT,
                next => next,
            };
            let key = Key { host, guest };
            let is_idle = self.idle.iter().any(|known| known.key() == key);
            if !self.connections.contains_key(&key) && !is_idle && !self.host_ports.contains(&host)
            {
                return Some(key);
            }
        }
    }

    fn next_buffer(&self) -> u32 {
        if self.connections.len() < WIDE_CONNECTIONS {
            WIDE_BUFFER
        } else {
            NARROW_BUFFER
        }
    }
}

#[cfg(test)]
impl<H: Host> Vsock<H> {
    /// Connections that wait for their turn.
    pub fn queued(&self) -> usize {
        self.ready.len()
    }

    /// Asserts every bound that the module promises.
    pub fn check_bounds(&self) {
        assert!(self.connections.len() <= MAX_CONNECTIONS);
        assert!(self.replies.len() <= MAX_REPLIES);
        let unique: std::collections::HashSet<_> = self.ready.iter().collect();
        assert_eq!(unique.len(), self.ready.len());
        for key in &self.ready {
            assert!(self.connections[key].queued);
        }
        for connection in self.connections.values() {
            assert!(!connection.is_over());
            assert!(connection.backlog_len() <= connection.buf_alloc() as usize);
        }
    }
}

impl<H> AsFd for Vsock<H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
