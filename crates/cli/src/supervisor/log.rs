//! What a container wrote, kept for `caisson logs`.
//!
//! A log is a sequence of chunks, each with a header: stream (1 output,
//! 2 error), nanoseconds since the epoch (u64, little endian) and length (u32,
//! little endian). Bytes are kept as they are. When a log reaches its limit it
//! becomes `output.log.1` and a new one begins, so that at most two limits of
//! disk are used.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const HEADER_LEN: usize = 13;

/// Longest chunk; a longer one in a file is damage.
const CHUNK_LIMIT: u32 = 1 << 20;

/// Which standard stream a chunk was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Error,
}

/// The writing end of a log.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
}

impl LogWriter {
    /// Appends to the log at `path`. `limit` is in bytes.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
            limit,
        })
    }

    /// Appends a chunk.
    pub fn write(&mut self, source: Source, bytes: &[u8]) -> io::Result<()> {
        if self.length >= self.limit {
            fs::rename(&self.path, rotated(&self.path))?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.length = 0;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut header = [0; HEADER_LEN];
        header[0] = match source {
            Source::Output => 1,
            Source::Error => 2,
        };
        header[1..9].copy_from_slice(&nanoseconds.to_le_bytes());
        header[9..].copy_from_slice(&length.to_le_bytes());
        let mut slices = [io::IoSlice::new(&header), io::IoSlice::new(bytes)];
        write_all_vectored(&mut self.file, &mut slices)?;
        self.length += (HEADER_LEN + bytes.len()) as u64;
        Ok(())
    }
}

fn write_all_vectored(file: &mut File, mut slices: &mut [io::IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match file.write_vectored(slices)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => io::IoSlice::advance_slices(&mut slices, written),
        }
    }
    Ok(())
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A piece of what a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it was written to.
    pub source: Source,
    /// Nanoseconds since the epoch.
    pub nanoseconds: u64,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// The reading end of a log; follows it across a rotation.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    current: Option<BufReader<File>>,
    /// A chunk whose end is not written yet.
    partial: Vec<u8>,
}

impl LogReader {
    /// Reads from the oldest chunk that is kept.
    pub fn open(path: &Path) -> io::Result<Self> {
        let oldest = match File::open(rotated(path)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => open_existing(path)?,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.to_owned(),
            current: oldest.map(BufReader::new),
            partial: Vec::new(),
        })
    }

    /// The next whole chunk; none if nothing more has been written so far.
    pub fn next(&mut self) -> io::Result<Option<Chunk>> {
        loop {
            if self.current.is_none() {
                self.current = open_existing(&self.path)?.map(BufReader::new);
            }
            let Some(file) = &mut self.current else {
                return Ok(None);
            };
            if fill(file, &mut self.partial, HEADER_LEN)? {
                let length = u32::from_le_bytes([
                    self.partial[9],
                    self.partial[10],
                    self.partial[11],
                    self.partial[12],
                ]);
                if length > CHUNK_LIMIT {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the log is damaged",
                    ));
                }
                if fill(file, &mut self.partial, HEADER_LEN + length as usize)? {
                    return Ok(Some(parse(&mut self.partial)));
                }
            }
            // At the end of a file that has been renamed away, the next one goes on.
            if !self.is_rotated()? {
                return Ok(None);
            }
            self.current = None;
            self.partial.clear();
        }
    }

    fn is_rotated(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let Some(current) = &self.current else {
            return Ok(false);
        };
        let ours = current.get_ref().metadata()?;
        match fs::metadata(&self.path) {
            Ok(newest) => Ok((ours.dev(), ours.ino()) != (newest.dev(), newest.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads until `buffer` holds `length` bytes; false if the file ends before.
fn fill(file: &mut BufReader<File>, buffer: &mut Vec<u8>, length: usize) -> io::Result<bool> {
    let missing = length.saturating_sub(buffer.len());
    file.take(missing as u64).read_to_end(buffer)?;
    Ok(buffer.len() >= length)
}

fn parse(buffer: &mut Vec<u8>) -> Chunk {
    let mut nanoseconds = [0; 8];
    nanoseconds.copy_from_slice(&buffer[1..9]);
    let chunk = Chunk {
        source: if buffer[0] == 2 {
            Source::Error
        } else {
            Source::Output
        },
        nanoseconds: u64::from_le_bytes(nanoseconds),
        bytes: buffer[HEADER_LEN..].to_vec(),
    };
    buffer.clear();
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_back_across_a_rotation() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("output.log");
        let mut writer = LogWriter::open(&path, 40).expect("a log");
        let mut reader = LogReader::open(&path).expect("a reader");
        for word in ["one", "two", "three", "four"] {
            writer
                .write(Source::Error, word.as_bytes())
                .expect("written");
            let chunk = reader.next().expect("read").expect("a chunk");
            assert_eq!(
                (chunk.source, chunk.bytes.as_slice()),
                (Source::Error, word.as_bytes())
            );
        }
        assert_eq!(reader.next().expect("read"), None);
        assert!(rotated(&path).exists());
        let mut again = LogReader::open(&path).expect("a reader");
        assert_eq!(again.next().expect("read").expect("a chunk").bytes, b"one");
    }
}
