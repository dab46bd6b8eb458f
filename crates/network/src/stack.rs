//! The process of a user-mode network, from when it is needed to its end.
//!
//! It is spawned once, by whoever finds first that it is needed. A thread beside it takes note of
//! what it complains of and of its end, so that nobody else has to wait for either.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags};
use tokio::sync::watch;

use crate::{Error, Result};

/// Number that the connection to the relay has in the process.
pub(crate) const CONNECTION: i32 = 3;

/// Number of the pipe to which the process writes its own number when it is ready.
pub(crate) const STARTED: i32 = 4;

/// Name of the process, for whoever looks and for messages.
const NAME: &str = "passt";

/// How long the process may take to start.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Most of its complaints that are kept: the last.
const COMPLAINT_LIMIT: usize = 4096;

/// How it is with a network that a process carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing was sent yet that needs the process.
    Idle,
    /// The process is there, and frames wait for it.
    Starting,
    /// Frames go through.
    Running,
    /// It has ended by itself, for the reason given. It does not come back.
    Ended(String),
}

/// What it takes to start the process.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// The process's end of a connection to the relay.
    pub(crate) connection: OwnedFd,
}

/// The process, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Stack {
    state: Mutex<State>,
    condition: watch::Sender<Condition>,
}

#[derive(Debug)]
enum State {
    Idle(Launch),
    Running(Child),
    /// It has ended, or was ended, or never came to be.
    Over,
}

