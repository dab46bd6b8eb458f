//! The host's end of a connection: a non-blocking stream socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// What a read from the host gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// The host will send no more.
    End,
    /// Nothing now; an event will tell.
    Blocked,
}

/// What became of bytes offered to the host.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// The first so many bytes were taken; fewer than offered means that an event
    /// will tell when there is room.
    Bytes(usize),
    /// The host will take no more.
    Broken,
}

/// A socket with what is known of its readiness.
///
/// It is watched edge-triggered: an event sets [`HostStream::readable`] or the
/// private twin for writing, and only a call that would have blocked clears it. So a
/// connection that cannot move on for another reason (no credit, no buffer in the
/// guest) costs no wake-ups and no `epoll_ctl`.
#[derive(Debug)]
pub struct HostStream {
    socket: OwnedFd,
    /// A read may give something.
    pub readable: bool,
    writable: bool,
}

impl HostStream {
    /// The first events, which come at once, tell whether there is something to read.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: false,
            writable: true,
        }
    }

    pub fn set_writable(&mut self) {
        self.writable = true;
    }

    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            return match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => Received::End,
                Ok((count, _)) => Received::Bytes(count),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    Received::Blocked
                }
                // Chiefly ECONNRESET: the host closed without reading everything, and
                // all it had sent has been read by now.
                Err(_) => Received::End,
            };
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> Sent {
        let mut sent = 0;
        while self.writable && sent < bytes.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &bytes[sent..], flags) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(_) => return Sent::Broken,
            }
        }
        Sent::Bytes(sent)
    }

    /// Tells the host that nothing more will come. Errors mean that it has already
    /// gone, which its events tell as well.
    pub fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Makes the host's writes fail.
    pub fn shutdown_read(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
    }

    /// Closes so that the host reads all it was sent and then end-of-file. Closing
    /// with unread bytes would turn that end-of-file into ECONNRESET.
    pub fn close(mut self, scratch: &mut [u8]) {
        // No more can arrive after this, so the loop ends with what is there.
        self.shutdown_read();
        while let Received::Bytes(_) = self.receive(scratch) {}
    }
}

impl AsFd for HostStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn close_leaves_the_host_a_clean_end_of_file() {
        let (mut host, device) = UnixStream::pair().unwrap();
        let mut stream = HostStream::new(device.into());
        host.write_all(&[7; 5000]).unwrap();
        assert_eq!(stream.send(b"last words"), Sent::Bytes(10));
        stream.close(&mut [0; 512]);
        let mut text = String::new();
        host.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }

    #[test]
    fn a_full_socket_is_not_tried_again_before_its_event() {
        let (_host, device) = UnixStream::pair().unwrap();
        let mut stream = HostStream::new(device.into());
        let bytes = vec![0; 16 << 20];
        let Sent::Bytes(count) = stream.send(&bytes) else {
            panic!("the host is alive");
        };
        assert!(count > 0 && count < bytes.len());
        assert_eq!(stream.send(&bytes), Sent::Bytes(0));
    }
}
