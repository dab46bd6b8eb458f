//! The driver's end of the vsock device's control socket.
//!
//! A datagram has 13 bytes, little endian: operation (u8), number of the request
//! (u64), vsock port (u32). A stream is passed with it as a descriptor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::{Error, Result};

const MESSAGE_LEN: usize = 13;

const CONNECT: u8 = 1;
const REFUSED: u8 = 2;
const INCOMING: u8 = 3;
const CONNECTED: u8 = 4;
const MEMORY: u8 = 5;
const NOTE: u8 = 6;

/// Streams of the guest that nobody has accepted yet. More are closed at once.
const BACKLOG: usize = 64;

/// Requests without an answer, by number.
type Pending = Mutex<HashMap<u64, oneshot::Sender<bool>>>;

/// Both ends of a control socket.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Opens and accepts vsock streams.
#[derive(Debug)]
pub(crate) struct Control {
    socket: Arc<AsyncFd<OwnedFd>>,
    pending: Arc<Pending>,
    next: AtomicU64,
    incoming: AsyncMutex<mpsc::Receiver<(u32, UnixStream)>>,
    reader: JoinHandle<()>,
}

impl Control {
    /// Takes our end of the socket.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: the descriptor belongs to the `OwnedFd`, whose number never
        // changes, and is closed only when that is dropped with the `AsyncFd`.
        let socket = Arc::new(unsafe { AsyncFd::register(socket) }?);
        let pending = Arc::<Pending>::default();
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let reader = tokio::spawn(read(Arc::clone(&socket), Arc::clone(&pending), sender));
        Ok(Self {
            socket,
            pending,
            next: AtomicU64::new(1),
            incoming: AsyncMutex::new(receiver),
            reader,
        })
    }

    /// Opens a stream to a port of the guest.
    pub(crate) async fn connect(&self, port: u32) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair().map_err(|source| Error::Host {
            doing: "cannot make a socket pair".to_owned(),
            source,
        })?;
        match self.ask(CONNECT, port, Some(theirs.as_fd())).await? {
            true => Ok(ours),
            false => Err(Error::ConnectionRefused(port)),
        }
    }

    /// Has the device note what the guest's connections are, in its state's file. Returns
    /// whether it has: not while something is under way over one of them.
    pub(crate) async fn note(&self) -> Result<bool> {
        self.ask(NOTE, 0, None).await
    }

    /// Sends a request, and waits for its answer.
    async fn ask(
        &self,
        operation: u8,
        port: u32,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<bool> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, sender);
        let _forget = Forget {
            pending: &self.pending,
            number,
        };
        self.send(&encode(operation, number, port), descriptor)
            .await?;
        answer.await.map_err(|_| Error::Ended)
    }

    /// Gives the device a file of the VMM's memory, `/proc/PID/mem`: its offsets are the
    /// addresses of that process. A device that was started for it needs it before all
    /// else.
    pub(crate) async fn give_memory(&self, memory: &File) -> Result<()> {
        self.send(&encode(MEMORY, 0, 0), Some(memory.as_fd())).await
    }

    async fn send(&self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
        loop {
            let mut guard = self.socket.writable().await.map_err(|_| Error::Ended)?;
            match guard.try_io(|socket| send(socket.as_fd(), message, descriptor)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => return Err(Error::Ended),
                Err(_would_block) => {}
            }
        }
    }

    /// The guest's next stream and the host port it named.
    pub(crate) async fn accept(&self) -> Result<(u32, UnixStream)> {
        self.incoming.lock().await.recv().await.ok_or(Error::Ended)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Takes a request from the table when its caller no longer waits.
struct Forget<'a> {
    pending: &'a Pending,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
    }
}

