//! The pseudo terminal of a process, made in the container's own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{Error, Result};

/// Size in characters; 0 by 0 if unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

impl Size {
    /// Tells a terminal its size.
    pub fn apply(self, terminal: impl AsFd) -> Result<()> {
        let size = Winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(terminal, size).map_err(Error::system("size the terminal"))
    }
}

/// Makes a terminal and makes it the controlling one of this session. Returns its
/// two sides, master first.
pub(super) fn open(size: Size) -> Result<(OwnedFd, OwnedFd)> {
    let failed = || Error::system("make a terminal");
    // Not /dev/ptmx: that name is the image's to choose.
    let master = rustix::fs::open(
        "/dev/pts/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed())?;
    rustix::pty::unlockpt(&master).map_err(failed())?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .map_err(failed())?;
    size.apply(&master)?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(failed())?;
    Ok((master, slave))
}

/// Puts the terminal at `/dev/console`, as a container's first process expects it.
pub(super) fn place_at_console(master: &OwnedFd) -> Result<()> {
    let console = Path::new("/dev/console");
    let failed = || Error::path("put the terminal at", console);
    let name = rustix::pty::ptsname(master, Vec::new()).map_err(failed())?;
    rustix::fs::open(
        console,
        OFlags::CREATE | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )
    .map_err(failed())?;
    rustix::mount::mount_bind(name.as_c_str(), console).map_err(failed())
}
