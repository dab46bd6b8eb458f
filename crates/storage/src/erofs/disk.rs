//! The disk's file, written from front to back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::format::{BLOCK, MAX_BLOCKS};
use crate::error::IoContext;
use crate::{Error, Result};

/// Written at once.
const BUFFER: usize = 1 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Blocks that follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Blocks {
    pub start: u32,
    pub count: u32,
}

/// A disk that grows.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes before those of the buffer.
    written: u64,
    limit: u64,
}

impl Disk {
    /// A new file that must not grow beyond `limit` bytes. Block 0 is left for the
    /// superblock.
    pub(crate) fn create(path: &Path, limit: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .context("create the disk", path)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            buffer: Vec::with_capacity(BUFFER),
            written: BLOCK,
            limit: limit.min(MAX_BLOCKS * BLOCK),
        })
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// The block that the next byte goes to. Only asked at the start of a block.
    pub(super) fn block(&self) -> u32 {
        // The limit is below 2^32 blocks.
        (self.position() / BLOCK) as u32
    }

    /// Fails if the disk would be too large with this many bytes.
    pub(super) fn check(&self, bytes: u64) -> Result<()> {
        if bytes > self.limit {
            return Err(Error::Limit(format!(
                "its disk would have more than {} bytes",
                self.limit
            )));
        }
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.check(self.position() + bytes.len() as u64)?;
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            self.write_at(bytes, self.written)?;
            self.written += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    pub(super) fn append_zeros(&mut self, count: u64) -> Result<()> {
        self.check(self.position().saturating_add(count))?;
        let mut left = count;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            self.append(&ZEROS[..now as usize])?;
            left -= now;
        }
        Ok(())
    }

    /// Fills the last block.
    pub(super) fn pad(&mut self) -> Result<()> {
        let position = self.position();
        self.append_zeros(position.next_multiple_of(BLOCK) - position)
    }

    /// Gives the space of content back that nothing names any more. The blocks stay
    /// where they are, as holes of the disk's file.
    pub(crate) fn release(&mut self, mut unused: Vec<Blocks>) -> Result<()> {
        if unused.is_empty() {
            return Ok(());
        }
        self.flush()?;
        unused.sort_unstable();
        let mut merged: Vec<Blocks> = Vec::new();
        for blocks in unused {
            match merged.last_mut() {
                Some(last) if last.start + last.count == blocks.start => last.count += blocks.count,
                _ => merged.push(blocks),
            }
        }
        for blocks in merged {
            let punched = rustix::fs::fallocate(
                &self.file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                u64::from(blocks.start) * BLOCK,
                u64::from(blocks.count) * BLOCK,
            );
            match punched {
                Ok(()) => {}
                // A file system without holes: the space stays taken.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                Err(error) => {
                    return Err(error.into()).context("punch holes into the disk", &self.path);
                }
            }
        }
        Ok(())
    }

    /// Writes what is left, and block 0 at last: a disk that is cut short has none.
    pub(super) fn finish(mut self, block0: &[u8; BLOCK as usize]) -> Result<()> {
        self.flush()?;
        self.write_at(block0, 0)
    }

    fn flush(&mut self) -> Result<()> {
        self.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .context("write the disk", &self.path)
    }
}
