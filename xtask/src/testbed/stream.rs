//! What the command prints, and how it ends.
//!
//! A stream ends with a line that nobody can print by accident: [`Mark`], which is drawn
//! anew for each run, and the command's exit status. Nothing that the command printed can
//! come after it, so the machine need not be waited for.

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::{Context, Result};

/// First byte of the line: few programs print it, so little is held back.
const BEGIN: u8 = 0x1e;

/// Longest number of an exit status, with the space before it and the newline.
const STATUS: usize = 5;

/// What the last line of a stream begins with.
#[derive(Debug, Clone)]
pub struct Mark(String);

impl Mark {
    /// Draws a new one.
    pub fn draw() -> Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .context("cannot read /dev/urandom")?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// The mark as text, which the machine's init is told.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Where the last line begins, if it is there and whole, and the status that it names.
    fn find(&self, bytes: &[u8]) -> Option<(usize, u8)> {
        let line = [&[BEGIN], self.0.as_bytes(), b" "].concat();
        let at = bytes
            .windows(line.len())
            .position(|window| window == line)?;
        let rest = &bytes[at + line.len()..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let status = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        Some((at, status))
    }

    /// How many bytes cannot belong to the last line.
    fn certain(&self, bytes: &[u8]) -> usize {
        let longest = 1 + self.0.len() + STATUS;
        let from = bytes.len().saturating_sub(longest);
        let begin = bytes[from..].iter().position(|byte| *byte == BEGIN);
        begin.map_or(bytes.len(), |at| from + at)
    }
}

/// Copies a stream up to its last line, and gives the status that it names. None if the
/// stream ends without it.
pub fn copy(from: &mut impl Read, to: &mut impl Write, mark: &Mark) -> io::Result<Option<u8>> {
    let mut held = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        held.extend_from_slice(&buffer[..read]);
        if let Some((at, status)) = mark.find(&held) {
            to.write_all(&held[..at])?;
            to.flush()?;
            return Ok(Some(status));
        }
        let certain = if read == 0 {
            held.len()
        } else {
            mark.certain(&held)
        };
        to.write_all(&held[..certain])?;
        to.flush()?;
        held.drain(..certain);
        if read == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one by one.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn a_stream_ends_at_its_mark_and_nowhere_else() {
        let mark = Mark::draw().expect("drawn");
        let text = mark.text();
        let almost = format!("\x1e{} 0\n{text} 1\n\x1e\x1e", &text[1..]);
        let whole = format!("{almost}\x1e{text} 42\nnever");
        let mut printed = Vec::new();
        let status = copy(&mut whole.as_bytes(), &mut printed, &mark).expect("copied");
        assert_eq!((status, &printed[..]), (Some(42), almost.as_bytes()));

        let mut printed = Vec::new();
        let status = copy(&mut Slow(whole.as_bytes()), &mut printed, &mark).expect("copied");
        assert_eq!((status, &printed[..]), (Some(42), almost.as_bytes()));
    }

    #[test]
    fn without_its_mark_a_stream_has_no_status() {
        let mark = Mark::draw().expect("drawn");
        let mut printed = Vec::new();
        let text = format!("words\x1e{}", mark.text());
        let status = copy(&mut text.as_bytes(), &mut printed, &mark).expect("copied");
        assert_eq!((status, &printed[..]), (None, text.as_bytes()));
    }
}
