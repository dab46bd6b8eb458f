//! One cgroup for each container (cgroup v2).

mod device;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use caisson_protocol::agent::{CgroupLimit, Resources, StatsResponse};
use caisson_protocol::{LIMIT_FILES, SWAP_LIMIT_FILE};
use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::boot::CGROUPS;
use crate::error::{Error, Result};

/// Name of a cgroup that is made before a template is frozen: no id of a container's begins so.
/// Its container may read it in `/proc/self/cgroup`, so that it has no spaces.
const FIRST: &str = "_first";

/// Whether it is there and nobody has it.
static FIRST_IS_FREE: AtomicBool = AtomicBool::new(false);

/// A container's cgroup. Dropping it removes nothing; see [`Cgroup::remove`].
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the one of the first container before anybody has asked for it. It has no
    /// limits yet, and the rules for devices that most have.
    pub fn prepare_first() -> Result<Self> {
        let path = Path::new(CGROUPS).join(FIRST);
        fs::create_dir(&path).map_err(Error::path("make the cgroup", &path))?;
        let cgroup = Self { path };
        device::prepare(cgroup.folder()?.as_fd())?;
        FIRST_IS_FREE.store(true, Ordering::Relaxed);
        Ok(cgroup)
    }

    /// Makes the cgroup and sets its limits.
    pub fn create(id: &str, resources: &Resources) -> Result<Self> {
        let is_first = FIRST_IS_FREE.swap(false, Ordering::Relaxed);
        let path = if is_first {
            Path::new(CGROUPS).join(FIRST)
        } else {
            let path = Path::new(CGROUPS).join(id);
            fs::create_dir(&path).map_err(Error::path("make the cgroup", &path))?;
            path
        };
        let cgroup = Self { path };
        if let Err(error) = cgroup.restrict(resources, is_first) {
            let _ = fs::remove_dir(&cgroup.path);
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Sets the limits that are named.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        for limit in &resources.limits {
            let file = file_of(limit)?;
            // The guest's kernel has no swap: whatever limit there is, it is kept.
            if file == SWAP_LIMIT_FILE && !self.path.join(file).exists() {
                continue;
            }
            self.write(file, &limit.value)?;
        }
        Ok(())
    }

    fn restrict(&self, resources: &Resources, is_first: bool) -> Result<()> {
        self.update(resources)?;
        let rules = &resources.devices;
        if rules.is_empty() && !is_first {
            return Ok(());
        }
        device::restrict(self.folder()?.as_fd(), rules, is_first)
    }

    /// For programs, which are attached to an opened folder and not to a path.
    fn folder(&self) -> Result<fs::File> {
        fs::File::open(&self.path).map_err(Error::path("open", &self.path))
    }

    /// For `CLONE_INTO_CGROUP`.
    pub fn open(&self) -> Result<OwnedFd> {
        rustix::fs::open(
            &self.path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::path("open", &self.path))
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(Error::path(&format!("write {value:?} to"), &path))
    }

    fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path.join(file))
    }

    /// Process ids in the cgroup and in those below it, as the agent sees them.
    pub fn processes(&self) -> Vec<u32> {
        let mut processes = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            processes.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        processes
    }

    /// Ends every process.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// How often the out-of-memory killer came.
    pub fn oom_kills(&self) -> u64 {
        let events = self.read("memory.events").unwrap_or_default();
        keyed(&events, "oom_kill")
    }

    /// Freezes or thaws every process, and waits until it is so.
    pub async fn freeze(&self, frozen: bool) -> Result<()> {
        let flag = if frozen { "1" } else { "0" };
        self.write("cgroup.freeze", flag)?;
        self.until("frozen", u64::from(frozen)).await
    }

    /// Ends every process and removes the cgroup.
    pub async fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        self.kill()?;
        self.until("populated", 0).await?;
        remove_tree(&self.path).map_err(Error::path("remove the cgroup", &self.path))
    }

    /// Waits until a key of `cgroup.events` has a value.
    async fn until(&self, key: &str, value: u64) -> Result<()> {
        let path = self.path.join("cgroup.events");
        let failed = || Error::path("watch", &path);
        let file = fs::File::open(&path).map_err(failed())?;
        // SAFETY: the descriptor belongs to the file, which never changes its
        // number and is closed when it is dropped with the `AsyncFd`.
        let events = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }
            .map_err(|error| failed()(io::Error::from(error)))?;
        loop {
            // Read before waiting: a change in between wakes us.
            if keyed(&fs::read_to_string(&path).map_err(failed())?, key) == value {
                return Ok(());
            }
            let mut guard = events.ready(Interest::PRIORITY).await.map_err(failed())?;
            guard.clear_ready();
        }
    }

    /// What the container uses.
    pub fn stats(&self) -> StatsResponse {
        let mut stats = StatsResponse::new();
        let read = |file| self.read(file).unwrap_or_default();
        let cpu = read("cpu.stat");
        stats.cpu_usage_us = keyed(&cpu, "usage_usec");
        stats.cpu_user_us = keyed(&cpu, "user_usec");
        stats.cpu_system_us = keyed(&cpu, "system_usec");
        stats.cpu_periods = keyed(&cpu, "nr_periods");
        stats.cpu_throttled = keyed(&cpu, "nr_throttled");
        stats.cpu_throttled_us = keyed(&cpu, "throttled_usec");
        let memory = read("memory.stat");
        stats.memory_anonymous_bytes = keyed(&memory, "anon");
        stats.memory_file_bytes = keyed(&memory, "file");
        stats.memory_inactive_file_bytes = keyed(&memory, "inactive_file");
        stats.page_faults = keyed(&memory, "pgfault");
        stats.major_page_faults = keyed(&memory, "pgmajfault");
        stats.memory_bytes = number(&read("memory.current"));
        stats.memory_limit_bytes = number(&read("memory.max"));
        stats.pids = number(&read("pids.current"));
        stats.pids_limit = number(&read("pids.max"));
        stats.oom_kills = self.oom_kills();
        for field in read("io.stat").split_whitespace() {
            match field.split_once('=') {
                Some(("rbytes", bytes)) => stats.read_bytes += number(bytes),
                Some(("wbytes", bytes)) => stats.write_bytes += number(bytes),
                _ => {}
            }
        }
        stats
    }
}

/// Removes a cgroup and those that the container made in it, deepest first.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// `max` and whatever else is no number is 0.
fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The value in a line `key value`.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .map_or(0, number)
}

/// The file of a limit: one of the cgroup's own, never a path.
fn file_of(limit: &CgroupLimit) -> Result<&str> {
    if LIMIT_FILES.contains(&limit.file.as_str()) {
        return Ok(&limit.file);
    }
    Err(Error::Invalid(format!("{:?} is no limit", limit.file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_are_written() {
        let limit = |file: &str| CgroupLimit {
            file: file.to_owned(),
            ..Default::default()
        };
        assert_eq!(file_of(&limit("pids.max")).expect("a limit"), "pids.max");
        for other in ["cgroup.kill", "../pids.max", "/run/pids.max", ""] {
            assert!(file_of(&limit(other)).is_err(), "{other:?}");
        }
    }

    #[test]
    fn keys_are_whole_words() {
        let events = "low 1\noom 2\noom_kill 3\noom_group_kill 4\n";
        assert_eq!(keyed(events, "oom_kill"), 3);
        assert_eq!(keyed(events, "oom"), 2);
        assert_eq!(keyed(events, "high"), 0);
    }
}
