//! Children of the agent on their way to become a container's process.

mod capability;
mod clone;
mod copy;
mod init;
mod lookup;
mod program;
mod renewal;
mod report;
mod seccomp;
mod terminal;
mod user;
mod view;

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

pub use copy::{CopyIn, CopyOut};
pub use program::{Program, StandardStreams, nothing};
pub use renewal::{HOOK, Renewal};
pub use report::{Report, Reporter, Reports};
pub use terminal::Size as TerminalSize;
pub use view::{PremadeMounts, View};

use crate::error::{Error, Result};

/// A child and the connection over which it reports.
#[derive(Debug)]
pub struct Child {
    /// As the agent sees it.
    pub pid: Pid,
    /// For its namespaces and for signals.
    pub pidfd: OwnedFd,
    /// What it says before it becomes its program.
    pub reports: Reports,
}

/// The namespaces of a child.
#[derive(Debug, Clone, Copy)]
pub enum Namespaces<'a> {
    /// These (`CLONE_NEW*`) are new, the others are the agent's.
    New(u64),
    /// Those of this process (a pidfd). The child is in its pid namespace from the
    /// beginning and enters the others by [`join`].
    Of(BorrowedFd<'a>),
}

/// Makes a child in these namespaces and in a cgroup. It runs `work`, which ends in
/// `execve` or in an error that is reported, and never returns here.
pub fn spawn(
    namespaces: Namespaces<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    work: impl FnOnce(&Reporter) -> Result<Infallible>,
) -> Result<Child> {
    // Our copy of its end of the connection is closed: only then does the child's close it.
    start(namespaces, 0, cgroup, work).map(|(child, _)| child)
}

/// As [`spawn`], with one table of descriptors for both processes: it can be told of one that
/// is opened later. Its end of the connection has to stay open until it has a table of its
/// own.
pub fn spawn_sharing(
    namespaces: Namespaces<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    work: impl FnOnce(&Reporter) -> Result<Infallible>,
) -> Result<(Child, Reporter)> {
    start(namespaces, libc::CLONE_FILES as u64, cgroup, work)
}

fn start(
    namespaces: Namespaces<'_>,
    shared: u64,
    cgroup: Option<BorrowedFd<'_>>,
    work: impl FnOnce(&Reporter) -> Result<Infallible>,
) -> Result<(Child, Reporter)> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::system("make a socket pair"))?;
    let reporter = Reporter::new(theirs);
    let reports = Reports::new(ours)?;
    let (flags, entered) = match namespaces {
        Namespaces::New(flags) => (flags, None),
        Namespaces::Of(process) => (0, Some(ChildrenIn::enter(process)?)),
    };
    // SAFETY: the agent has one thread (its event loop has no other, and nothing
    // in it asks for blocking tasks), so no lock is held by a thread that is missing
    // in the child; and the child leaves by `execve` or `_exit`, so that nothing of
    // the agent's is run or dropped twice. Of a table of descriptors that they share, it
    // closes none that it has not opened itself.
    let cloned = unsafe { clone::clone(flags | shared, cgroup) };
    match cloned.map_err(Error::system("make a process"))? {
        clone::Cloned::Parent { pid, pidfd } => {
            drop(entered);
            let child = Child {
                pid,
                pidfd,
                reports,
            };
            Ok((child, reporter))
        }
        clone::Cloned::Child => {
            let Err(error) = work(&reporter);
            reporter.failed(&error);
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(255) }
        }
    }
}

/// Enters the mount, IPC, UTS and cgroup namespaces of a process: the child's root
/// is the root of the container from here on.
pub fn join(process: BorrowedFd<'_>) -> Result<()> {
    rustix::thread::move_into_thread_name_spaces(
        process,
        ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP,
    )
    .map_err(Error::system("enter the container's namespaces"))
}

/// While it lives, the agent's children are born into another pid namespace.
#[derive(Debug)]
struct ChildrenIn {
    own: File,
}

impl ChildrenIn {
    fn enter(process: BorrowedFd<'_>) -> Result<Self> {
        let own = File::open("/proc/self/ns/pid")
            .map_err(Error::system("open the agent's pid namespace"))?;
        rustix::thread::move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)
            .map_err(Error::system("enter the container's pid namespace"))?;
        Ok(Self { own })
    }
}

impl Drop for ChildrenIn {
    fn drop(&mut self) {
        // An agent whose next container would be born into this one must not go on.
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&self.own),
            Some(LinkNameSpaceType::ProcessID),
        )
        .expect("an open pid namespace above can be returned to");
    }
}

/// Path by which a descriptor can be named in a system call that takes paths. It
/// needs the agent's `/proc`.
fn descriptor_path(descriptor: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}
