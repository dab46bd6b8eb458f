//! The memory of a guest, as it is in QEMU's address space.
//!
//! QEMU has mapped a file privately: a page that the guest has written is in QEMU alone,
//! every other is in the file. `/proc/PID/pagemap` tells which is which
//! (Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use caisson_checkpoint::{Memory, Range};

use crate::template::copy_file;

/// Bytes copied at once.
const PIECE: usize = 256 << 10;

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
    let memory = Memory::of(pid).map_err(io::Error::other)?;
    for part in &mappings {
        copy_private(&memory, part, to)?;
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
fn copy_private(memory: &Memory, part: &Mapping, to: &File) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let whole = Range {
        begin: part.begin,
        end: part.end,
    };
    for written in memory.written(whole)? {
        let mut address = written.begin;
        while address < written.end {
            let length = (written.end - address).min(PIECE as u64);
            let bytes = &mut buffer[..length as usize];
            memory.bytes.read_exact_at(bytes, address)?;
            to.write_all_at(bytes, address - part.begin + part.offset)?;
            address += length;
        }
    }
    Ok(())
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
