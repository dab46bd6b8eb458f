//! What the host must have: folders, space, memory.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::check::Check;
use crate::command::stats::bytes;

/// With less, the first image fills the disk.
const LEAST_SPACE: u64 = 256 << 20;

/// With less, a few images fill the disk.
const COMFORTABLE_SPACE: u64 = 2 << 30;

/// What a machine with an idle container has of the host at the least.
const LEAST_MEMORY: u64 = 128 << 20;

/// A folder that we must be able to write to; it is made if it is not there.
pub fn folder(name: &'static str, path: &Path) -> Check {
    let written = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| tempfile::NamedTempFile::new_in(path).map(drop));
    match written {
        Ok(()) => Check::good(name, format!("{} can be written", path.display())),
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run as its owner, or choose another folder in the configuration"
                }
                io::ErrorKind::StorageFull => {
                    "free some space: `caisson images`, `caisson rmi`, `caisson rm`"
                }
                _ => "choose another folder in the configuration (`caisson config show`)",
            };
            Check::bad(
                name,
                format!("{} cannot be written: {error}", path.display()),
                remedy,
            )
        }
    }
}

/// Free space of the file system that images and containers are on.
pub fn space(root: &Path) -> Check {
    const NAME: &str = "space";
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let free = match rustix::fs::statvfs(there) {
        Ok(file_system) => file_system.f_bavail * file_system.f_frsize,
        Err(error) => {
            let found = format!("the free space of {} is not known: {error}", root.display());
            return Check::poor(NAME, found, "choose another folder in the configuration");
        }
    };
    let found = format!("{} free in {}", bytes(free), root.display());
    let remedy = "remove what is not needed (`caisson rm`, `caisson rmi`), or set root to a larger file system";
    match free {
        0..LEAST_SPACE => Check::bad(NAME, found, remedy),
        LEAST_SPACE..COMFORTABLE_SPACE => Check::poor(NAME, found, remedy),
        _ => Check::good(NAME, found),
    }
}

/// Memory for one more machine of the default size.
pub fn memory(guest: u64) -> Check {
    const NAME: &str = "memory";
    let Some(available) = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .as_deref()
        .and_then(available)
    else {
        return Check::poor(
            NAME,
            "the available memory is not known".to_owned(),
            "mount /proc",
        );
    };
    let found = format!(
        "{} available, {} for a container without --memory",
        bytes(available),
        bytes(guest)
    );
    let remedy = "end other programs, or set a smaller memory in the configuration";
    if available < LEAST_MEMORY {
        Check::bad(NAME, found, remedy)
    } else if available < guest {
        Check::poor(NAME, found, remedy)
    } else {
        Check::good(NAME, found)
    }
}

/// `MemAvailable` of `/proc/meminfo` (proc(5)) in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn a_folder_is_made_and_tried() {
        let root = tempfile::tempdir().expect("a folder");
        let new = root.path().join("a/b");
        assert_eq!(folder("root", &new).verdict, Verdict::Good);
        assert_eq!(
            std::fs::read_dir(&new).expect("made").count(),
            0,
            "nothing is left in it"
        );
        let file = root.path().join("file");
        std::fs::write(&file, "").expect("written");
        let check = folder("root", &file.join("below"));
        assert_eq!(check.verdict, Verdict::Bad);
        assert!(check.found.contains("file/below"), "{}", check.found);
    }

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24689852 kB\nMemFree:  1 kB\nMemAvailable:      2048 kB\n";
        assert_eq!(available(text), Some(2048 << 10));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(memory(1).verdict, Verdict::Good);
        assert_eq!(memory(u64::MAX).verdict, Verdict::Poor);
    }
}
