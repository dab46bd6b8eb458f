//! What the guest said before it could talk to us.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const TAIL_BYTES: u64 = 2048;
const TAIL_LINES: usize = 8;

/// The last lines of a console file, fit to be shown on a terminal: a guest
/// must not be able to send escape sequences to whoever reads an error.
pub(crate) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = match read() {
        Ok(bytes) if bytes.is_empty() => return "(nothing)".to_owned(),
        Ok(bytes) => printable(&String::from_utf8_lossy(&bytes)),
        Err(error) => return format!("(cannot read {}: {error})", path.display()),
    };
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}

/// Text from a guest without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{9b}31m"), "a[2Jb\nc31m");
    }
}
