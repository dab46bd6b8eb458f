//! What the kernel tells of a process, or of a thread of it, as text (proc(5)).

use std::fs;

use crate::{Error, Result};

/// A file of a process, `PID/NAME`, or of a thread, `PID/task/NUMBER/NAME`.
pub(crate) fn read(name: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{name}")).map_err(Error::system("read the process's state"))
}

/// A number of the `status` of a process or of a thread.
pub(crate) fn status(of: &str, name: &str, radix: u32) -> Result<u64> {
    let text = read(&format!("{of}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| u64::from_str_radix(line.trim_start_matches(':').trim(), radix).ok())
        .ok_or_else(|| Error::Unsupported(format!("a state without {name}")))
}

/// Fields of `stat`, from the third on (proc_pid_stat(5)).
pub(crate) fn fields(stat: &str) -> Option<Vec<&str>> {
    // The name, in parentheses, may have spaces.
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.split_ascii_whitespace().collect())
}