impl Stack {
    pub(crate) fn new(launch: Launch) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Idle(launch)),
            condition: watch::Sender::new(Condition::Idle),
        })
    }

    /// Starts the process, unless somebody has, or has ended it for good.
    pub(crate) fn start(self: &Arc<Self>) -> Result<()> {
        // Held meanwhile: whoever ends it finds either nothing begun or all of it.
        let mut state = self.state();
        match mem::replace(&mut *state, State::Over) {
            State::Idle(launch) => match self.spawn(launch) {
                Ok(process) => *state = State::Running(process),
                Err(error) => {
                    let reason = Condition::Ended(error.to_string());
                    self.condition.send_replace(reason);
                    return Err(error);
                }
            },
            other => *state = other,
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, launch: Launch) -> Result<Child> {
        let (mut process, started) = launch.spawn()?;
        self.condition.send_replace(Condition::Starting);
        let watched = Watcher::new(self, &mut process, started).and_then(Watcher::start);
        if let Err(error) = watched {
            let _ = process.kill();
            let _ = process.wait();
            return Err(error);
        }
        Ok(process)
    }

    /// Waits until frames go through, as soon as there are any.
    pub(crate) async fn ready(&self) -> Result<()> {
        let mut condition = self.condition.subscribe();
        let reached = condition.wait_for(|now| *now != Condition::Starting);
        match reached.await.as_deref() {
            Ok(Condition::Ended(reason)) => Err(Error::Program {
                program: NAME.to_owned(),
                message: reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// The process's number, while it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        match &*self.state() {
            State::Running(process) => Some(process.id()),
            State::Idle(_) | State::Over => None,
        }
    }

    /// Ends the process, and sees to it that none is started any more.
    pub(crate) fn end(&self) {
        let before = mem::replace(&mut *self.state(), State::Over);
        if let State::Running(mut process) = before {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The process has ended by itself, or should have. Nothing is said of one that was ended.
    fn lost(&self, mut reason: String) {
        let mut state = self.state();
        let State::Running(mut process) = mem::replace(&mut *state, State::Over) else {
            return;
        };
        let _ = process.kill();
        if let (true, Ok(status)) = (reason.is_empty(), process.wait()) {
            reason = status.to_string();
        }
        self.condition.send_replace(Condition::Ended(reason));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launch {
    /// Starts the process. It closes the returned pipe when it is ready, having written
    /// its number before.
    fn spawn(self) -> Result<(Child, PipeReader)> {
        let (started, writer) = io::pipe().map_err(Error::host("make a pipe"))?;
        // Started by root, it has become somebody else by the time that it opens this.
        rustix::fs::fchmod(&writer, Mode::from_raw_mode(0o622))
            .map_err(Error::host("open a pipe to others"))?;
        let mut command = Command::new(&self.program);
        command
            .arg0(NAME)
            .args(&self.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // The terminal's signals are for the container.
            .process_group(0)
            .fd_mappings(vec![
                FdMapping {
                    parent_fd: self.connection,
                    child_fd: CONNECTION,
                },
                FdMapping {
                    parent_fd: writer.into(),
                    child_fd: STARTED,
                },
            ])
            .map_err(|error| Error::Host {
                doing: "hand over descriptors".to_owned(),
                source: io::Error::other(error),
            })?;
        let process = command.spawn().map_err(|source| Error::Spawn {
            program: self.program,
            source,
        })?;
        Ok((process, started))
    }
}

/// What is to be known of a process from beside it.
struct Watcher {
    stack: Arc<Stack>,
    process: OwnedFd,
    /// Until it is ready.
    started: Option<PipeReader>,
    /// Until it is closed.
    complaints: Option<ChildStderr>,
}

impl Watcher {
    fn new(stack: &Arc<Stack>, process: &mut Child, started: PipeReader) -> Result<Self> {
        let pid = Pid::from_child(process);
        Ok(Self {
            stack: Arc::clone(stack),
            process: rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .map_err(Error::host("watch passt"))?,
            started: Some(started),
            complaints: process.stderr.take(),
        })
    }

    fn start(self) -> Result<()> {
        std::thread::Builder::new()
            .name(NAME.to_owned())
            .stack_size(128 << 10)
            .spawn(move || self.watch())
            .map(drop)
            .map_err(Error::host("watch passt"))
    }

    fn watch(mut self) {
        let reason = self.last_words();
        self.stack
            .lost(reason.unwrap_or_else(|error| error.to_string()));
    }

    /// Tells when it is ready, and waits for its end. What was written before is read in full;
    /// others may have the pipe open longer.
    fn last_words(&mut self) -> io::Result<String> {
        let deadline = Instant::now() + START_DEADLINE;
        let mut text = Vec::new();
        loop {
            let news = self.news(deadline)?;
            if let (true, Some(pipe)) = (news.complains, &mut self.complaints) {
                let mut part = [0; 1024];
                match pipe.read(&mut part)? {
                    0 => self.complaints = None,
                    length => text.extend_from_slice(&part[..length]),
                }
                text.drain(..text.len().saturating_sub(COMPLAINT_LIMIT));
            } else if news.ended {
                return Ok(complaint(&text));
            }
            if let Some(mut pipe) = self.started.take_if(|_| news.started)
                && pipe.read(&mut [0; 16])? > 0
            {
                self.stack.condition.send_replace(Condition::Running);
            }
        }
    }

    /// Waits for something to happen; for the start, until the deadline only.
    fn news(&self, deadline: Instant) -> io::Result<News> {
        let process = self.process.as_fd();
        let started = self.started.as_ref().map(AsFd::as_fd);
        let complaints = self.complaints.as_ref().map(AsFd::as_fd);
        let mut polled = [
            PollFd::from_borrowed_fd(process, PollFlags::IN),
            readable(started, process),
            readable(complaints, process),
        ];
        let answered = retry_on_intr(|| {
            let left = started.map(|_| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            });
            rustix::event::poll(&mut polled, left.as_ref())
        })?;
        if answered == 0 {
            let message = format!("it was not ready after {} s", START_DEADLINE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let [ended, started, complains] = polled.map(|polled| !polled.revents().is_empty());
        Ok(News {
            ended,
            started,
            complains,
        })
    }
}

/// Something to be read in a pipe; for one that is closed, nothing at all of another descriptor.
fn readable<'a>(pipe: Option<BorrowedFd<'a>>, other: BorrowedFd<'a>) -> PollFd<'a> {
    match pipe {
        Some(pipe) => PollFd::from_borrowed_fd(pipe, PollFlags::IN),
        None => PollFd::from_borrowed_fd(other, PollFlags::empty()),
    }
}

/// What has happened to a process.
struct News {
    ended: bool,
    /// It is ready, or will never be.
    started: bool,
    /// It has written something, or will never write again.
    complains: bool,
}

/// What it has complained of, on one line. A guest may have had it say anything.
fn complaint(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<String> = text
        .lines()
        // About its log, and about being started by root.
        .filter(|line| !line.ends_with("to syslog") && !line.starts_with("Don't run as root"))
        .map(|line| line.chars().filter(|c| !c.is_control()).collect())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;

    /// A process that runs a script of the shell, and the other end of its connection.
    fn stack(script: &str) -> (Arc<Stack>, UnixStream) {
        started_by("/bin/sh", script)
    }

    fn started_by(program: &str, script: &str) -> (Arc<Stack>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let launch = Launch {
            program: program.into(),
            arguments: vec!["-c".into(), script.into()],
            connection: theirs.into(),
        };
        (Stack::new(launch), ours)
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await })
            .expect("in time")
    }

    fn reached(stack: &Stack, wanted: impl FnMut(&Condition) -> bool) -> Condition {
        wait(stack.condition().wait_for(wanted))
            .expect("it is there")
            .clone()
    }

    #[test]
    fn it_is_ready_when_it_says_so_and_ends_when_told() {
        let (stack, _connection) = stack("echo $$ >&4; exec 4>&-; exec sleep 1000");
        assert_eq!(stack.process(), None);
        wait(stack.ready()).expect("nothing to wait for");
        stack.start().expect("started");
        stack.start().expect("it has been");
        wait(stack.ready()).expect("ready");
        let process = stack.process().expect("it runs");
        let alive = format!("/proc/{process}");
        assert!(Path::new(&alive).exists());
        stack.end();
        assert!(!Path::new(&alive).exists());
        assert_eq!(stack.process(), None);
        // It was ended, not lost, and does not come back.
        stack.start().expect("nothing to do");
        assert_eq!(stack.process(), None);
        assert_eq!(*stack.condition().borrow(), Condition::Running);
    }

    #[test]
    fn what_is_ended_before_it_was_needed_is_never_started() {
        let (stack, mut connection) = stack("exec sleep 1000");
        stack.end();
        stack.start().expect("nothing to do");
        assert_eq!(stack.process(), None);
        assert_eq!(connection.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn the_reason_of_an_end_is_what_it_has_said() {
        let script = "echo \"Don't run as root\" >&2; printf 'no \\033[1mpower\\n' >&2\n\
            echo at all >&2; exit 3";
        let (failing, _connection) = stack(script);
        failing.start().expect("started");
        let error = wait(failing.ready()).expect_err("it has ended");
        assert_eq!(error.to_string(), "passt failed: no [1mpower; at all");
        assert_eq!(failing.process(), None);

        // Silent, with somebody left who has its pipe.
        let script = "echo $$ >&4; exec 4>&-; sleep 1000 & echo $! >&3; read line <&3; exit 3";
        let (silent, mut connection) = stack(script);
        silent.start().expect("started");
        reached(&silent, |now| *now == Condition::Running);
        let mut sleeper = [0; 16];
        let length = connection.read(&mut sleeper).expect("a number");
        io::Write::write_all(&mut connection, b"end\n").expect("written");
        let end = reached(&silent, |now| matches!(now, Condition::Ended(_)));
        assert_eq!(end, Condition::Ended("exit status: 3".to_owned()));
        let number = std::str::from_utf8(&sleeper[..length]).expect("a number");
        let sleeper = Pid::from_raw(number.trim().parse().expect("a number")).expect("a number");
        rustix::process::kill_process(sleeper, rustix::process::Signal::KILL).expect("ended");
    }

    #[test]
    fn only_the_last_complaints_are_kept() {
        let script = "head -c 200000 /dev/zero | tr '\\0' x >&2; echo last >&2";
        let (stack, _connection) = stack(script);
        stack.start().expect("started");
        let Condition::Ended(reason) = reached(&stack, |now| matches!(now, Condition::Ended(_)))
        else {
            panic!("it has ended");
        };
        assert!(reason.ends_with("xlast"), "{reason}");
        assert!(reason.len() < COMPLAINT_LIMIT);
    }

    #[test]
    fn what_cannot_be_started_is_lost() {
        let (stack, mut connection) = started_by("/nowhere/passt", "");
        let error = stack.start().expect_err("there is none").to_string();
        assert!(
            error.starts_with("cannot start /nowhere/passt: "),
            "{error}"
        );
        assert_eq!(*stack.condition().borrow(), Condition::Ended(error));
        assert_eq!(connection.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn an_end_leaves_nothing_however_the_start_is_under_way() {
        for _ in 0..50 {
            let (stack, mut connection) = stack("exec sleep 1000");
            let starting = Arc::clone(&stack);
            let starter = std::thread::spawn(move || starting.start());
            stack.end();
            starter.join().expect("no panic").expect("started or not");
            assert_eq!(stack.process(), None);
            // Nobody has the other end any more.
            assert_eq!(connection.read(&mut [0]).expect("the end"), 0);
            assert!(!matches!(*stack.condition().borrow(), Condition::Ended(_)));
        }
    }
}