/// Hands out answers and streams until the device closes its end.
async fn read(
    socket: Arc<AsyncFd<OwnedFd>>,
    pending: Arc<Pending>,
    incoming: mpsc::Sender<(u32, UnixStream)>,
) {
    let answer = |number: u64, connected: bool| {
        let waiting = pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
        if let Some(waiting) = waiting {
            // The caller may have given up.
            let _ = waiting.send(connected);
        }
    };
    loop {
        let received = match socket.readable().await {
            Ok(mut guard) => guard.try_io(|socket| receive(socket.as_fd())),
            Err(_) => break,
        };
        match received {
            Err(_would_block) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "the vsock device is gone");
                break;
            }
            Ok(Ok((REFUSED, number, _, _))) => answer(number, false),
            Ok(Ok((CONNECTED, number, _, _))) => answer(number, true),
            Ok(Ok((INCOMING, _, port, Some(stream)))) => {
                if incoming.try_send((port, stream.into())).is_err() {
                    tracing::warn!(port, "the guest opens more streams than are accepted");
                }
            }
            Ok(Ok((operation, ..))) => {
                tracing::warn!(
                    operation,
                    "the vsock device sent a message that makes no sense"
                );
                break;
            }
        }
    }
    // Whoever waits for an answer learns that none will come.
    pending
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
}

fn encode(operation: u8, number: u64, port: u32) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = operation;
    message[1..9].copy_from_slice(&number.to_le_bytes());
    message[9..].copy_from_slice(&port.to_le_bytes());
    message
}

fn decode(message: &[u8; MESSAGE_LEN]) -> (u8, u64, u32) {
    let [operation, number @ .., p0, p1, p2, p3] = *message;
    (
        operation,
        u64::from_le_bytes(number),
        u32::from_le_bytes([p0, p1, p2, p3]),
    )
}

fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    assert!(
        descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "the buffer has room for one descriptor"
    );
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(message)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(u8, u64, u32, Option<OwnedFd>)> {
    let mut message = [0; MESSAGE_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut message)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let stream = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut streams) => streams.next(),
        _ => None,
    });
    match received.bytes {
        MESSAGE_LEN => {
            let (operation, number, port) = decode(&message);
            Ok((operation, number, port, stream))
        }
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// The device's end, as a blocking socket.
    fn open() -> (Control, OwnedFd) {
        let (ours, theirs) = pair().expect("pair");
        (Control::new(ours).expect("control"), theirs)
    }

    #[tokio::test]
    async fn a_stream_that_the_guest_takes() {
        let (control, device) = open();
        let serve = async {
            let device = tokio::task::spawn_blocking(move || {
                let (operation, number, port, stream) = receive(device.as_fd()).expect("request");
                assert_eq!((operation, port), (CONNECT, 1024));
                let mut stream = UnixStream::from(stream.expect("a stream"));
                stream.write_all(b"hello").expect("written");
                rustix::net::send(&device, &encode(CONNECTED, number, 0), SendFlags::empty())
                    .expect("sent");
                device
            });
            device.await.expect("device")
        };
        let (stream, _device) = tokio::join!(control.connect(1024), serve);
        let mut text = String::new();
        stream
            .expect("connected")
            .read_to_string(&mut text)
            .expect("read");
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn refused_and_ended_are_told_apart() {
        let (control, device) = open();
        let serve = tokio::task::spawn_blocking(move || {
            let (_, number, ..) = receive(device.as_fd()).expect("request");
            rustix::net::send(&device, &encode(REFUSED, number, 0), SendFlags::empty())
                .expect("sent");
            receive(device.as_fd()).expect("request");
            // It ends without an answer.
        });
        assert!(matches!(
            control.connect(7).await,
            Err(Error::ConnectionRefused(7))
        ));
        assert!(matches!(control.connect(8).await, Err(Error::Ended)));
        serve.await.expect("device");
        assert!(matches!(control.connect(9).await, Err(Error::Ended)));
        assert!(matches!(control.accept().await, Err(Error::Ended)));
    }

    #[tokio::test]
    async fn streams_of_the_guest_arrive_with_their_port() {
        let (control, device) = open();
        let (mut near, far) = UnixStream::pair().expect("pair");
        send(
            device.as_fd(),
            &encode(INCOMING, 0, 1025),
            Some(far.as_fd()),
        )
        .expect("sent");
        drop(far);
        let (port, mut stream) = control.accept().await.expect("accepted");
        assert_eq!(port, 1025);
        near.write_all(b"log").expect("written");
        drop(near);
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        assert_eq!(text, "log");
    }
}
