//! Ends of files, kept aside until their inodes are written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::IoContext;

/// Written at once.
const BUFFER: usize = 256 << 10;

/// A file without a name that takes the ends of files: they stand behind inodes,
/// which are written last, and must not be kept in memory until then.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    /// The folder it is in, for errors.
    folder: PathBuf,
    buffer: Vec<u8>,
    written: u64,
}

impl Spool {
    /// An empty spool in `folder`.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        Ok(Self {
            file: tempfile::tempfile_in(folder).context("create a file in", folder)?,
            folder: folder.to_owned(),
            buffer: Vec::with_capacity(BUFFER),
            written: 0,
        })
    }

    /// Keeps some bytes and tells where.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        let offset = self.written + self.buffer.len() as u64;
        self.buffer.extend_from_slice(bytes);
        Ok(offset)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.file
            .write_all_at(&self.buffer, self.written)
            .context("write a temporary file in", &self.folder)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Reads back what was flushed.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(bytes, offset)
            .context("read a temporary file in", &self.folder)
    }
}
