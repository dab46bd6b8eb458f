//! The kernel's log, sent to the host: its console is too slow for all of it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::sync::Notify;
use tokio_vsock::VsockStream;

/// Longest record (`CONSOLE_EXT_LOG_MAX`, linux/printk.h).
const RECORD_LIMIT: usize = 8 << 10;

/// Sends every record, those of the boot included, once `begin` is told: a container
/// does not wait for it.
pub async fn forward(mut host: VsockStream, begin: Arc<Notify>) {
    begin.notified().await;
    if let Err(error) = copy(&mut host).await {
        eprintln!("agent: the kernel's log is not kept: {error}");
    }
    // The connection is the sign of life as well: it stays as long as the agent.
    std::future::pending::<()>().await;
}

async fn copy(host: &mut VsockStream) -> std::io::Result<()> {
    let log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    // SAFETY: the descriptor belongs to the file, never changes its number and is
    // closed only when it is dropped with the `AsyncFd`.
    let log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) }?;
    let mut record = vec![0; RECORD_LIMIT];
    loop {
        let read = log
            .async_io(Interest::READABLE, |log| {
                match rustix::io::read(log, &mut *record) {
                    // Records were overwritten before they were read.
                    Err(Errno::PIPE) => Ok(0),
                    read => Ok(read?),
                }
            })
            .await?;
        if let Some(line) = line(&record[..read]) {
            host.write_all(line.as_bytes()).await?;
        }
    }
}

/// `6,339,5140900,-;text\n KEY=value` as `[    5.140900] text`
/// (Documentation/ABI/testing/dev-kmsg).
fn line(record: &[u8]) -> Option<String> {
    let record = std::str::from_utf8(record).ok()?;
    let (prefix, text) = record.split_once(';')?;
    let microseconds: u64 = prefix.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next()?;
    Some(format!(
        "[{:5}.{:06}] {text}\n",
        microseconds / 1_000_000,
        microseconds % 1_000_000
    ))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_record_becomes_a_line() {
        let record = b"6,339,5140900,-;eth0: up\n SUBSYSTEM=net\n";
        assert_eq!(line(record).as_deref(), Some("[    5.140900] eth0: up\n"));
        assert_eq!(line(b"garbage"), None);
    }
}
