//! Namespaces that hold all that is made here, and take it with them however this ends.

use std::process::{Command, ExitCode};

use rustix::mount::MountFlags;

/// Set in the process that is inside.
const MARK: &str = "NETWORK_SPEED_ENCLOSED";

/// Where namespaces have names, sockets and scratch folders are; in memory, and empty.
const RUN: &str = "/run";

/// Where CNI plugins note the addresses that they have given.
const LEASES: &str = "/var/lib/cni";

/// Whether this process is the one inside.
pub fn is_inside() -> bool {
    if std::env::var_os(MARK).is_none() {
        return false;
    }
    for folder in [RUN, LEASES] {
        std::fs::create_dir_all(folder).expect("root");
        rustix::mount::mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None).expect("root");
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.is_ok_and(|status| status.success()), "no loopback");
    true
}

/// Does everything in namespaces of its own. Processes, mounts and networks are gone when
/// the first process of the PID namespace is, which is killed with this one.
pub fn enter() -> ExitCode {
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--fork", "--pid", "--kill-child", "--mount-proc"])
        .args(["--mount", "--net", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .env("TMPDIR", RUN)
        .status()
        .expect("setpriv and unshare of util-linux");
    match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
