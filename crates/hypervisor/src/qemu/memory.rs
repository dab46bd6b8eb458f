//! The memory of a guest, as it is in QEMU's address space.
//!
//! QEMU has mapped a file privately: a page that the guest has written is in QEMU alone,
//! every other is in the file. `/proc/PID/pagemap` tells which is which
//! (Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::template::copy_file;

const PAGE: u64 = 4096;

/// Pages copied at once.
const PIECE: u64 = 64;

/// Bytes of the map of pages that are read at once.
const ENTRIES: usize = 64 << 10;

/// Part of a mapping of the file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    begin: u64,
    end: u64,
    offset: u64,
}

/// Writes the memory of a process, which began with the content of `from`, to the empty
/// file `to`. The process stands still.
pub(super) fn copy(pid: u32, from: &File, to: &File) -> io::Result<()> {
    let metadata = from.metadata()?;
    let size = metadata.size();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mappings: Vec<_> = maps
        .lines()
        .filter_map(|line| mapping(line, metadata.ino()))
        .collect();
    let mapped: u64 = mappings.iter().map(|part| part.end - part.begin).sum();
    if mapped != size {
        return Err(io::Error::other(format!(
            "{mapped} bytes of the guest's {size} are mapped"
        )));
    }
    copy_file(from, to)?;
    let map = File::open(format!("/proc/{pid}/pagemap"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    for part in &mappings {
        copy_private(&map, &memory, part, to)?;
    }
    Ok(())
}

/// A private mapping of the file with this inode, of a line of `/proc/PID/maps`.
fn mapping(line: &str, inode: u64) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (begin, end) = fields.next()?.split_once('-')?;
    let private = fields.next()?.ends_with('p');
    let offset = fields.next()?;
    let found: u64 = fields.nth(1)?.parse().ok()?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    (private && found == inode)
        .then(|| {
            Some(Mapping {
                begin: number(begin)?,
                end: number(end)?,
                offset: number(offset)?,
            })
        })
        .flatten()
}

/// Copies the pages that are no longer the file's.
fn copy_private(map: &File, memory: &File, part: &Mapping, to: &File) -> io::Result<()> {
    let mut entries = vec![0; ENTRIES];
    let mut buffer = vec![0; (PIECE * PAGE) as usize];
    let mut address = part.begin;
    while address < part.end {
        let pages = ((part.end - address) / PAGE).min(ENTRIES as u64 / 8);
        let entries = &mut entries[..pages as usize * 8];
        map.read_exact_at(entries, address / PAGE * 8)?;
        let private: Vec<bool> = entries.chunks_exact(8).map(is_private).collect();
        let mut page = 0;
        while page < pages {
            let written = private[page as usize..].iter().take(PIECE as usize);
            let run = written.take_while(|private| **private).count() as u64;
            if run == 0 {
                page += 1;
                continue;
            }
            let bytes = &mut buffer[..(run * PAGE) as usize];
            let begin = address + page * PAGE;
            memory.read_exact_at(bytes, begin)?;
            to.write_all_at(bytes, begin - part.begin + part.offset)?;
            page += run;
        }
        address += pages * PAGE;
    }
    Ok(())
}

/// Present or swapped out, and no page of a file.
fn is_private(entry: &[u8]) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_A_FILE: u64 = 1 << 61;
    let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_mapping_is_read() {
        let line = "7f0000001000-7f0000003000 rw-p 00002000 fe:01 4711    /t/memory (deleted)";
        let expected = Mapping {
            begin: 0x7f00_0000_1000,
            end: 0x7f00_0000_3000,
            offset: 0x2000,
        };
        assert_eq!(mapping(line, 4711), Some(expected));
        assert_eq!(mapping(line, 1), None);
        assert_eq!(mapping(&line.replace("rw-p", "rw-s"), 4711), None);
        assert_eq!(mapping("7f00-", 0), None);
    }

    #[test]
    fn what_was_written_in_memory_is_copied_over_the_file() {
        const SIZE: usize = 8 << 20;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(SIZE as u64).expect("sized");
        file.write_all_at(b"from the file", 4096).expect("written");
        file.write_all_at(b"overwritten", 8192).expect("written");
        // SAFETY: a new private mapping at a place of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                SIZE,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
                &file,
                0,
            )
        }
        .expect("mapped");
        // SAFETY: the mapping has that size, and nobody else knows of it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base.cast::<u8>(), SIZE) };
        bytes[8192..8192 + 11].copy_from_slice(b"in memory!!");
        bytes[SIZE - 1] = 7;
        let expected = bytes.to_vec();
        let target = tempfile::tempfile().expect("a file");
        copy(std::process::id(), &file, &target).expect("copied");
        let mut found = Vec::new();
        { &target }.read_to_end(&mut found).expect("read");
        assert!(found == expected);
        // SAFETY: the mapping made above, whose slice is not used any more.
        unsafe { rustix::mm::munmap(base, SIZE) }.expect("unmapped");
    }
}
