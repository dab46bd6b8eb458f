//! Connections that outlive their device: a machine is frozen while its guest has some,
//! and each of its forks goes on with them although its device is another one.
//!
//! A guest that has been connected to spends nothing on it when it is woken: code that runs
//! for the first time is what a fork without KVM is slow at.

use std::os::fd::OwnedFd;

use tracing::debug;

use super::MAX_CONNECTIONS;
use super::connection::Connection;
use super::device::{Host, Key, Vsock};
use crate::{Error, Result};

/// What a guest knows of a connection over which nothing is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The host's port.
    pub host_port: u32,
    /// The guest's port.
    pub guest_port: u32,
    /// The guest asked for it, not the host.
    pub guest_initiated: bool,
    /// Bytes that the guest was promised room for.
    pub buf_alloc: u32,
    /// Bytes of the guest's that were handed on, wrapping.
    pub fwd_cnt: u32,
    /// How many of them it was told of.
    pub told_fwd_cnt: u32,
    /// Bytes sent to the guest, wrapping.
    pub tx_cnt: u32,
    /// Size of the guest's own buffer.
    pub peer_buf_alloc: u32,
    /// Bytes that the guest has handed on, wrapping.
    pub peer_fwd_cnt: u32,
}

impl Standing {
    /// Bytes of an encoded one.
    pub const LEN: usize = 36;

    /// Nine integers of four bytes, little endian, in the order of the fields.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let fields = [
            self.host_port,
            self.guest_port,
            self.guest_initiated.into(),
            self.buf_alloc,
            self.fwd_cnt,
            self.told_fwd_cnt,
            self.tx_cnt,
            self.peer_buf_alloc,
            self.peer_fwd_cnt,
        ];
        let mut bytes = [0; Self::LEN];
        for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Standing::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let field = |index: usize| {
            let at = 4 * index;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            host_port: field(0),
            guest_port: field(1),
            guest_initiated: field(2) != 0,
            buf_alloc: field(3),
            fwd_cnt: field(4),
            told_fwd_cnt: field(5),
            tx_cnt: field(6),
            peer_buf_alloc: field(7),
            peer_fwd_cnt: field(8),
        }
    }

    pub(super) fn key(&self) -> Key {
        Key {
            host: self.host_port,
            guest: self.guest_port,
        }
    }
}

impl<H: Host> Vsock<H> {
    /// The connections, for a device that goes on with them.
    ///
    /// # Errors
    /// [`Error::Busy`] if something is under way over one of them.
    pub fn standing(&self) -> Result<Vec<Standing>> {
        let connections = self.connections.iter().map(|(key, connection)| {
            connection
                .standing(key.host, key.guest)
                .ok_or(Error::Busy { port: key.guest })
        });
        let idle = self.idle.iter().copied().map(Ok);
        connections.chain(idle).collect()
    }

    /// Goes on with connections of another device. Those that the guest asked for come to
    /// the host as new ones do; each of the others becomes that of the first request for
    /// its port.
    pub fn take_over(&mut self, connections: Vec<Standing>) {
        for known in connections.into_iter().take(MAX_CONNECTIONS) {
            if !known.guest_initiated {
                self.idle.push(known);
                continue;
            }
            let connection = |stream| Connection::taken_over(&known, stream);
            if let Err(error) = self.offer(known.key(), connection) {
                // A packet of the guest's for it will be answered with a reset.
                debug!(port = known.host_port, %error, "a connection is not taken over");
            }
        }
    }

    pub(super) fn take_idle(&mut self, guest_port: u32) -> Option<Standing> {
        let found = self
            .idle
            .iter()
            .position(|known| known.guest_port == guest_port)?;
        Some(self.idle.remove(found))
    }

    /// Answers a request with a connection that the guest has.
    pub(super) fn go_on(&mut self, id: u64, known: &Standing, stream: OwnedFd) {
        let connection = |stream| Connection::taken_over(known, stream);
        match self.insert(known.key(), stream, connection) {
            Ok(()) => self.host.connected(id),
            Err(error) => {
                debug!(port = known.guest_port, %error, "cannot watch the socket of a connection");
                self.host.refused(id);
            }
        }
    }
}
