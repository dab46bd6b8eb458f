//! What a child says before it becomes its program.
//!
//! A report is a kind (u8), a length (u32, little endian) and a text. The terminal
//! of a process comes as a descriptor with `Ready`. The connection closes with
//! `execve`.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::error::{Error, Result};

/// Longest text. A child of ours stays far below, but its last reports are sent
/// within a file system that is not ours.
const TEXT_LIMIT: usize = 4096;

const READY: u8 = 0;
const FAILED: u8 = 1;
const NOT_FOUND: u8 = 2;
const NOT_EXECUTABLE: u8 = 3;

/// The byte that lets a child go on.
const GO: u8 = b'g';

/// A child's end.
#[derive(Debug)]
pub struct Reporter(UnixStream);

impl Reporter {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// All is prepared. Returns when the agent says [`Reports::go`].
    pub fn ready(&self, terminal: Option<OwnedFd>) -> Result<()> {
        self.send(READY, "", terminal)
            .map_err(Error::system("report to the agent"))?;
        let mut answer = [0];
        (&self.0)
            .read_exact(&mut answer)
            .map_err(Error::system("wait for the agent"))
    }

    /// The connection, for a child that is told something.
    pub fn stream(&self) -> impl Read + '_ {
        &self.0
    }

    /// A result, for a child that is no program or none yet.
    pub fn done(&self, text: &str) -> Result<()> {
        self.send(READY, text, None)
            .map_err(Error::system("report to the agent"))
    }

    /// Tells the agent why there will be no program.
    pub(super) fn failed(&self, error: &Error) {
        let kind = match error {
            Error::ProgramNotFound(_) => NOT_FOUND,
            Error::ProgramNotExecutable(_) => NOT_EXECUTABLE,
            _ => FAILED,
        };
        let mut text = error.to_string();
        if text.len() > TEXT_LIMIT {
            text.truncate(text.floor_char_boundary(TEXT_LIMIT));
        }
        // If the agent no longer listens there is nobody to tell.
        let _ = self.send(kind, &text, None);
    }

    fn send(&self, kind: u8, text: &str, terminal: Option<OwnedFd>) -> io::Result<()> {
        let mut header = [kind, 0, 0, 0, 0];
        header[1..].copy_from_slice(&(text.len() as u32).to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let terminal: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
        if !terminal.is_empty() {
            assert!(
                ancillary.push(SendAncillaryMessage::ScmRights(&terminal)),
                "the buffer has room for one descriptor"
            );
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&header)], &mut ancillary, flags)?;
        (&self.0).write_all(text.as_bytes())
    }
}

/// What a child reported.
#[derive(Debug)]
pub enum Report {
    /// It waits for [`Reports::go`], or, if it is no program, has a result.
    Ready {
        /// The master side of its terminal.
        terminal: Option<OwnedFd>,
        /// A result.
        text: String,
    },
    /// It has become its program, or has ended without a word.
    Closed,
}

/// The agent's end.
#[derive(Debug)]
pub struct Reports(tokio::net::UnixStream);

impl Reports {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(stream))
            .map(Self)
            .map_err(Error::system("use a socket pair"))
    }

    /// The next report.
    ///
    /// # Errors
    /// The child's own, when it failed.
    pub async fn next(&mut self) -> Result<Report> {
        let failed = || Error::system("listen to a child");
        let mut header = [0; 5];
        let (length, terminal) = self
            .0
            .async_io(Interest::READABLE, || receive(&self.0, &mut header))
            .await
            .map_err(failed())?;
        if length == 0 {
            return Ok(Report::Closed);
        }
        self.0
            .read_exact(&mut header[length..])
            .await
            .map_err(failed())?;
        let [kind, length @ ..] = header;
        let mut text = vec![0; (u32::from_le_bytes(length) as usize).min(TEXT_LIMIT)];
        self.0.read_exact(&mut text).await.map_err(failed())?;
        let text = String::from_utf8_lossy(&text).into_owned();
        match kind {
            READY => Ok(Report::Ready { terminal, text }),
            NOT_FOUND => Err(Error::ProgramNotFound(text)),
            NOT_EXECUTABLE => Err(Error::ProgramNotExecutable(text)),
            _ => Err(Error::Child(text)),
        }
    }

    /// Tells a child something, with its length before it (u32, little endian).
    pub async fn tell(&mut self, message: &[u8]) -> Result<()> {
        let length = u32::try_from(message.len())
            .map_err(|_| Error::Invalid("a message is too long".to_owned()))?;
        let told = async {
            self.0.write_all(&length.to_le_bytes()).await?;
            self.0.write_all(message).await
        };
        told.await.map_err(Error::system("tell a child"))
    }

    /// Lets the child become its program.
    pub async fn go(&mut self) -> Result<()> {
        self.0
            .write_all(&[GO])
            .await
            .map_err(Error::system("start a child"))
    }
}

fn receive(stream: impl AsFd, header: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(header)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let terminal = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, terminal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Reporter, Reports) {
        let (theirs, ours) = UnixStream::pair().expect("pair");
        (Reporter::new(theirs), Reports::new(ours).expect("reports"))
    }

    #[tokio::test]
    async fn a_failure_keeps_its_kind_and_its_words() {
        let (reporter, mut reports) = pair();
        reporter.failed(&Error::ProgramNotFound("no such program".to_owned()));
        let error = reports.next().await.expect_err("a failure");
        assert!(matches!(error, Error::ProgramNotFound(_)), "{error:?}");
        assert_eq!(error.to_string(), "no such program");
    }

    #[tokio::test]
    async fn a_terminal_comes_with_ready() {
        let (reporter, mut reports) = pair();
        let child = std::thread::spawn(move || {
            let terminal = std::fs::File::open("/dev/null").expect("null").into();
            reporter.ready(Some(terminal)).expect("told to go on");
        });
        let Ok(Report::Ready { terminal, .. }) = reports.next().await else {
            panic!("not ready");
        };
        assert!(terminal.is_some());
        reports.go().await.expect("sent");
        child.join().expect("ended");
        assert!(matches!(reports.next().await, Ok(Report::Closed)));
    }

    #[tokio::test]
    async fn long_words_are_cut() {
        let (reporter, mut reports) = pair();
        reporter.failed(&Error::Invalid("ä".repeat(TEXT_LIMIT)));
        let error = reports.next().await.expect_err("a failure");
        assert_eq!(error.to_string().len(), TEXT_LIMIT);
    }
}
