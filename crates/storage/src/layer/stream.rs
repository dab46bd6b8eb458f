//! The uncompressed bytes of a layer: counted, limited and hashed as they pass.

use std::io::{ErrorKind, Read};

use sha2::{Digest as _, Sha256};

use super::compression::decompress;
use crate::{Digest, Error, Result};

/// Read, and hashed, at once.
const BUFFER: usize = 256 << 10;

/// A layer's content.
pub(super) struct Stream<'a> {
    source: Box<dyn Read + 'a>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes before those of the buffer.
    passed: u64,
    limit: u64,
    hash: Sha256,
}

impl<'a> Stream<'a> {
    /// The content of a layer, which must not be longer than `limit`.
    pub(super) fn new(layer: impl Read + 'a, limit: u64) -> Result<Self> {
        Ok(Self {
            source: decompress(layer).map_err(|error| unreadable(&error, 0))?,
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
            passed: 0,
            limit,
            hash: Sha256::new(),
        })
    }

    /// Bytes taken so far.
    pub(super) fn position(&self) -> u64 {
        self.passed + self.start as u64
    }

    /// What comes next, without taking it; nothing at the end.
    pub(super) fn peek(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            self.refill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes bytes that were seen.
    pub(super) fn take(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
    }

    /// Fills a buffer; false if the stream ends before. Then what there was is taken.
    pub(super) fn read_exact(&mut self, mut into: &mut [u8]) -> Result<bool> {
        while !into.is_empty() {
            let next = self.peek()?;
            if next.is_empty() {
                return Ok(false);
            }
            let count = next.len().min(into.len());
            into[..count].copy_from_slice(&next[..count]);
            self.take(count);
            into = &mut into[count..];
        }
        Ok(true)
    }

    /// Takes bytes unseen; false if the stream ends before.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<bool> {
        while count > 0 {
            let next = self.peek()?.len();
            if next == 0 {
                return Ok(false);
            }
            let now = count.min(next as u64);
            self.take(now as usize);
            count -= now;
        }
        Ok(true)
    }

    /// Reads to the end. Gives the length and the digest of everything.
    pub(super) fn finish(mut self) -> Result<(u64, Digest)> {
        self.skip(u64::MAX)?;
        Ok((self.position(), Digest::of_hash(self.hash)))
    }

    fn refill(&mut self) -> Result<()> {
        self.passed += self.end as u64;
        self.start = 0;
        self.end = 0;
        // A decompressor gives a few bytes at a time.
        while self.end < self.buffer.len() {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&error, self.passed + self.end as u64)),
            }
        }
        if self.passed + self.end as u64 > self.limit {
            return Err(Error::Limit(
                "its layers are longer than the limit when they are uncompressed".to_owned(),
            ));
        }
        self.hash.update(&self.buffer[..self.end]);
        Ok(())
    }
}

fn unreadable(error: &std::io::Error, position: u64) -> Error {
    Error::Layer {
        entry: format!("byte {position}"),
        reason: format!("cannot read on: {error}"),
    }
}
