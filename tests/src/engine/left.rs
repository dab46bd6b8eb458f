//! What an engine and its containers have on the host, and may not leave there.

use std::path::PathBuf;

use super::Containerd;
use crate::text;

impl Containerd {
    /// Shims of this engine and the processes that they have started, if these words
    /// are in their command line.
    pub fn processes(&self, words: &[&str]) -> Vec<u32> {
        let own = self.scratch.path().to_string_lossy().into_owned();
        let all = processes();
        let is_shim = |process: &Process| {
            process.command.contains("containerd-shim") && process.command.contains(&own)
        };
        let shims: Vec<_> = all.iter().filter(|process| is_shim(process)).collect();
        all.iter()
            .filter(|process| {
                is_shim(process) || shims.iter().any(|shim| shim.pid == process.parent)
            })
            .filter(|process| words.iter().all(|word| process.command.contains(word)))
            .map(|process| process.pid)
            .collect()
    }

    /// Containers, tasks, bundles, processes and mounts that are left.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<_> = self
            .ok(&["container", "ls", "-q"])
            .lines()
            .chain(self.ok(&["task", "ls", "-q"]).lines())
            .map(|id| format!("container {id}"))
            .collect();
        let tasks = self
            .scratch
            .path()
            .join("state/io.containerd.runtime.v2.task");
        let bundles = std::fs::read_dir(tasks.join(self.namespace()))
            .into_iter()
            .flatten()
            .flatten();
        left.extend(bundles.map(|bundle| format!("bundle {:?}", bundle.path())));
        let ours = self.processes(&[]);
        left.extend(ours.into_iter().map(|pid| format!("process {pid}")));
        left.extend(
            self.mounts()
                .into_iter()
                .map(|path| format!("mount {path}")),
        );
        left.extend(self.cgroups().iter().map(|path| format!("cgroup {path:?}")));
        left
    }

    /// Mounts of the host below its folder.
    pub(super) fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let own = self.scratch.path().to_string_lossy().into_owned();
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|path| path.starts_with(&own))
            .map(str::to_owned)
            .collect()
    }

    /// Unmounts what the erofs snapshotter has mounted: containerd keeps layers mounted for
    /// as long as they are there.
    pub fn forget_layers(&self) {
        for mount in self.mounts() {
            if mount.contains("io.containerd.snapshotter.v1.erofs") {
                rustix::mount::unmount(&*mount, rustix::mount::UnmountFlags::empty())
                    .expect("nobody uses the layer");
            }
        }
    }

    /// Cgroups of the host for containers of this engine, whose names the test gives with
    /// its own process id.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        hierarchies
            .flat_map(|hierarchy| {
                [self.cgroup_name(), self.slice_name()].map(|name| hierarchy.path().join(name))
            })
            .filter(|path| path.exists())
            .collect()
    }

    /// Name of the cgroup below which its containers are placed by `--cgroup`.
    pub fn cgroup_name(&self) -> String {
        let folder = self.scratch.path().file_name().unwrap_or_default();
        format!("test-{}", folder.to_string_lossy().trim_start_matches('.'))
    }

    /// Name of the slice in which its containers are placed by `--cgroup SLICE:PREFIX:NAME`.
    pub fn slice_name(&self) -> String {
        // A dash would be a slice in a slice, which others have too.
        format!("{}.slice", self.cgroup_name().replace('-', "_"))
    }
}

struct Process {
    pid: u32,
    parent: u32,
    command: String,
}

fn processes() -> Vec<Process> {
    let all = std::fs::read_dir("/proc").expect("/proc");
    all.filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))?
            .trim()
            .parse()
            .ok()?;
        Some(Process {
            pid,
            parent,
            command: text(&command).replace('\0', " "),
        })
    })
    .collect()
}
