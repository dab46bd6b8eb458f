//! Keeps what the guest writes to its serial port, in a file of bounded size.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the file that are written as they come: a boot needs a few KiB.
const HEAD: u64 = 1 << 20;

/// Bytes at the end that are kept when there are more.
const TAIL: usize = 64 << 10;

/// Most characters of a line that are shown.
const LINE_LIMIT: usize = 200;

/// How a kernel that gives up says so.
const PANIC: &str = "Kernel panic - not syncing: ";

/// The end of what the guest wrote.
#[derive(Debug, Default, Clone)]
pub(super) struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// Copies `stream` to `file` until its end. A guest that floods its console
    /// fills [`HEAD`] and [`TAIL`] bytes of the disk, not more.
    pub(super) async fn record(self, mut stream: impl AsyncRead + Unpin, mut file: File) {
        let mut buffer = vec![0; 4096];
        let mut written = 0;
        let mut left_out = 0_u64;
        loop {
            let bytes = match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => &buffer[..length],
            };
            self.keep(bytes);
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
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
    }

    fn append_tail(&self, file: &mut File, left_out: u64) -> io::Result<()> {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Why the kernel gave up, or else the last line that the guest said, fit to be shown.
    pub(super) fn last_words(said: &[u8]) -> String {
        let text = String::from_utf8_lossy(said);
        let line = text
            .lines()
            .rfind(|line| line.contains(PANIC))
            .or_else(|| text.lines().rfind(|line| !line.trim().is_empty()))
            .unwrap_or("(nothing)");
        line.chars()
            .filter(|c| !c.is_control())
            .take(LINE_LIMIT)
            .collect()
    }

    /// Why the kernel gave up, if it did.
    pub(super) fn panic(&self) -> Option<String> {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
        let (_, message) = text.rsplit_once(PANIC)?;
        Some(message.lines().next().unwrap_or_default().trim().to_owned())
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
