//! Another identity for a container that has one already.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use caisson_protocol::ON_FORK;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::MoveMountFlags;

use super::Reporter;
use crate::error::{Error, Result};

/// What is reported if there is a hook.
pub const HOOK: &str = "hook";

/// The kernel draws it once, and has no way to draw it again.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// See machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";

/// What tells a copy of a container from the others. The child is in the container's
/// files.
#[derive(Debug)]
pub struct Renewal {
    /// Host name.
    pub hostname: String,
    /// A mount that is in no folder yet: what is to be read as the kernel's boot id.
    pub boot_id: OwnedFd,
    /// Another for the machine id, if there is one.
    pub machine_id: OwnedFd,
}

impl Renewal {
    /// Makes it so, reports whether there is a hook, and ends.
    pub fn execute(&self, reporter: &Reporter) -> Result<Infallible> {
        if !self.hostname.is_empty() {
            rustix::system::sethostname(self.hostname.as_bytes())
                .map_err(Error::system("set the host name"))?;
        }
        place(&self.boot_id, Path::new(BOOT_ID))?;
        let machine_id = Path::new(MACHINE_ID);
        // An image may leave it empty, for whoever starts it to fill in.
        let has_one = fs::symlink_metadata(machine_id)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
        if has_one {
            place(&self.machine_id, machine_id)?;
        }
        let hook = match fs::metadata(ON_FORK) {
            Ok(_) => HOOK,
            Err(error) if error.kind() == io::ErrorKind::NotFound => "",
            Err(error) => return Err(Error::path("look for", Path::new(ON_FORK))(error)),
        };
        reporter.done(hook)?;
        // SAFETY: `_exit` has no preconditions: the agent's memory is left without running
        // its destructors.
        unsafe { libc::_exit(0) }
    }
}

/// Mounts it over a file; without that file, there is nothing to be taken for another's.
fn place(mount: &OwnedFd, over: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    match rustix::mount::move_mount(mount.as_fd(), "", CWD, over, flags) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(Error::path("mount over", over)(errno)),
    }
}
