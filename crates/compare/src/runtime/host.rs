//! Processes that the host has because of a container.

use std::collections::BTreeSet;

/// Processes that have exactly this argument, and all that they have started.
///
/// Ids of containers are arguments of the processes that hold them, and of nothing else.
pub fn processes_with_argument(argument: &str) -> Vec<u32> {
    let roots = all().filter(|pid| has_argument(*pid, argument));
    descendants(roots.filter(|pid| *pid != std::process::id()))
}

/// Some processes and all that they and theirs have started.
pub fn descendants(roots: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let parents: Vec<_> = all().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found: BTreeSet<u32> = roots.into_iter().collect();
    loop {
        let before = found.len();
        let new = parents
            .iter()
            .filter(|(_, parent)| found.contains(parent))
            .map(|(pid, _)| *pid)
            .collect::<Vec<_>>();
        found.extend(new);
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

fn all() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn has_argument(pid: u32, argument: &str) -> bool {
    // It may have ended meanwhile.
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .any(|word| word == argument.as_bytes())
}

/// The fourth field of `/proc/PID/stat` (proc(5)); the second may have spaces and brackets.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// The kernel lets a parent go on before the child's new arguments can be read, so the child
    /// says itself that it runs.
    #[test]
    fn a_child_is_found_by_its_argument() {
        let argument = format!("10{:07}", std::process::id());
        let mut child = Command::new("sh")
            .args(["-c", "echo runs; read -r line", "sh", &argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut said = [0; 5];
        let stdout = child.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut said).expect("the child runs");
        let found = processes_with_argument(&argument);
        let ours = descendants([std::process::id()]);
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(found, [child.id()]);
        assert!(ours.contains(&child.id()));
    }
}
