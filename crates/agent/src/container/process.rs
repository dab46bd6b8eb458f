//! One process of a container, as the agent holds it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::Pid;

use crate::child::TerminalSize;
use crate::error::{Error, Result};
use crate::reaper::ExitWatch;
use crate::stdio::Relays;

/// A process that has been started.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    exit: ExitWatch,
    terminal: Option<OwnedFd>,
    relays: Relays,
}

impl Process {
    pub(super) fn new(
        pid: Pid,
        pidfd: OwnedFd,
        exit: ExitWatch,
        terminal: Option<OwnedFd>,
        relays: Relays,
    ) -> Self {
        Self {
            pid,
            pidfd,
            exit,
            terminal,
            relays,
        }
    }

    /// What moves the bytes of its streams.
    pub(super) fn relays(&self) -> &Relays {
        &self.relays
    }

    /// As the agent sees it.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Names its namespaces, for as long as it lives.
    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Tells when it ends.
    pub fn exit(&self) -> &ExitWatch {
        &self.exit
    }

    /// Sends a signal; one that has ended takes no notice.
    pub fn signal(&self, signal: u32) -> Result<()> {
        // SAFETY: the call takes numbers and no pointer that it would follow.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(()),
            _ => Err(Error::system(format!("send the signal {signal}"))(error)),
        }
    }

    /// Sizes its terminal.
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        match &self.terminal {
            Some(terminal) => size.apply(terminal),
            None => Err(Error::Invalid("the process has no terminal".to_owned())),
        }
    }
}
