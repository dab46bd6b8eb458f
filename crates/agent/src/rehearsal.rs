//! What the kernel does once and keeps, done before a template is frozen instead of in
//! each fork.

use std::os::fd::BorrowedFd;

use rustix::process::WaitOptions;

use crate::child::{self, Namespaces};
use crate::error::{Error, Result};

/// Makes a child as a container's first process is made, in the cgroup of the first
/// container. The first process of the first pid namespace has the kernel make room for
/// their kind, and a cgroup's first process room in its lists.
pub fn make_child(cgroup: BorrowedFd<'_>) -> Result<()> {
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let child = child::spawn(
        Namespaces::New(namespaces as u64),
        Some(cgroup),
        // SAFETY: `_exit` has no preconditions.
        |_| unsafe { libc::_exit(0) },
    )?;
    rustix::process::waitpid(Some(child.pid), WaitOptions::empty())
        .map(drop)
        .map_err(Error::system("wait for the child of the rehearsal"))
}
