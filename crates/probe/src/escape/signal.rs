//! A process of the host.

use std::fs;
use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::line;

/// What a victim's second argument is.
const CANARY: &str = "canary";

/// The program as a victim: says that it is there, and lives until somebody ends it, or for ten
/// minutes. To have been started is not enough for being found: the kernel tells a parent that its
/// child has executed a program before that has its arguments.
pub fn canary() -> bool {
    line::done(CANARY);
    std::thread::sleep(Duration::from_secs(600));
    true
}

/// Looks for the canary with this token among all processes, and ends it; then does the same to
/// one of its own.
pub fn attack(token: &str) {
    line::attempt("find the canary and end it");
    match find(token) {
        None => line::refused(
            "find the canary",
            format_args!("it is not among {} processes", processes().count()),
        ),
        Some(pid) => {
            line::outcome(format_args!("end process {pid}"), end(pid));
        }
    }
    prove();
}

fn prove() {
    let own = format!("own-{}", std::process::id());
    line::attempt("find and end a canary of this container");
    let Some(mut child) = line::outcome("start it", start(&own)) else {
        return;
    };
    match find(&own).map(end) {
        Some(Ok(())) if child.wait().is_ok_and(|status| !status.success()) => {
            line::inside("a canary of this container was found and ended");
        }
        Some(result) => line::refused("end it", format_args!("{result:?}")),
        None => {
            line::refused("find it", "it is not among the processes");
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a canary, and waits for its word.
fn start(token: &str) -> io::Result<Child> {
    let mut child = Command::new("/proc/self/exe")
        .args([CANARY, token])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(said) = child.stdout.as_mut() {
        said.read_exact(&mut [0])?;
    }
    Ok(child)
}

fn end(pid: i32) -> rustix::io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?;
    kill_process(pid, Signal::KILL)
}

/// Only a process that is started as a canary is ever meant: commands of the comparison have the
/// token among their arguments as well.
fn find(token: &str) -> Option<i32> {
    processes().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        matches!(words.as_slice(), [_, second, third, ..]
            if *second == CANARY.as_bytes() && *third == token.as_bytes())
    })
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
