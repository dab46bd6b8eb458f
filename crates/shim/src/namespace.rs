//! Mount namespaces: a shim has its own, which ends with it.
//!
//! Whatever a shim mounts is seen by itself and by the processes that it starts. However
//! it ends, nothing of it stays on the host.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{Error, Result};

/// The mount namespace that the shim came from.
#[derive(Debug)]
pub struct Host(File);

impl Host {
    /// Leaves the host's namespace for a new one. To be called before any thread is made.
    /// Mounts that the host shares still appear here, ours appear nowhere else.
    pub fn leave() -> Result<Self> {
        let host =
            File::open("/proc/self/ns/mnt").map_err(Error::host("open the mount namespace"))?;
        // SAFETY: the process has one thread, and the flag touches no descriptor table.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(Error::host("make a mount namespace (shims run as root)"))?;
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .map_err(Error::host("separate the shim's mounts from the host's"))?;
        Ok(Self(host))
    }

    /// Does something as the host sees files: what has been mounted since, too.
    pub fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        alone(|| {
            rustix::thread::move_into_link_name_space(
                self.0.as_fd(),
                Some(LinkNameSpaceType::Mount),
            )
            .map(|()| work())
        })?
        .map_err(Error::host("enter the host's mount namespace"))
    }
}

/// Does something in a thread with a working folder and namespace of its own.
pub fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let thread = || {
        // SAFETY: CLONE_FS gives this thread its own working folder and root and leaves
        // the descriptor table shared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map(|()| work())
    };
    std::thread::scope(|scope| scope.spawn(thread).join())
        .map_err(|_| Error::State("a helper thread panicked".to_owned()))?
        .map_err(Error::host("separate a thread's working folder"))
}
