//! Mount namespaces: a shim has its own, which ends with it.
//!
//! Whatever a shim mounts is seen by itself and by the processes that it starts. However
//! it ends, nothing of it stays on the host.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{Error, Result};

/// How the names of folders begin at which containerd mounts something for a moment.
const PASSING: &str = "containerd-mount";

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
        forget_passing()?;
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

/// Lets go of what containerd has mounted for a moment: where the host does not share its
/// mounts, a file system would stay in use here after containerd has unmounted it, and
/// be written to when the shim ends. It may be another machine's disk by then.
fn forget_passing() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(Error::host("list the shim's mounts"))?;
    for point in passing(&mounts) {
        if let Err(error) = rustix::mount::unmount(point, UnmountFlags::DETACH) {
            tracing::debug!(%error, point, "a mount of containerd's stays in the shim");
        }
    }
    Ok(())
}

fn passing(mounts: &str) -> impl Iterator<Item = &str> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| {
        let name = Path::new(point).file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PASSING))
    })
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

#[cfg(test)]
mod tests {
    use super::passing;

    #[test]
    fn mounts_of_a_moment_are_known_by_their_names() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/vda rw\n\
            2 1 7:0 / /tmp/containerd-mount123 rw - ext4 /dev/loop0 rw\n\
            3 1 7:1 / /tmp/containerd-mount4/proc rw - proc proc rw\n\
            4 1 7:1 / /c/tmpmounts/containerd-mount5 rw - ext4 /dev/loop1 rw\n";
        let found: Vec<_> = passing(mounts).collect();
        assert_eq!(
            found,
            ["/tmp/containerd-mount123", "/c/tmpmounts/containerd-mount5"]
        );
    }
}
