//! From the kernel's first process to a place where containers can be made.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::time::ClockId;

use crate::error::{Error, Result};
use crate::interface::Interfaces;

/// Root of the cgroup v2 hierarchy.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// Mounts the kernel's file systems and starts the loopback device.
pub fn prepare() -> Result<()> {
    leave_rootfs()?;
    let common = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let file_systems: [(&str, &str, MountFlags, Option<&CStr>); 6] = [
        ("proc", "/proc", common, None),
        ("sysfs", "/sys", common, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755")),
        (
            "devpts",
            "/dev/pts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            Some(c"mode=0620,gid=5,ptmxmode=0666"),
        ),
        (
            "tmpfs",
            "/run",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=0755"),
        ),
        ("cgroup2", CGROUPS, common, None),
    ];
    for (kind, target, flags, data) in file_systems {
        fs::create_dir_all(target).map_err(Error::path("make the folder", Path::new(target)))?;
        match mount(kind, target, kind, flags, data) {
            // The kernel may have mounted it itself (DEVTMPFS_MOUNT).
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(errno) => return Err(Error::path("mount", Path::new(target))(errno)),
        }
    }
    delegate_controllers()?;
    raise_loopback()?;
    // Whatever memory the containers take, the agent is not what pays for it.
    fs::write("/proc/self/oom_score_adj", "-1000").map_err(Error::system(
        "protect the agent from the out-of-memory killer",
    ))
}

/// The initramfs is the kernel's own root, from which `pivot_root(2)` refuses to
/// leave. A mount of the same files above it is as good and can be left.
fn leave_rootfs() -> Result<()> {
    const ABOVE: &str = "/root";
    let leave = || -> std::io::Result<()> {
        fs::create_dir_all(ABOVE)?;
        mount_bind("/", ABOVE)?;
        std::env::set_current_dir(ABOVE)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        std::env::set_current_dir("/")
    };
    leave().map_err(Error::system("move the root away from the kernel's"))
}

/// Lets the container's cgroups have every controller that the kernel has.
fn delegate_controllers() -> Result<()> {
    let root = Path::new(CGROUPS);
    let failed = || Error::path("enable the controllers of", root);
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).map_err(failed())?;
    let enable: Vec<_> = controllers
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    fs::write(root.join("cgroup.subtree_control"), enable.join(" ")).map_err(failed())
}

fn raise_loopback() -> Result<()> {
    Interfaces::open()
        .and_then(|interfaces| interfaces.raise("lo"))
        .map_err(Error::system("start the loopback device"))
}

/// The guest's monotonic clock, nanoseconds.
pub fn monotonic_ns() -> i64 {
    nanoseconds(ClockId::Monotonic)
}

/// The guest's wall clock, nanoseconds since the epoch.
pub fn realtime_ns() -> i64 {
    nanoseconds(ClockId::Realtime)
}

fn nanoseconds(clock: ClockId) -> i64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Ends the machine. It has no power switch: the VMM is told to take a restart
/// for the end.
pub fn restart() -> ! {
    // File systems have been synced by whoever asks for an orderly end.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    // Only a process without the capability comes here.
    std::process::abort()
}
