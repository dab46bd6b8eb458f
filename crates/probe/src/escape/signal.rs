//! A process of the host.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::line;

/// What a victim's second argument is.
const CANARY: &str = "canary";

/// The program as a victim: lives until somebody ends it, or for ten minutes.
pub fn canary() -> bool {
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
    let child = Command::new("/proc/self/exe")
        .args([CANARY, &own])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let Some(mut child) = line::outcome("start it", child) else {
        return;
    };
    // Between fork and exec it has our own arguments.
    let found = (0..500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        find(&own)
    });
    match found.map(end) {
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
