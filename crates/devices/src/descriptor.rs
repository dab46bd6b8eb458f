//! Descriptors that the parent passes by number.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};

/// Takes over a descriptor that the parent left open for this process.
pub fn take(number: RawFd, what: &str) -> Result<OwnedFd> {
    if number <= 2 {
        bail!("{what}: descriptor {number} belongs to the standard streams");
    }
    // SAFETY: F_GETFD touches no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("{what}: descriptor {number} was not passed"));
    }
    // SAFETY: the descriptor is open, and the command line gives it to this process,
    // where each number is taken at most once, before any thread or file is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
        .with_context(|| format!("{what}: cannot set close-on-exec"))?;
    Ok(fd)
}
