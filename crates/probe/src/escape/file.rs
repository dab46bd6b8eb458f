//! Files of the host.

use std::fs::File;
use std::io::Write;

use rustix::mount::{MountFlags, mount_remount};

use super::MARK;
use crate::line;

/// Writes to files that exist. None is made: in the container's own files a mark proves nothing.
pub fn write(paths: &[&str]) {
    for path in paths {
        let what = format!("write {path}");
        line::attempt(&what);
        let written = File::options()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(MARK).and_then(|()| file.sync_all()));
        line::outcome(what, written);
    }
}

/// Makes a read-only mount writable, which root of the mount's own namespace may, and writes.
pub fn remount(mount: &str, path: &str) {
    let what = format!("remount {mount} read-write");
    line::attempt(&what);
    line::outcome(what, mount_remount(mount, MountFlags::BIND, c""));
    write(&[path]);
}
