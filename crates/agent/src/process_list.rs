//! Processes as `caisson stats` and an engine's `top` show them.

use std::fs;

use caisson_protocol::agent::Process;

/// Longest command line that is shown, in bytes.
const COMMAND_LIMIT: usize = 4096;

/// Describes those of the processes that are still there.
pub fn describe(pids: &[u32]) -> Vec<Process> {
    pids.iter().copied().filter_map(process).collect()
}

fn process(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let number = |name| field(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = match arguments.strip_suffix(b"\0") {
        Some(arguments) => {
            String::from_utf8_lossy(&arguments[..arguments.len().min(COMMAND_LIMIT)])
                .replace('\0', " ")
        }
        // It has given up its arguments, or is about to end.
        None => format!("[{}]", field("Name:").unwrap_or_default()),
    };
    Some(Process {
        pid,
        parent: number("PPid:"),
        uid: number("Uid:"),
        command,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let processes = describe(&[std::process::id(), u32::MAX]);
        assert_eq!(processes.len(), 1, "one of them does not exist");
        assert!(processes[0].command.contains("caisson"), "{processes:?}");
    }
}
