//! A part of a file as a stream.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// Part of a file, read without moving the file's position, so that several
/// parts can be read side by side.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    file: &'a File,
    position: u64,
    end: u64,
}

impl<'a> Section<'a> {
    /// `size` bytes from `offset` on. The sum must not overflow.
    pub(crate) fn new(file: &'a File, offset: u64, size: u64) -> Self {
        Self {
            file,
            position: offset,
            end: offset + size,
        }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if count == 0 && wanted > 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the file was made shorter while it was read",
            ));
        }
        self.position += count as u64;
        Ok(count)
    }
}
