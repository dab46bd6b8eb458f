//! Copying what is written of a sparse file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes copied at once: they stay in the CPU's cache.
const PIECE: usize = 256 << 10;

/// Makes an empty file a copy of another. Where the file system can, both share their
/// blocks until one is written.
pub(crate) fn copy_file(source: &File, target: &File) -> io::Result<()> {
    match rustix::fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(()),
        // The file system cannot, or they are in different ones.
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            target.set_len(source.metadata()?.len())?;
            copy_written(source, target)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Copies every byte of `source` that was ever written to the same place in `target`,
/// which has the size of `source` and holds zeros.
pub(crate) fn copy_written(source: &File, target: &File) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut position = 0;
    loop {
        let begin = match seek(source, SeekFrom::Data(position)) {
            Ok(begin) => begin,
            // No data follows.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(source, SeekFrom::Hole(begin))?;
        position = begin;
        while position < end {
            let length = usize::try_from(end - position).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..length];
            source.read_exact_at(piece, position)?;
            target.write_all_at(piece, position)?;
            position += length as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_stay_holes() {
        const SIZE: u64 = 16 << 20;
        let make = || {
            let file = tempfile::tempfile().expect("a file");
            file.set_len(SIZE).expect("sized");
            file
        };
        let (source, target) = (make(), make());
        let mut expected = vec![0; SIZE as usize];
        for (at, length) in [(4096, 10), (1 << 20, PIECE + 4097), (SIZE as usize - 1, 1)] {
            let bytes = vec![at as u8 | 1; length];
            source.write_all_at(&bytes, at as u64).expect("written");
            expected[at..at + length].copy_from_slice(&bytes);
        }
        copy_written(&source, &target).expect("copied");
        let mut copied = vec![0; SIZE as usize];
        target.read_exact_at(&mut copied, 0).expect("read");
        assert!(copied == expected);
        let blocks = target.metadata().expect("metadata").blocks();
        assert!(blocks * 512 < SIZE / 4, "{blocks} blocks are written");
    }
}
