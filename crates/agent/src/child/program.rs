//! From a child in the container's files to the container's program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use caisson_protocol::agent::{ProcessDescription, ProcessLimit};
use rustix::fs::Mode;
use rustix::process::{Gid, Uid};

use super::capability::Sets;
use super::seccomp::Filter;
use super::terminal::{self, Size};
use super::user::{Files, Identity};
use super::{Reporter, init, lookup};
use crate::error::{Error, Result};

/// What a process is to become.
#[derive(Debug)]
pub struct Program<'a> {
    process: &'a ProcessDescription,
    filter: Filter,
    streams: StandardStreams,
    /// It is the first of its container.
    first: bool,
    /// It runs under an init of ours.
    under_init: bool,
}

/// Where the standard streams of a process lead.
#[derive(Debug)]
pub enum StandardStreams {
    /// To these, in the order of their numbers.
    Descriptors([OwnedFd; 3]),
    /// To a terminal of this size, which the process makes for itself.
    Terminal(Size),
}

impl<'a> Program<'a> {
    /// `filter` is a ready-made system call filter, `struct sock_filter[]`.
    pub fn new(
        process: &'a ProcessDescription,
        filter: &[u8],
        streams: StandardStreams,
    ) -> Result<Self> {
        Ok(Self {
            process,
            filter: Filter::new(filter)?,
            streams,
            first: false,
            under_init: false,
        })
    }

    /// Makes it the first process of its container, maybe under an init of ours.
    pub fn first(mut self, under_init: bool) -> Self {
        self.first = true;
        self.under_init = under_init;
        self
    }

    /// What needs the agent's `/proc`, before this process leaves the agent's files.
    pub fn leave_agent(&self) -> Result<()> {
        // The agent's own is the lowest: nothing else may be spared like it.
        let adjustment = self.process.oom_score_adjustment;
        std::fs::write("/proc/self/oom_score_adj", adjustment.to_string())
            .map_err(Error::system("set the out-of-memory score"))?;
        rustix::process::setsid().map_err(Error::system("begin a session"))?;
        Ok(())
    }

    /// Becomes the program, once the agent says so.
    ///
    /// # Errors
    /// Whatever keeps it from being executed; it is reported to the agent.
    pub fn execute(&self, reporter: &Reporter) -> Result<Infallible> {
        let identity = self.identity()?;
        let master = self.connect(&identity)?;
        self.set_limits()?;
        rustix::process::umask(Mode::from_raw_mode(self.process.user.umask & 0o777));
        let folder = Path::new(&self.process.working_folder);
        let moved = rustix::process::chdir(folder);

        let capabilities = Sets::new(&self.process.capabilities);
        capabilities.drop_bounding()?;
        Sets::keep_over_setuid()?;
        change_user(&identity)?;
        capabilities.apply_with_filter_rights()?;
        // A folder that root may not enter may still be the user's.
        if moved.is_err() {
            rustix::process::chdir(folder)
                .map_err(Error::path("enter the working folder", folder))?;
        }
        let command = Command::new(self.process, &identity)?;

        reporter.ready(master)?;

        close_on_exec()?;
        reset_signals();
        if self.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true)
                .map_err(Error::system("give up new privileges"))?;
        }
        self.filter.install()?;
        capabilities.apply()?;
        if self.under_init {
            let terminal = matches!(self.streams, StandardStreams::Terminal(_));
            init::fork_under_init(terminal)?;
        }
        command.execute()
    }

    fn identity(&self) -> Result<Identity> {
        let user = &self.process.user;
        let files = Files::read()?;
        let mut identity = if user.name.is_empty() {
            Identity {
                gid: user.gid,
                ..files.by_number(user.uid)
            }
        } else {
            files.resolve(&user.name)?
        };
        identity.groups.extend(&user.additional_gids);
        Ok(identity)
    }

    /// Connects the standard streams. Returns the master side of a new terminal.
    fn connect(&self, identity: &Identity) -> Result<Option<OwnedFd>> {
        let failed = || Error::system("connect the standard streams");
        let own = |stream: &OwnedFd| {
            // The program may open them anew by name (/dev/stdout), as its user.
            rustix::fs::fchown(stream, Some(Uid::from_raw(identity.uid)), None)
        };
        match &self.streams {
            StandardStreams::Descriptors(streams) => {
                for stream in streams {
                    // Not the null device, which is everybody's.
                    let mode = rustix::fs::fstat(stream).map_err(failed())?.st_mode;
                    if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Fifo {
                        own(stream).map_err(failed())?;
                    }
                }
                let [stdin, stdout, stderr] = streams;
                rustix::stdio::dup2_stdin(stdin)
                    .and_then(|()| rustix::stdio::dup2_stdout(stdout))
                    .and_then(|()| rustix::stdio::dup2_stderr(stderr))
                    .map_err(failed())?;
                Ok(None)
            }
            StandardStreams::Terminal(size) => {
                let (master, slave) = terminal::open(*size)?;
                own(&slave).map_err(failed())?;
                rustix::stdio::dup2_stdin(&slave)
                    .and_then(|()| rustix::stdio::dup2_stdout(&slave))
                    .and_then(|()| rustix::stdio::dup2_stderr(&slave))
                    .map_err(failed())?;
                if self.first {
                    terminal::place_at_console(&master)?;
                }
                Ok(Some(master))
            }
        }
    }

    fn set_limits(&self) -> Result<()> {
        for limit in &self.process.limits {
            let name = limit_name(limit)?;
            let values = libc::rlimit64 {
                rlim_cur: limit.soft,
                rlim_max: limit.hard,
            };
            // SAFETY: the structure outlives the call, which only reads it.
            if unsafe { libc::setrlimit64(limit.resource, &raw const values) } < 0 {
                return Err(Error::system(format!("set the limit RLIMIT_{name}"))(
                    std::io::Error::last_os_error(),
                ));
            }
        }
        Ok(())
    }
}

