//! The conversation between a command and a container's supervisor.
//!
//! One datagram of a `SOCK_SEQPACKET` Unix socket is one message in JSON, with
//! the descriptors it speaks of attached. The same connection serves whoever
//! started the supervisor (an inherited socket pair) and every later command
//! (`control.sock` in the container's run directory).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use caisson_sandbox::timing::Stage;
use oci_spec::runtime::Process as ProcessSpec;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::log::Source;

/// Longest message. Arguments and environment of a process must fit.
const MESSAGE_LIMIT: usize = 2 << 20;

/// Most descriptors in a message: the three standard streams.
const DESCRIPTOR_LIMIT: usize = 3;

/// Between two attempts to take a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a command asks of a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first message of the command that made the supervisor: start the
    /// container. Answered by [`Response::Started`], and at the end of the
    /// container by [`Response::Exited`].
    Start {
        /// Attach these streams first, so that no output is missed.
        attach: Option<Streams>,
        /// Microseconds since the command began.
        elapsed_us: u64,
    },
    /// Instead of `Start`: hold the files of a container that does not run, for
    /// copies, as long as this connection lasts. Answered by [`Response::Done`].
    Open,
    /// Copy the container's output to these streams from now on.
    Attach(Streams),
    /// Answered by [`Response::Exited`] at the end of the container.
    Wait,
    /// Run one more process. Answered by [`Response::Started`] and, unless
    /// detached, by [`Response::Exited`] at its end.
    Exec {
        /// The process.
        process: Box<ProcessSpec>,
        /// Leave the system call filter away.
        privileged: bool,
        /// Which streams; none if detached.
        streams: Option<Streams>,
    },
    /// Send a signal to the process of this connection (`Exec`), else to the
    /// container's first.
    Signal(i32),
    /// Nobody reads this output of the process of this connection any more: the
    /// process shall learn of it, unless others are attached to it.
    CloseOutput(Source),
    /// New size of the terminal of the process of this connection.
    Resize {
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        columns: u16,
    },
    /// Send the stop signal, wait, then kill. Answered when the container has ended.
    Stop {
        /// Instead of the container's own stop signal.
        signal: Option<i32>,
        /// Seconds, instead of the container's own.
        timeout: Option<u64>,
    },
    /// Freeze every process.
    Pause,
    /// Undo `Pause`.
    Unpause,
    /// Make a snapshot of this name.
    Snapshot(String),
    /// What the container uses.
    Stats,
    /// Send a tar archive of a path to the one descriptor.
    CopyOut {
        /// Path in the container.
        path: String,
        /// Follow a link at its end.
        follow_link: bool,
    },
    /// Unpack the tar archive that the one descriptor gives.
    CopyIn {
        /// Folder in the container.
        path: String,
        /// Keep owners.
        archive: bool,
    },
}

/// Descriptors sent with a request, in this order, those that are `true`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Streams {
    /// The read end of what becomes standard input.
    pub stdin: bool,
    /// The write end of standard output.
    pub stdout: bool,
    /// The write end of standard error.
    pub stderr: bool,
    /// Rows and columns, if the process shall have a terminal.
    pub terminal: Option<(u16, u16)>,
}

/// What a supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    /// The process runs.
    Started,
    /// The process has ended.
    Exited {
        /// Its exit code as a shell would see it.
        code: u8,
        /// Why, if it was not its own doing.
        error: Option<String>,
        /// Where the time went; empty for an exec.
        stages: Vec<Stage>,
        /// How the virtual machine was chosen.
        hypervisor: String,
    },
    /// The request has been carried out.
    Done,
    /// The request has failed.
    Failed {
        /// For the user.
        message: String,
        /// What the command should exit with.
        code: u8,
    },
    /// Answer to [`Request::Stats`].
    Stats(Stats),
}

/// What a container uses, by the account of its guest's kernel.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Processor time in microseconds.
    pub cpu_usage_us: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Limit of the memory, or what the guest has.
    pub memory_limit_bytes: u64,
    /// Number of processes.
    pub pids: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub write_bytes: u64,
    /// Bytes received by all interfaces but the loopback.
    pub received_bytes: u64,
    /// Bytes sent by them.
    pub sent_bytes: u64,
    /// What went through each of them.
    pub interfaces: Vec<InterfaceStats>,
    /// Resident memory of the agent in the guest.
    pub agent_rss_bytes: u64,
    /// Proportional share of the host's memory held by the sandbox's processes.
    pub host_pss_bytes: u64,
}

