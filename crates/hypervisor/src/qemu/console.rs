//! Keeps what the guest writes to its serial port, in a file of bounded size.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use caisson_protocol::LET_GO;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

/// Bytes of the file that are written as they come: a boot needs a few KiB.
const HEAD: u64 = 1 << 20;

/// Bytes at the end that are kept when there are more.
const TAIL: usize = 64 << 10;

/// Most characters of a line that are shown.
const LINE_LIMIT: usize = 200;

/// How a kernel that gives up says so.
const PANIC: &str = "Kernel panic - not syncing: ";

/// How the agent says why it does.
const AGENT: &str = "agent: ";

/// The end of what the guest wrote.
#[derive(Debug, Default, Clone)]
pub(super) struct Console {
    tail: Arc<Mutex<VecDeque<u8>>>,
    let_go: watch::Sender<u64>,
}

impl Console {
    /// Copies `stream` to `file` until its end. A guest that floods its console
    /// fills [`HEAD`] and [`TAIL`] bytes of the disk, not more.
    pub(super) async fn record(self, mut stream: impl AsyncRead + Unpin, mut file: File) {
        let mut buffer = vec![0; 4096];
        let mut written = 0;
        let mut left_out = 0_u64;
        let mut line = Line::default();
        loop {
            let bytes = match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => &buffer[..length],
            };
            self.keep(bytes);
            let times = bytes.iter().filter(|byte| line.ends(**byte)).count();
            if times > 0 {
                self.let_go.send_modify(|all| *all += times as u64);
            }
            let room = usize::try_from(HEAD - written).unwrap_or(usize::MAX);
            let (head, rest) = bytes.split_at(bytes.len().min(room));
            // A full disk of the host is not the guest's business.
            if let Err(error) = file.write_all(head) {
                tracing::debug!(%error, "the console is not kept");
            }
            written += head.len() as u64;
            left_out += rest.len() as u64;
        }
        if left_out > 0
            && let Err(error) = self.append_tail(&mut file, left_out)
        {
            tracing::debug!(%error, "the end of the console is not kept");
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
    }

    fn append_tail(&self, file: &mut File, left_out: u64) -> io::Result<()> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let length = usize::try_from(left_out)
            .unwrap_or(usize::MAX)
            .min(tail.len());
        let skipped = left_out - length as u64;
        if skipped > 0 {
            writeln!(file, "\n[... {skipped} bytes left out ...]")?;
        }
        let bytes = tail.make_contiguous();
        file.write_all(&bytes[bytes.len() - length..])
    }

    /// Waits until the agent has said [`LET_GO`] this often.
    pub(super) async fn has_let_go(&self, times: u64) {
        // The sender is our own: it is there.
        let _ = self
            .let_go
            .subscribe()
            .wait_for(|said| *said >= times)
            .await;
    }

    /// Why the kernel or the agent gave up, or else the last line that the guest said, fit to
    /// be shown.
    pub(super) fn last_words(said: &[u8]) -> String {
        let text = String::from_utf8_lossy(said);
        let line = text
            .lines()
            .rfind(|line| line.contains(PANIC) || line.contains(AGENT))
            .or_else(|| text.lines().rfind(|line| !line.trim().is_empty()))
            .unwrap_or("(nothing)");
        line.chars()
            .filter(|c| !c.is_control())
            .take(LINE_LIMIT)
            .collect()
    }

    /// Why the kernel gave up, if it did.
    pub(super) fn panic(&self) -> Option<String> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
        let (_, message) = text.rsplit_once(PANIC)?;
        Some(message.lines().next().unwrap_or_default().trim().to_owned())
    }
}

/// The line that the guest is writing, as far as it may be [`LET_GO`].
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Line {
    /// Takes the next byte; whether it ends such a line.
    fn ends(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            // One that is longer is another line.
            if self.0.len() <= LET_GO.len() {
                self.0.push(byte);
            }
            return false;
        }
        let is = self.0.trim_ascii_end() == LET_GO.as_bytes();
        self.0.clear();
        is
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    async fn record(chunks: &[&[u8]]) -> (Console, Vec<u8>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("console.log");
        let console = Console::default();
        let (mut guest, host) = UnixStream::pair().expect("pair");
        let recorder = tokio::spawn(
            console
                .clone()
                .record(host, File::create(&path).expect("file")),
        );
        for chunk in chunks {
            guest.write_all(chunk).await.expect("written");
        }
        drop(guest);
        recorder.await.expect("recorded");
        (console, std::fs::read(path).expect("file"))
    }

    #[tokio::test]
    async fn a_boot_is_kept_whole() {
        let (console, file) = record(&[b"Linux version\n", b"ready\n"]).await;
        assert_eq!(file, b"Linux version\nready\n");
        assert_eq!(console.panic(), None);
    }

    #[tokio::test]
    async fn the_agent_is_heard_among_other_lines() {
        let chunks: [&[u8]; 3] = [b"noise\r\ncaisson-agent: has", b" let go\r", b"\nmore\n"];
        let (console, _) = record(&chunks).await;
        console.has_let_go(1).await;
        let (console, _) = record(&[b"x caisson-agent: has let go\n"]).await;
        assert_eq!(*console.let_go.borrow(), 0);
    }

    #[tokio::test]
    async fn a_flood_keeps_its_head_and_its_tail() {
        let line = [b'x'; 64 << 10];
        let mut chunks = vec![b"first\n".as_slice()];
        chunks.extend([line.as_slice()].repeat(64));
        chunks.push(b"\nKernel panic - not syncing: Attempted to kill init!\r\nmore\n");
        let (console, file) = record(&chunks).await;
        assert!(file.starts_with(b"first\n"));
        assert!(file.ends_with(b"more\n"));
        assert!((file.len() as u64) < HEAD + TAIL as u64 + 100);
        assert!(String::from_utf8_lossy(&file).contains("bytes left out"));
        assert_eq!(console.panic().as_deref(), Some("Attempted to kill init!"));
    }
}
