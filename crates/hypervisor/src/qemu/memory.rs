//! The memory of a guest, as it is in QEMU's address space.
//!
//! QEMU has mapped a file privately: a page that the guest has written is in QEMU alone,
//! every other is in the file. `/proc/PID/pagemap` tells which is which
//! (Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use caisson_checkpoint::{Line, Memory, Range};

use crate::template::copy_file;

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
        let range = Range {
            begin: part.begin,
            end: part.end,
        };
        // The pages that are no longer the file's.
        for written in memory.written(range)? {
            memory.copy(written, to, written.begin - part.begin + part.offset)?;
        }
    }
    Ok(())
}

/// A private mapping of the file with this inode, of a line of `/proc/PID/maps`.
fn mapping(line: &str, inode: u64) -> Option<Mapping> {
    let line = Line::parse(line)?;
    (!line.shared && line.inode == inode).then_some(Mapping {
        begin: line.range.begin,
        end: line.range.end,
        offset: line.offset,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::FileExt;

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