/// In the order of their numbers (asm-generic/resource.h).
const LIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// What users know a limit by.
fn limit_name(limit: &ProcessLimit) -> Result<&'static str> {
    let name = LIMITS.get(limit.resource as usize).copied();
    name.ok_or_else(|| Error::Invalid(format!("{} is no limit of a process", limit.resource)))
}

fn change_user(identity: &Identity) -> Result<()> {
    let failed = || Error::system("change to the program's user");
    let groups: Vec<_> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::thread::set_thread_groups(&groups).map_err(failed())?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed())
}

/// Whatever the agent has open closes with `execve`, should one have been made
/// without saying so itself.
fn close_on_exec() -> Result<()> {
    // SAFETY: marks descriptors; none is closed or reused here.
    let marked = unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        )
    };
    if marked < 0 {
        return Err(Error::system("keep the agent's descriptors")(
            std::io::Error::last_os_error(),
        ));
    }
    Ok(())
}

/// Rust programs ignore SIGPIPE; others do not expect to.
fn reset_signals() {
    // SAFETY: the default disposition of SIGPIPE, and an empty mask in a zeroed set,
    // which `sigemptyset` fills before it is used.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// A program with its arguments and environment, ready for `execve`.
#[derive(Debug)]
struct Command {
    path: PathBuf,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    /// Finds the program, as the user who is to run it.
    fn new(process: &ProcessDescription, identity: &Identity) -> Result<Self> {
        let arguments = &process.arguments;
        let mut environment = process.environment.clone();
        if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
            let home = identity.home.as_deref().unwrap_or("/");
            environment.push(format!("HOME={home}"));
        }
        let search = environment
            .iter()
            .find_map(|entry| entry.strip_prefix("PATH="));
        let name = arguments.first().map_or("", String::as_str);
        Ok(Self {
            path: lookup::find(name, search)?,
            arguments: strings(arguments)?,
            environment: strings(&environment)?,
        })
    }

    fn execute(&self) -> Result<Infallible> {
        let path = CString::new(self.path.as_os_str().as_bytes())
            .map_err(|_| Error::Invalid("a path has a NUL byte".to_owned()))?;
        let arguments = pointers(&self.arguments);
        let environment = pointers(&self.environment);
        // SAFETY: both lists hold pointers to strings that live in `self` and end with
        // a null pointer.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        let error = std::io::Error::last_os_error();
        let name = self
            .arguments
            .first()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Err(lookup::refused(&name, &error))
    }
}

fn strings(texts: &[String]) -> Result<Vec<CString>> {
    texts
        .iter()
        .map(|text| CString::new(text.as_str()))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::Invalid("an argument or variable has a NUL byte".to_owned()))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// `/dev/null`, for a stream that is not wanted.
pub fn nothing() -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .map(|file| file.as_fd().try_clone_to_owned())
        .and_then(|cloned| cloned)
        .map_err(Error::path("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_names() {
        let named = |resource| {
            limit_name(&ProcessLimit {
                resource,
                ..Default::default()
            })
        };
        assert_eq!(named(libc::RLIMIT_NOFILE).expect("a limit"), "NOFILE");
        assert_eq!(named(libc::RLIMIT_RTTIME).expect("a limit"), "RTTIME");
        assert!(named(16).is_err());
    }
}
