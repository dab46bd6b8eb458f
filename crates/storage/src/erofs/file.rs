//! Content of files, as it passes.

use std::ops::Range;

use super::disk::{Blocks, Disk};
use super::format::BLOCK;
use super::spool::Spool;
use crate::Result;

/// Holes are made of whole chunks of at least this many bytes. Smaller ones would
/// cost more than they save: the guest maps a file chunk by chunk.
const MIN_CHUNK: u64 = 64 << 10;
/// Most chunks of a file: its map takes four bytes for each.
const MAX_CHUNKS: u64 = 1 << 20;
/// Longest end of a file, folder or symbolic link that is put behind its inode. A
/// longer one would leave the metadata sparse, and metadata is read block by block.
pub(super) const MAX_INLINE: u64 = 2048;

/// Content that was written.
#[derive(Debug, Clone)]
pub(crate) struct FileData {
    pub size: u64,
    pub blocks: Blocks,
    pub layout: FileLayout,
}

/// Where a file's content is.
#[derive(Debug, Clone)]
pub(crate) enum FileLayout {
    /// In its blocks.
    Plain,
    /// In its blocks, and what does not fill one at this offset of the spool.
    Tail { spooled: u64 },
    /// Some chunks in its blocks, one behind the other, the others being holes.
    Chunked {
        /// Logarithm of a chunk's number of blocks.
        bits: u8,
        /// Chunks that are no holes.
        data: Box<[Range<u32>]>,
    },
}

impl FileData {
    /// Bytes in memory beside the inode's own.
    pub(super) fn memory(&self) -> usize {
        match &self.layout {
            FileLayout::Chunked { data, .. } => size_of_val(&**data),
            _ => 0,
        }
    }

    /// Bytes of the chunk map.
    pub(super) fn map_size(&self) -> u64 {
        match &self.layout {
            FileLayout::Chunked { bits, .. } => 4 * self.size.div_ceil(BLOCK << bits),
            _ => 0,
        }
    }
}

/// Writes the content of one file.
#[derive(Debug)]
pub(crate) struct FileWriter<'a> {
    disk: &'a mut Disk,
    spool: &'a mut Spool,
    size: u64,
    position: u64,
    start: u32,
    chunk: u64,
    /// From here on content may go behind the inode, so it is held back.
    tail_start: u64,
    tail: Vec<u8>,
    /// Zeros at the start of the present chunk that are not on the disk.
    zeros: u64,
    /// Whether the present chunk has something on the disk.
    is_stored: bool,
    data: Vec<Range<u32>>,
    has_holes: bool,
}

impl<'a> FileWriter<'a> {
    /// Begins a file of `size` bytes.
    pub(crate) fn new(disk: &'a mut Disk, spool: &'a mut Spool, size: u64) -> Self {
        let tail = size % BLOCK;
        Self {
            start: disk.block(),
            disk,
            spool,
            size,
            position: 0,
            chunk: size.div_ceil(MAX_CHUNKS).next_power_of_two().max(MIN_CHUNK),
            tail_start: if tail <= MAX_INLINE {
                size - tail
            } else {
                size
            },
            tail: Vec::new(),
            zeros: 0,
            is_stored: false,
            data: Vec::new(),
            has_holes: false,
        }
    }

    /// Appends content. All of it together is as long as was announced.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        debug_assert!(self.position + bytes.len() as u64 <= self.size);
        while !bytes.is_empty() && self.position < self.tail_start {
            let room = self.chunk_room();
            let (now, later) = bytes.split_at(room.min(bytes.len() as u64) as usize);
            self.put(now)?;
            self.advance(now.len() as u64);
            bytes = later;
        }
        self.tail.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Appends zeros.
    pub(crate) fn skip(&mut self, mut count: u64) -> Result<()> {
        debug_assert!(self.position + count <= self.size);
        while count > 0 && self.position < self.tail_start {
            let is_at_chunk = self.position.is_multiple_of(self.chunk);
            let chunks = count.min(self.tail_start - self.position) / self.chunk;
            let now = if is_at_chunk && chunks > 0 {
                self.has_holes = true;
                self.position += chunks * self.chunk;
                chunks * self.chunk
            } else {
                let now = self.chunk_room().min(count);
                if self.is_stored {
                    self.disk.append_zeros(now)?;
                } else {
                    self.zeros += now;
                }
                self.advance(now);
                now
            };
            count -= now;
        }
        // Shorter than a block, or nothing.
        self.tail.resize(self.tail.len() + count as usize, 0);
        self.position += count;
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> Result<FileData> {
        debug_assert_eq!(self.position, self.size);
        let tail = std::mem::take(&mut self.tail);
        let layout = if self.has_holes {
            self.put(&tail)?;
            if self.is_stored {
                self.record(self.size / self.chunk);
            }
            FileLayout::Chunked {
                bits: (self.chunk / BLOCK).ilog2() as u8,
                data: std::mem::take(&mut self.data).into(),
            }
        } else {
            self.store_zeros()?;
            match tail.is_empty() {
                true => FileLayout::Plain,
                false => FileLayout::Tail {
                    spooled: self.spool.append(&tail)?,
                },
            }
        };
        self.disk.pad()?;
        Ok(FileData {
            size: self.size,
            blocks: Blocks {
                start: self.start,
                count: self.disk.block() - self.start,
            },
            layout,
        })
    }

    /// Bytes to the end of the chunk or of what is not held back.
    fn chunk_room(&self) -> u64 {
        let chunk_end = (self.position / self.chunk + 1) * self.chunk;
        chunk_end.min(self.tail_start) - self.position
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.is_stored && is_zero(bytes) {
            self.zeros += bytes.len() as u64;
            return Ok(());
        }
        self.store_zeros()?;
        self.disk.append(bytes)?;
        self.is_stored = true;
        Ok(())
    }

    fn store_zeros(&mut self) -> Result<()> {
        self.disk.append_zeros(std::mem::take(&mut self.zeros))
    }

    fn advance(&mut self, count: u64) {
        self.position += count;
        if !self.position.is_multiple_of(self.chunk) {
            return;
        }
        if self.is_stored {
            self.record(self.position / self.chunk - 1);
        } else {
            self.has_holes = true;
        }
        self.zeros = 0;
        self.is_stored = false;
    }

    /// Notes that a chunk is on the disk.
    fn record(&mut self, chunk: u64) {
        // A file has at most MAX_CHUNKS.
        let chunk = chunk as u32;
        match self.data.last_mut() {
            Some(last) if last.end == chunk => last.end += 1,
            _ => self.data.push(chunk..chunk + 1),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen at a time, which the compiler makes wide loads of.
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0)
        && rest.iter().all(|byte| *byte == 0)
}
