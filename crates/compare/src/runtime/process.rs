//! A command that is run to its end: with a deadline, an exact time and bounded output.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::engine::Invocation;
use super::interrupt::Interrupt;
use crate::error::{At, Error, Result};

/// Output beyond this is dropped: it comes from a container.
const MOST_OUTPUT: usize = 1 << 20;

/// How often a command that runs is looked at for a reason to end it.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long output is waited for after a command's end. Something that it left behind may hold
/// the other side for ever.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this code.
    Exited(i32),
    /// By this signal, and not one of ours.
    Signalled(i32),
    /// It was killed after this time.
    TimedOut(Duration),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut(time) => write!(f, "did not end within {} s", time.as_secs()),
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote, up to a bound.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, up to a bound.
    pub stderr: Vec<u8>,
    /// From its start to its end.
    pub wall: Duration,
    /// The command as a user can type it.
    pub command: String,
}

impl Outcome {
    /// Whether it ended by itself, with 0.
    pub fn success(&self) -> bool {
        self.ending == Ending::Exited(0)
    }

    /// Standard output as text, without the last line's end.
    pub fn text(&self) -> String {
        text(&self.stdout)
    }

    /// Standard error as text, without the last line's end.
    pub fn error_text(&self) -> String {
        text(&self.stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Runs a command of the comparison itself, which nobody else types.
pub fn output(command: Command, deadline: Duration, interrupt: &Interrupt) -> Result<Outcome> {
    let shown = format!("{command:?}");
    run(Invocation { command, shown }, b"", deadline, interrupt)
}

/// Runs a command to its end or its deadline.
pub fn run(
    invocation: Invocation,
    input: &[u8],
    deadline: Duration,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let Invocation { mut command, shown } = invocation;
    if interrupt.is_set() {
        return Err(Error::Interrupted);
    }
    command
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C of the terminal reaches us alone; we end the command and then clean up.
        .process_group(0);
    let begin = Instant::now();
    let mut child = spawn(&mut command)?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // It may end without reading all of it.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let stdout = Collector::start(child.stdout.take());
    let stderr = Collector::start(child.stderr.take());
    let waited = wait(&mut child, begin, deadline, interrupt);
    let wall = begin.elapsed();
    let (stdout, stderr) = (stdout.finish(), stderr.finish());
    let ending = match waited? {
        Some(status) => ending(status),
        None => Ending::TimedOut(deadline),
    };
    Ok(Outcome {
        ending,
        stdout,
        stderr,
        wall,
        command: shown,
    })
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, signal) => Ending::Signalled(signal.unwrap_or_default()),
    }
}

/// Runs a command that leaves a container in the background, which may keep our side of its
/// streams open for ever: they are files.
pub fn run_detached(
    invocation: Invocation,
    deadline: Duration,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let Invocation { mut command, shown } = invocation;
    if interrupt.is_set() {
        return Err(Error::Interrupted);
    }
    let file = || tempfile::tempfile().at(std::env::temp_dir());
    let (mut stdout, mut stderr) = (file()?, file()?);
    let copy = |file: &File| file.try_clone().at(std::env::temp_dir());
    command
        .stdin(Stdio::null())
        .stdout(copy(&stdout)?)
        .stderr(copy(&stderr)?)
        .process_group(0);
    let begin = Instant::now();
    let mut child = spawn(&mut command)?;
    let status = wait(&mut child, begin, deadline, interrupt)?;
    let wall = begin.elapsed();
    let read = |file: &mut File| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.rewind().at(std::env::temp_dir())?;
        file.take(MOST_OUTPUT as u64)
            .read_to_end(&mut bytes)
            .at(std::env::temp_dir())?;
        Ok(bytes)
    };
    Ok(Outcome {
        ending: status.map_or(Ending::TimedOut(deadline), ending),
        stdout: read(&mut stdout)?,
        stderr: read(&mut stderr)?,
        wall,
        command: shown,
    })
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|source| Error::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })
}

/// Waits for a child; kills it and everything in its process group when its time is over.
fn wait(
    child: &mut Child,
    begin: Instant,
    deadline: Duration,
    interrupt: &Interrupt,
) -> Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let failed = |source: std::io::Error| Error::Wait { source };
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    loop {
        let left = deadline.saturating_sub(begin.elapsed());
        if left.is_zero() || interrupt.is_set() {
            // The child has not been waited for: its number cannot be another's.
            let _ = kill_process_group(pid, Signal::KILL);
            child.wait().map_err(failed)?;
            return if interrupt.is_set() {
                Err(Error::Interrupted)
            } else {
                Ok(None)
            };
        }
        let timeout = Timespec::try_from(left.min(INTERVAL)).ok();
        let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return child.wait().map(Some).map_err(failed),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Reads a pipe in a thread of its own.
struct Collector(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<Collected>,
    changed: Condvar,
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collector {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            if let Some(mut pipe) = pipe {
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    let mut state = theirs.state.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = MOST_OUTPUT - state.bytes.len();
                    state.bytes.extend_from_slice(&buffer[..count.min(room)]);
                }
            }
            let mut state = theirs.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.ended = true;
            theirs.changed.notify_all();
        });
        Self(shared)
    }

    fn finish(self) -> Vec<u8> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .0
            .changed
            .wait_timeout_while(state, LAST_OUTPUT, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &[u8], deadline: Duration) -> Result<Outcome> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let shown = script.to_owned();
        run(
            Invocation { command, shown },
            input,
            deadline,
            &Interrupt::default(),
        )
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn status_and_streams_are_kept_apart() {
        let outcome = shell("cat; echo err >&2; exit 3", b"in", LONG).expect("run");
        assert_eq!(outcome.ending, Ending::Exited(3));
        assert_eq!(
            (outcome.text(), outcome.error_text()),
            ("in".into(), "err".into())
        );
        let killed = shell("kill -9 $$", b"", LONG).expect("run");
        assert_eq!(killed.ending, Ending::Signalled(9));
    }

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let mut deadline = Duration::from_millis(200);
        let second = loop {
            let script = "sleep 1000 & echo $!; sleep 1000";
            let outcome = shell(script, b"", deadline).expect("run");
            assert_eq!(outcome.ending, Ending::TimedOut(deadline));
            // A busy machine may not have got that far.
            match outcome.text().parse::<u32>() {
                Ok(pid) => break pid,
                Err(_) => deadline *= 2,
            }
        };
        let begin = Instant::now();
        while runs(second) {
            assert!(begin.elapsed() < LONG, "process {second} runs on");
            std::thread::yield_now();
        }
    }

    /// A zombie has ended.
    fn runs(pid: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn output_has_a_bound() {
        let outcome = shell("head -c 3000000 /dev/zero", b"", LONG).expect("run");
        assert_eq!(outcome.stdout.len(), MOST_OUTPUT);
    }

    #[test]
    fn an_interrupt_is_an_error() {
        let interrupt = Interrupt::default();
        interrupt.set();
        let outcome = output(Command::new("true"), LONG, &interrupt);
        assert!(matches!(outcome, Err(Error::Interrupted)));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let outcome = output(Command::new("no-such-program"), LONG, &Interrupt::default());
        assert!(
            matches!(outcome, Err(Error::Spawn { program, .. }) if program == "no-such-program")
        );
    }
}
