//! `clone3(2)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// Who we are after the call.
pub(super) enum Cloned {
    /// The caller.
    Parent { pid: Pid, pidfd: OwnedFd },
    /// The new process.
    Child,
}

/// Makes a process with a copy of our memory, in new namespaces and in a cgroup.
///
/// # Safety
/// As for `fork(2)`: the caller has one thread, and the child ends without
/// returning to what its copy of the memory thinks is running.
pub(super) unsafe fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let mut flags = namespaces | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let arguments = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
    };
    // SAFETY: the structure is complete and outlives the call; without a stack the
    // child continues on a copy of ours, as with fork(2), whose conditions are our
    // caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: Pid::from_raw(pid as i32).expect("a child's number is not 0"),
            // SAFETY: CLONE_PIDFD has stored a new descriptor, which nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// From linux/sched.h; the libc crate's constant does not fit its own type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
