//! The whole output of every command, one file for each cell of the report.
//!
//! A report shortens and cleans what it shows. These files hold what really came,
//! byte for byte up to a bound, so that nobody has to trust the report. Do not
//! `cat` them to a terminal: a container wrote them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::model::Subject;

/// Name of the folder in the report's.
const FOLDER: &str = "raw";

/// Bytes of one stream of one command that are kept.
const STREAM_BOUND: usize = 1 << 20;

/// The folder `raw` of a report.
#[derive(Debug)]
pub struct RawFolder {
    folder: PathBuf,
}

/// A command and what came of it.
#[derive(Debug, Clone, Copy)]
pub struct Transcript<'a> {
    /// As it can be typed.
    pub command: &'a str,
    /// Its standard output.
    pub stdout: &'a [u8],
    /// Its standard error.
    pub stderr: &'a [u8],
    /// How it ended: `exit status 0 after 1.3 s`.
    pub ending: &'a str,
}

impl RawFolder {
    /// Makes the folder. One that holds files already is refused: those of two
    /// comparisons must not be mixed.
    pub fn create(report: &Path) -> io::Result<Self> {
        let folder = report.join(FOLDER);
        fs::create_dir_all(&folder).map_err(named(&folder))?;
        if fs::read_dir(&folder)
            .map_err(named(&folder))?
            .next()
            .is_some()
        {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "{} holds the outputs of an earlier comparison: name another folder",
                    folder.display()
                ),
            ));
        }
        Ok(Self { folder })
    }

    /// Adds a command to the file of a cell; says the file's name relative to the
    /// report, for [`crate::model::Cell::raw`].
    pub fn append(
        &self,
        row: &str,
        subject: Subject,
        transcript: Transcript<'_>,
    ) -> io::Result<String> {
        let name = format!("{}-{subject}.txt", slug(row));
        let path = self.folder.join(&name);
        let mut bytes = Vec::new();
        for part in ["$ ", transcript.command, "\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        add_stream(&mut bytes, transcript.stdout);
        if !transcript.stderr.is_empty() {
            bytes.extend_from_slice(b"[standard error]\n");
            add_stream(&mut bytes, transcript.stderr);
        }
        bytes.extend_from_slice(format!("[{}]\n\n", transcript.ending).as_bytes());
        File::options()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(named(&path))?;
        Ok(format!("{FOLDER}/{name}"))
    }
}

/// The beginning of a file that [`RawFolder::append`] named, and how many bytes
/// follow it. A name that is not from there has no file.
pub fn excerpt(report: &Path, name: &str, bound: u64) -> Option<(Vec<u8>, u64)> {
    let file = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
    if file.contains('/') {
        return None;
    }
    let file = File::open(report.join(FOLDER).join(file)).ok()?;
    let size = file.metadata().ok()?.len();
    let mut bytes = Vec::new();
    file.take(bound).read_to_end(&mut bytes).ok()?;
    let rest = size.saturating_sub(bytes.len() as u64);
    Some((bytes, rest))
}

/// A name for files and anchors: lower-case letters, digits and `-`.
pub fn slug(id: &str) -> String {
    id.chars()
        .map(|character| match character {
            'a'..='z' | '0'..='9' => character,
            'A'..='Z' => character.to_ascii_lowercase(),
            _ => '-',
        })
        .collect()
}

/// A stream, ended by a line's end.
fn add_stream(bytes: &mut Vec<u8>, stream: &[u8]) {
    bytes.extend_from_slice(&stream[..stream.len().min(STREAM_BOUND)]);
    if !matches!(bytes.last(), Some(b'\n')) {
        bytes.push(b'\n');
    }
    if let Some(rest) = stream.len().checked_sub(STREAM_BOUND + 1) {
        bytes.extend_from_slice(format!("[{} more bytes]\n", rest + 1).as_bytes());
    }
}

/// Names the file of an error.
fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(stdout: &[u8]) -> Transcript<'_> {
        Transcript {
            command: "runc run probe",
            stdout,
            stderr: b"",
            ending: "exit status 0 after 1 s",
        }
    }

    #[test]
    fn commands_of_a_cell_follow_each_other_in_its_file() {
        let report = tempfile::tempdir().unwrap();
        let raw = RawFolder::create(report.path()).unwrap();
        let mut noisy = transcript(b"one");
        noisy.stderr = b"a warning\n";
        let name = raw.append("kernel/Uname -a", Subject::Runc, noisy).unwrap();
        assert_eq!(name, "raw/kernel-uname--a-runc.txt");
        raw.append("kernel/Uname -a", Subject::Runc, transcript(b"two\n"))
            .unwrap();
        let (bytes, rest) = excerpt(report.path(), &name, 1000).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "$ runc run probe\none\n[standard error]\na warning\n[exit status 0 after 1 s]\n\n\
             $ runc run probe\ntwo\n[exit status 0 after 1 s]\n\n"
        );
        assert_eq!(rest, 0);
        assert_eq!(excerpt(report.path(), &name, 10).unwrap().0.len(), 10);
    }

    #[test]
    fn a_flood_is_cut_and_says_so() {
        let report = tempfile::tempdir().unwrap();
        let raw = RawFolder::create(report.path()).unwrap();
        let flood = vec![b'x'; STREAM_BOUND + 5];
        let name = raw.append("a", Subject::Host, transcript(&flood)).unwrap();
        let text = fs::read_to_string(report.path().join(name)).unwrap();
        assert!(text.contains("x\n[5 more bytes]\n["));
    }

    #[test]
    fn two_comparisons_are_not_mixed() {
        let report = tempfile::tempdir().unwrap();
        let raw = RawFolder::create(report.path()).unwrap();
        RawFolder::create(report.path()).unwrap();
        raw.append("a", Subject::Host, transcript(b"")).unwrap();
        let error = RawFolder::create(report.path()).unwrap_err();
        assert!(error.to_string().contains("name another folder"), "{error}");
    }

    #[test]
    fn names_of_other_files_have_no_excerpt() {
        let report = tempfile::tempdir().unwrap();
        fs::write(report.path().join("secret"), "x").unwrap();
        for name in ["secret", "raw/../secret", "/etc/passwd", "rawsecret"] {
            assert!(excerpt(report.path(), name, 9).is_none(), "{name}");
        }
    }
}
