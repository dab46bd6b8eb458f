//! Requests and their answers.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
};

use crate::message::{Message, Reply};

/// Longest datagram of the kernel: a dump's part has at most 32 KiB.
const BUFFER: usize = 64 << 10;

/// A socket to the network stack of the namespace in which it was opened, which it
/// stays with wherever it is used later.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        // The first protocol of the family, NETLINK_ROUTE.
        Self::with_protocol(None)
    }

    /// As [`open`](Self::open), for other requests than those of rtnetlink.
    pub(crate) fn with_protocol(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self { fd, sequence: 0 })
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        sendto(&self.fd, &bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Receives datagrams until `take` says that the answer is complete.
    fn receive(&mut self, mut take: impl FnMut(Reply) -> io::Result<bool>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, _) = recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            for reply in Reply::all(&buffer[..length]) {
                // What is left of an answer that was given up.
                if reply.sequence != self.sequence {
                    continue;
                }
                if take(reply)? {
                    return Ok(());
                }
            }
        }
    }

    /// Asks for a change and waits for the kernel's consent.
    pub(crate) fn request(&mut self, message: Message) -> io::Result<()> {
        self.send(message)?;
        self.receive(|reply| {
            if i32::from(reply.kind) != libc::NLMSG_ERROR {
                return Ok(false);
            }
            acknowledged(&reply).map(|()| true)
        })
    }

    /// Asks that something be removed. That it is not there is no error: with an
    /// address, the kernel removes what depends on it.
    pub(crate) fn remove(&mut self, message: Message) -> io::Result<()> {
        match self.request(message) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Asks for everything of a kind.
    pub(crate) fn dump(&mut self, message: Message) -> io::Result<Vec<Reply>> {
        self.send(message)?;
        let mut replies = Vec::new();
        self.receive(|reply| {
            match i32::from(reply.kind) {
                libc::NLMSG_DONE => return Ok(true),
                libc::NLMSG_ERROR => acknowledged(&reply)?,
                _ => replies.push(reply),
            }
            Ok(false)
        })?;
        Ok(replies)
    }
}

/// `struct nlmsgerr` begins with 0 or a negative error number.
fn acknowledged(reply: &Reply) -> io::Result<()> {
    match reply.number(0).map_or(-libc::EBADMSG, u32::cast_signed) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
