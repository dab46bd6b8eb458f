//! Files of the host.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};

use super::MARK;
use crate::line;

/// Writes to files that exist. None is made: in the container's own files a mark proves nothing.
pub fn write(paths: &[&str]) {
    for path in paths {
        let what = format!("write {path}");
        line::attempt(&what);
        line::outcome(what, mark(Path::new(path)));
    }
}

/// Leaves the mark in a file that exists.
pub fn mark(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.write_all(MARK)?;
    file.sync_all()
}

/// Makes a read-only mount writable, which root of the mount's own namespace may, and writes.
pub fn remount(mount: &str, path: &str) {
    let what = format!("remount {mount} read-write");
    line::attempt(&what);
    line::outcome(what, mount_remount(mount, MountFlags::BIND, c""));
    write(&[path]);
}
