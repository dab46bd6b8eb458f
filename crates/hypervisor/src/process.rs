//! Processes that belong to one machine.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::{Error, Result};

/// Lines of standard error that are kept for an error message.
const KEPT_LINES: usize = 8;

/// Bytes of one line of standard error.
const LINE_LIMIT: u64 = 1024;

/// Descriptors given to a child, and their numbers there.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(Vec<(OwnedFd, i32)>);

/// Below are the three standard streams.
const FIRST_FD: i32 = 3;

impl Descriptors {
    /// Adds one and returns its number in the child, the first one that is free.
    pub(crate) fn add(&mut self, fd: impl Into<OwnedFd>) -> i32 {
        let taken = |number: &i32| self.0.iter().any(|(_, taken)| taken == number);
        let number = (FIRST_FD..)
            .find(|number| !taken(number))
            .expect("a machine has a handful of descriptors");
        self.0.push((fd.into(), number));
        number
    }

    /// Adds one with a number that none of the others has.
    pub(crate) fn add_as(&mut self, number: i32, fd: impl Into<OwnedFd>) {
        self.0.push((fd.into(), number));
    }
}

/// A child that ends when it is dropped or when the thread that started it ends.
#[derive(Debug)]
pub(crate) struct Process {
    /// Name for messages.
    pub(crate) name: String,
    child: Child,
    stderr: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts a program. It inherits nothing but its arguments and `descriptors`.
    pub(crate) fn spawn(
        name: &str,
        program: &Path,
        arguments: Vec<OsString>,
        descriptors: Descriptors,
        network_namespace: Option<Arc<OwnedFd>>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let failed = |source| Error::Spawn {
            program: format!("{name} ({})", program.display()),
            source,
        };
        let mappings = descriptors
            .0
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(level) = std::env::var_os("RUST_LOG") {
            command.env("RUST_LOG", level);
        }
        // Its own process group: the terminal's signals are for the container.
        command.process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only a few system calls are made, and no
        // memory is allocated.
        unsafe {
            command.pre_exec(move || {
                if let Some(namespace) = &network_namespace {
                    let network = Some(LinkNameSpaceType::Network);
                    rustix::thread::move_into_link_name_space(namespace.as_fd(), network)?;
                }
                keep_to_ourselves()?;
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have ended before the signal was asked for.
                if rustix::process::getppid() != Some(parent) {
                    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL)?;
                }
                Ok(())
            });
        }
        command
            .fd_mappings(mappings)
            .expect("no two descriptors have one number");
        let mut child = command.spawn().map_err(failed)?;
        let stderr = Arc::default();
        let pipe = child
            .stderr
            .take()
            .expect("standard error was asked to be a pipe");
        let reader = tokio::spawn(keep(name.to_owned(), pipe, Arc::clone(&stderr)));
        Ok(Self {
            name: name.to_owned(),
            child,
            stderr,
            reader,
        })
    }

    /// Process id; `None` once its end has been seen.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end. Cancel safe.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        match self.child.wait().await {
            Ok(status) => status,
            // Somebody else has waited for our child: it has ended all the same.
            Err(error) => {
                tracing::warn!(process = self.name, %error, "the exit status is lost");
                ExitStatus::default()
            }
        }
    }

    /// Ends it and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        if let Some(pid) = self.id().and_then(|id| Pid::from_raw(id as i32)) {
            // It may have ended meanwhile; its number is ours until it is waited for.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        self.wait().await;
    }

    /// What happened to it, with its last words. Only after its end.
    pub(crate) async fn obituary(&mut self, status: ExitStatus) -> String {
        // Whoever holds the pipe has ended, hence so will the reader.
        drop((&mut self.reader).await);
        let lines = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let words = if lines.is_empty() {
            String::new()
        } else {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            format!(": {}", lines.join(" | "))
        };
        format!("{} ended with {status}{words}", self.name)
    }
}

/// Lets a program that is executed have no descriptor but those that it is given afterwards.
/// Whoever called this one may have left some open.
fn keep_to_ourselves() -> io::Result<()> {
    // SAFETY: no memory is touched, and no descriptor is closed yet.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_FD,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads standard error line by line and keeps the last ones.
async fn keep(name: String, pipe: ChildStderr, kept: Arc<Mutex<VecDeque<String>>>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut pipe)
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text: String = String::from_utf8_lossy(&line)
            .trim_end()
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        tracing::debug!(process = name, "{text}");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_obituary_has_the_last_words() {
        let script =
            "echo first >&2; for i in 1 2 3 4 5 6 7; do echo $i >&2; done; echo last >&2; exit 3";
        let mut process = Process::spawn(
            "sh",
            Path::new("/bin/sh"),
            vec!["-c".into(), script.into()],
            Descriptors::default(),
            None,
            &[],
        )
        .expect("started");
        let status = process.wait().await;
        assert_eq!(
            process.obituary(status).await,
            "sh ended with exit status: 3: 1 | 2 | 3 | 4 | 5 | 6 | 7 | last"
        );
    }

    #[tokio::test]
    async fn descriptors_arrive_under_their_numbers() {
        use std::io::{Read, Write};
        let (ours, mut theirs) = std::io::pipe().map(|(r, w)| (w, r)).expect("pipe");
        let (mut answer, out) = std::io::pipe().expect("pipe");
        let mut descriptors = Descriptors::default();
        let input = descriptors.add(theirs.try_clone().expect("duplicate"));
        let output = descriptors.add(out);
        let mut process = Process::spawn(
            "sh",
            Path::new("/bin/sh"),
            vec!["-c".into(), format!("cat <&{input} >&{output}").into()],
            descriptors,
            None,
            &[],
        )
        .expect("started");
        (&ours).write_all(b"through").expect("written");
        drop(ours);
        assert!(process.wait().await.success());
        let mut text = String::new();
        answer.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        assert_eq!(theirs.read(&mut [0]).expect("end"), 0);
    }

    #[tokio::test]
    async fn what_the_caller_left_open_is_not_passed_on() {
        let left = std::fs::File::open("/dev/null").expect("a file");
        rustix::io::fcntl_setfd(&left, rustix::io::FdFlags::empty()).expect("set");
        let number = std::os::fd::AsRawFd::as_raw_fd(&left);
        let mut process = Process::spawn(
            "sh",
            Path::new("/bin/sh"),
            vec![
                "-c".into(),
                format!("test ! -e /proc/self/fd/{number}").into(),
            ],
            Descriptors::default(),
            None,
            &[],
        )
        .expect("started");
        assert!(process.wait().await.success());
    }

    #[tokio::test]
    async fn killed_is_gone() {
        let mut process = Process::spawn(
            "sleep",
            Path::new("/bin/sleep"),
            vec!["1000".into()],
            Descriptors::default(),
            None,
            &[],
        )
        .expect("started");
        let pid = process.id().expect("runs");
        process.kill().await;
        assert_eq!(process.id(), None);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
