//! The driver's side of the device: a sequenced-packet socket.
//!
//! Every message is one datagram of 13 bytes, little endian: operation (u8), number
//! of the request (u64), port (u32). A descriptor goes with some (`SCM_RIGHTS`).
//!
//! | operation | from | number | port | descriptor |
//! |---|---|---|---|---|
//! | 1 connect | driver | the driver's choice | the guest's | the stream's far end |
//! | 2 refused | device | that of the connect | 0 | |
//! | 3 incoming | device | 0 | the host's | the stream |
//! | 4 connected | device | that of the connect | 0 | |
//! | 5 memory | driver | 0 | 0 | the VMM's `/proc/PID/mem`, opened `O_RDWR` |
//! | 6 note | driver | the driver's choice | 0 | |
//!
//! The memory comes once if `--foreign-memory` was given, at any time after the VMM
//! was executed: the rings wait for it. A request to note what the guest's connections
//! are, in the file of `--state-fd`, is answered as one to connect.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use caisson_virtio::vsock::Host;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

const MESSAGE_LEN: usize = 13;

const CONNECT: u8 = 1;
const REFUSED: u8 = 2;
const INCOMING: u8 = 3;
const CONNECTED: u8 = 4;
const MEMORY: u8 = 5;
const NOTE: u8 = 6;

/// A connection that the driver asks for.
#[derive(Debug)]
pub struct Connect {
    pub id: u64,
    pub port: u32,
    pub stream: OwnedFd,
}

/// What the control socket gave.
#[derive(Debug)]
pub enum Request {
    Connect(Connect),
    /// The memory of the VMM's process.
    Memory(OwnedFd),
    /// To note the connections; the request's number.
    Note(u64),
    /// Nothing now, or nothing before our answers are sent.
    Blocked,
    /// The driver closed it.
    Closed,
}

/// The control socket.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    /// Answers that the socket had no room for. No further request is read before
    /// they are sent, so there are never more than requests without an answer.
    unsent: VecDeque<[u8; MESSAGE_LEN]>,
}

impl Control {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            unsent: VecDeque::new(),
        }
    }

    /// The driver's next request.
    pub fn next_request(&mut self) -> io::Result<Request> {
        self.flush()?;
        if !self.unsent.is_empty() {
            return Ok(Request::Blocked);
        }
        let mut bytes = [0; MESSAGE_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            let mut buffers = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.socket, &mut buffers, &mut ancillary, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Request::Blocked),
                Err(Errno::CONNRESET) => return Ok(Request::Closed),
                Err(errno) => return Err(errno.into()),
            }
        };
        if received.bytes == 0 {
            return Ok(Request::Closed);
        }
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match (received.bytes, decode(&bytes), descriptor) {
            (MESSAGE_LEN, (CONNECT, id, port), Some(stream)) => {
                Ok(Request::Connect(Connect { id, port, stream }))
            }
            (MESSAGE_LEN, (MEMORY, 0, 0), Some(memory)) => Ok(Request::Memory(memory)),
            (MESSAGE_LEN, (NOTE, id, 0), None) => Ok(Request::Note(id)),
            (length, (op, ..), descriptor) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "message of {length} bytes with operation {op} and {} makes no sense",
                    if descriptor.is_some() {
                        "a descriptor"
                    } else {
                        "no descriptor"
                    }
                ),
            )),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(message) = self.unsent.front() {
            if !send(&self.socket, message, None)? {
                break;
            }
            self.unsent.pop_front();
        }
        Ok(())
    }

    fn answer(&mut self, op: u8, id: u64) {
        self.unsent.push_back(encode(op, id, 0));
        // A socket that is closed or broken shows it to `next_request` as well.
        let _ = self.flush();
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Host for Control {
    fn connected(&mut self, id: u64) {
        self.answer(CONNECTED, id);
    }

    fn refused(&mut self, id: u64) {
        self.answer(REFUSED, id);
    }

    fn incoming(&mut self, port: u32, stream: OwnedFd) -> io::Result<()> {
        // A driver that does not keep up is a listener whose backlog is full.
        if self.unsent.is_empty() && send(&self.socket, &encode(INCOMING, 0, port), Some(&stream))?
        {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

/// Sends a message unless the socket is full.
fn send(socket: &OwnedFd, message: &[u8], stream: Option<&OwnedFd>) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let streams = [stream.map(AsFd::as_fd)];
    let streams: Vec<_> = streams.into_iter().flatten().collect();
    if !streams.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&streams)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, flags) {
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn encode(op: u8, id: u64, port: u32) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = op;
    message[1..9].copy_from_slice(&id.to_le_bytes());
    message[9..].copy_from_slice(&port.to_le_bytes());
    message
}

fn decode(message: &[u8; MESSAGE_LEN]) -> (u8, u64, u32) {
    let [op, i0, i1, i2, i3, i4, i5, i6, i7, p0, p1, p2, p3] = *message;
    (
        op,
        u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
        u32::from_le_bytes([p0, p1, p2, p3]),
    )
}
