//! What engines and runtimes leave behind: some of it always, some of it when they fail.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;

/// Processes of a container that was killed leave its cgroup a little later.
const PATIENCE: Duration = Duration::from_secs(30);

const CGROUPS: &str = "/sys/fs/cgroup";

/// Where containerd's clients and shims keep pipes, sockets and runc's state, whatever the
/// engine's own folder is.
const CONTAINERD: &str = "/run/containerd";

/// Removes the cgroup of this name, and those below it, from every hierarchy.
pub fn cgroups(name: &str) {
    let begin = Instant::now();
    loop {
        let left = hierarchies().into_iter().map(|path| path.join(name));
        let left: Vec<_> = left.filter(|path| path.exists()).collect();
        if left.is_empty() {
            return;
        }
        left.iter().for_each(|path| remove_cgroup(path));
        if begin.elapsed() > PATIENCE {
            tracing::warn!(name, "a cgroup with processes in it is left behind");
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Version 2 has one at the root, version 1 one for each controller, below it.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    let mut all: Vec<_> = folders(&root).collect();
    all.retain(|path| path.join("cgroup.procs").exists());
    all.push(root);
    all
}

fn remove_cgroup(cgroup: &Path) {
    folders(cgroup).for_each(|below| remove_cgroup(&below));
    // The kernel refuses one with processes in it.
    let _ = std::fs::remove_dir(cgroup);
}

fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    entries(path).filter(|path| path.is_dir())
}

fn entries(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// Unmounts whatever is mounted below a folder.
pub fn mounts(folder: &Path) {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The last ones lie over the others.
    for target in mounts_below(&text, folder).iter().rev() {
        if let Err(error) = rustix::mount::unmount(target, UnmountFlags::DETACH) {
            tracing::warn!(%error, mount = %target.display(), "a mount is left behind");
        }
    }
}

/// The fifth word of a line is where it is mounted (proc_pid_mountinfo(5)). Names of ours have
/// no characters that are written otherwise there.
fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let targets = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let targets = targets.map(PathBuf::from);
    targets.filter(|path| path.starts_with(folder)).collect()
}

/// Removes what clients, shims and runc keep for a namespace of containerd. `state` is the
/// engine's own folder of bundles, `prefix` begins the names of the containers.
pub fn containerd(namespace: &str, state: &Path, prefix: &str) {
    let run = Path::new(CONTAINERD);
    let bundles = state.join("io.containerd.runtime.v2.task").join(namespace);
    for bundle in folders(&bundles) {
        // A shim that was killed has left its socket: "unix:///run/containerd/s/12ab".
        let address = std::fs::read_to_string(bundle.join("address")).unwrap_or_default();
        let socket = Path::new(address.trim().trim_start_matches("unix://"));
        if socket.parent() == Some(&run.join("s")) {
            let _ = std::fs::remove_file(socket);
        }
    }
    // A `ctr` that was killed has left its pipes.
    for folder in folders(&run.join("fifo")) {
        let ours = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix)
        };
        if entries(&folder).any(ours) {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
    let _ = std::fs::remove_dir_all(run.join("runc").join(namespace));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_others_are_left_alone() {
        let text = "30 1 0:2 / /tmp/compare/a rw - overlay overlay rw\n\
                    31 1 0:3 / /tmp/compare-other rw - tmpfs tmpfs rw\n\
                    32 1 0:3 / / rw - ext4 /dev/vda rw\n";
        let found = mounts_below(text, Path::new("/tmp/compare"));
        assert_eq!(found, [PathBuf::from("/tmp/compare/a")]);
    }
}
