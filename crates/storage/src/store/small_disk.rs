//! A file system of a few megabytes, for tests of what happens when it is full.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Calls `test` with the root of an empty file system of `mebibytes`. Only the
/// thread that runs it and those that it starts see the mount, which goes with
/// them. Needs root.
pub(crate) fn on_small_disk(mebibytes: u32, test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: only the mounts of this thread, which is new, become its own;
            // descriptors stay shared with the other threads.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root is needed for a mount");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let size = std::ffi::CString::new(format!("size={mebibytes}m")).unwrap();
            mount(
                "none",
                folder.path(),
                "tmpfs",
                MountFlags::empty(),
                size.as_c_str(),
            )
            .unwrap();
            test(folder.path());
        });
    });
}