/// What went through an interface.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStats {
    /// Its name in the guest.
    pub name: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets that were damaged on arrival or that there was no room for.
    pub received_lost: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that could not be sent.
    pub sent_lost: u64,
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    /// Takes over a connected `SOCK_SEQPACKET` socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Messages up to the limit must fit; the kernel caps what it does not like.
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, MESSAGE_LIMIT)?;
        Ok(Self {
            socket: watch(socket)?,
        })
    }

    /// Connects to a supervisor's socket.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Sends a message and copies of `descriptors`.
    pub async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_LIMIT {
            return Err(io::Error::other(
                "arguments and environment are too long for one message",
            ));
        }
        self.socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty()
                    && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
                {
                    return Err(io::Error::other("too many descriptors in a message"));
                }
                rustix::net::sendmsg(
                    socket,
                    &[IoSlice::new(&bytes)],
                    &mut ancillary,
                    SendFlags::NOSIGNAL,
                )?;
                Ok(())
            })
            .await
    }

    /// The next message and its descriptors; none when the other side has gone.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut buffer = vec![0; MESSAGE_LIMIT];
        let (length, descriptors) = self
            .socket
            .async_io(tokio::io::Interest::READABLE, |socket| {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let received = rustix::net::recvmsg(
                    socket,
                    &mut [IoSliceMut::new(&mut buffer)],
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                let descriptors = ancillary
                    .drain()
                    .filter_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                        _ => None,
                    })
                    .flatten()
                    .collect::<Vec<_>>();
                Ok((received.bytes, descriptors))
            })
            .await
            .or_else(|error| {
                if error.kind() == io::ErrorKind::ConnectionReset {
                    Ok((0, Vec::new()))
                } else {
                    Err(error)
                }
            })?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((
            serde_json::from_slice(&buffer[..length])?,
            descriptors,
        )))
    }
}

/// The socket on which a supervisor waits for commands.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Binds a path that must not exist.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 64)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: watch(socket)?,
        })
    }

    /// The next command that connects. A connection that fails is no reason to be
    /// deaf to the next one.
    pub async fn accept(&self) -> Connection {
        loop {
            let accepted = self
                .socket
                .async_io(tokio::io::Interest::READABLE, |socket| {
                    Ok(rustix::net::accept_with(
                        socket.as_fd(),
                        SocketFlags::CLOEXEC,
                    )?)
                })
                .await
                .and_then(Connection::new);
            match accepted {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::warn!(%error, "a command could not connect");
                    // Out of descriptors, for instance, which would be so again at once.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Gives a socket to the runtime.
fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that is handed over, always
    // the same one, and closed only when that value is dropped with the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A connected pair, for a supervisor that is about to be started.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn descriptors_arrive_with_their_message() {
        let (left, right) = pair().expect("a socket pair");
        let (left, right) = (
            Connection::new(left).expect("left"),
            Connection::new(right).expect("right"),
        );
        let (read_end, write_end) = std::io::pipe().expect("a pipe");
        let request = Request::Attach(Streams {
            stdout: true,
            ..Default::default()
        });
        left.send(&request, &[write_end.as_fd()])
            .await
            .expect("sent");
        drop(write_end);
        let (request, descriptors) = right
            .receive::<Request>()
            .await
            .expect("received")
            .expect("a message");
        assert!(matches!(
            request,
            Request::Attach(Streams { stdout: true, .. })
        ));
        assert_eq!(descriptors.len(), 1);
        rustix::io::write(&descriptors[0], b"through").expect("written");
        drop(descriptors);
        let mut text = String::new();
        { read_end }.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        drop(left);
        assert!(right.receive::<Request>().await.expect("end").is_none());
    }

    #[tokio::test]
    async fn a_message_may_be_as_long_as_an_argument_list() {
        let (left, right) = pair().expect("a socket pair");
        let (left, right) = (
            Connection::new(left).expect("left"),
            Connection::new(right).expect("right"),
        );
        let long = "x".repeat(150_000);
        left.send(
            &Response::Failed {
                message: long.clone(),
                code: 1,
            },
            &[],
        )
        .await
        .expect("sent");
        let (response, _) = right
            .receive::<Response>()
            .await
            .expect("received")
            .expect("a message");
        assert!(matches!(response, Response::Failed { message, .. } if message == long));
    }
}
