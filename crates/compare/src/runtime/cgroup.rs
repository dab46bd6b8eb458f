//! Parent cgroups: engines make them for their containers and leave them behind.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Removes the cgroup of this name, and the empty ones below it, from every hierarchy.
pub fn remove(name: &str) {
    for hierarchy in hierarchies() {
        remove_below(&hierarchy.join(name));
    }
}

/// Version 2 has one at the root, version 1 one for each controller, below it.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    let controllers = std::fs::read_dir(&root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists());
    let mut all: Vec<_> = controllers.collect();
    all.push(root);
    all
}

fn remove_below(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    // One with processes in it is refused by the kernel, and stays.
    let _ = std::fs::remove_dir(cgroup);
}
