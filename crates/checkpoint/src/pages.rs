//! Pages of another process, and the file that they are written to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::image::{Range, Run};
use crate::{Error, Result};

pub(crate) const PAGE: u64 = 4096;

/// Fewest pages without content between two runs: fewer are written as well, since a run
/// costs each copy a system call.
const GAP: u64 = 8;

/// Pages that are copied at once.
const PIECE: u64 = 256;

/// Most bytes of a file of pages. QEMU has some 64 MiB; one that a guest has taken over could
/// have as much as there are addresses, of zeros that take no memory.
const LIMIT: u64 = 2 << 30;

/// Entries of the map of pages that are read at once.
const ENTRIES: u64 = 8 << 10;

/// The memory of a process.
#[derive(Debug)]
pub struct Memory {
    /// `/proc/PID/mem`: what is at each address.
    pub(crate) bytes: File,
    map: File,
}

impl Memory {
    /// Opens that of a process, which may be read by who may trace it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn of(process: u32) -> Result<Self> {
        let open = |name| File::open(format!("/proc/{process}/{name}"));
        let failed = || Error::system("open the memory of the process");
        Ok(Self {
            bytes: open("mem").map_err(failed())?,
            map: open("pagemap").map_err(failed())?,
        })
    }

    /// Pages of a private mapping that are no longer what is mapped, and few between them
    /// that are.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn written(&self, range: Range) -> io::Result<Vec<Range>> {
        let mut found: Vec<Range> = Vec::new();
        let mut entries = vec![0; ENTRIES as usize * 8];
        let mut address = range.begin;
        while address < range.end {
            let pages = ((range.end - address) / PAGE).min(ENTRIES);
            let entries = &mut entries[..pages as usize * 8];
            self.map.read_exact_at(entries, address / PAGE * 8)?;
            for (entry, page) in entries.chunks_exact(8).zip(address / PAGE..) {
                if !is_own(entry) {
                    continue;
                }
                let (begin, end) = (page * PAGE, (page + 1) * PAGE);
                match found.last_mut() {
                    Some(last) if begin - last.end < GAP * PAGE => last.end = end,
                    _ => found.push(Range { begin, end }),
                }
            }
            address += pages * PAGE;
        }
        Ok(found)
    }

    /// Copies pages to a place in a file.
    ///
    /// # Errors
    /// When the process has ended, or the file cannot be written.
    pub fn copy(&self, range: Range, to: &File, offset: u64) -> io::Result<()> {
        let mut buffer = vec![0; (PIECE * PAGE) as usize];
        let mut address = range.begin;
        while address < range.end {
            let length = (range.end - address).min(PIECE * PAGE);
            let bytes = &mut buffer[..length as usize];
            self.bytes.read_exact_at(bytes, address)?;
            to.write_all_at(bytes, address - range.begin + offset)?;
            address += length;
        }
        Ok(())
    }
}

/// Present or swapped out, and no page of a file
/// (Documentation/admin-guide/mm/pagemap.rst).
fn is_own(entry: &[u8]) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_A_FILE: u64 = 1 << 61;
    let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0
}

/// A file that is written from its beginning, page by page.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    file: &'a File,
    length: u64,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, length: 0 }
    }

    /// Copies pages of a process.
    pub(crate) fn copy(&mut self, memory: &Memory, range: Range) -> io::Result<Run> {
        let offset = self.length;
        if range.length() > LIMIT.saturating_sub(offset) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        memory.copy(range, self.file, offset)?;
        self.length += range.length();
        Ok(Run { range, offset })
    }

    /// Writes bytes to pages of their own. Returns where, and how many.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<(u64, u64)> {
        let offset = self.length;
        self.file.write_all_at(bytes, offset)?;
        self.length = (offset + bytes.len() as u64).next_multiple_of(PAGE);
        self.file.set_len(self.length)?;
        Ok((offset, bytes.len() as u64))
    }
}
