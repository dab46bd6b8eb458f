//! A tar archive as a row of entries.

use std::borrow::Cow;
use std::io::Read;

use super::Refusal;
use super::entry::{self, Entry, EntryKind, Flag};
use super::extension::Extension;
use super::header::{BLOCK, Header, text};
use super::sparse::{MapReader, Segments};
use super::stream::Stream;
use crate::image_builder::Limits;
use crate::{Digest, Error, Result};

/// Longest extended header. Attributes of 64 KiB in two forms fit easily.
const MAX_EXTENSION: u64 = 1 << 20;
/// Characters of an entry's name that an error shows.
const MAX_SHOWN: usize = 200;

/// An error about an entry.
pub(super) fn refuse(path: &[u8], reason: impl Into<Cow<'static, str>>) -> Error {
    let path = String::from_utf8_lossy(&path[..path.len().min(4 * MAX_SHOWN)]);
    let shown: String = path.escape_debug().take(MAX_SHOWN).collect();
    Error::Layer {
        entry: format!("entry \"{shown}\""),
        reason: reason.into().into_owned(),
    }
}

/// Names from the headers before an entry.
#[derive(Default)]
struct Before {
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    pax: Extension,
}

/// Reads an archive.
pub(super) struct TarReader<'a> {
    stream: Stream<'a>,
    limits: &'a Limits,
    /// Bytes of the present entry's content that were not read.
    content: u64,
    padding: u64,
    /// Where the present header is.
    place: u64,
}

impl<'a> TarReader<'a> {
    /// Reads a layer of at most `limit` bytes.
    pub(super) fn new(layer: impl Read + 'a, limit: u64, limits: &'a Limits) -> Result<Self> {
        Ok(Self {
            stream: Stream::new(layer, limit)?,
            limits,
            content: 0,
            padding: 0,
            place: 0,
        })
    }

    /// The next entry. What was not read of the one before is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut before = Before::default();
        let mut block = [0; BLOCK];
        loop {
            self.skip_content()?;
            self.place = self.stream.position();
            if !self.read_header(&mut block)? {
                return Ok(None);
            }
            let header = Header::parse(&block).map_err(|reason| self.refuse(reason))?;
            let flag = Flag::of(&header).map_err(|reason| self.refuse(reason))?;
            if flag.has_content() {
                let given = match flag {
                    Flag::File { .. } => before.pax.size,
                    _ => None,
                };
                let size = given.map_or_else(|| header.size(), Ok);
                self.begin_content(size.map_err(|reason| self.refuse(reason))?)?;
            }
            match flag {
                Flag::Comment => {}
                Flag::LongName => before.gnu_path = Some(text(&self.extension()?).to_vec()),
                Flag::LongLink => before.gnu_link = Some(text(&self.extension()?).to_vec()),
                Flag::Pax => {
                    let content = self.extension()?;
                    before.pax =
                        Extension::parse(&content).map_err(|reason| self.refuse(reason))?;
                }
                _ => return self.entry(&header, flag, before).map(Some),
            }
        }
    }

    /// The next bytes of the present entry's content, at most `most` of them. They are
    /// taken by [`take`](Self::take). Only asked for what the entry has.
    pub(super) fn peek(&mut self, most: u64) -> Result<&[u8]> {
        debug_assert!(0 < most && most <= self.content);
        let place = self.place;
        let next = self.stream.peek()?;
        if next.is_empty() {
            return Err(cut_off(place));
        }
        Ok(&next[..most.min(next.len() as u64) as usize])
    }

    pub(super) fn take(&mut self, count: usize) {
        self.stream.take(count);
        self.content -= count as u64;
    }

    /// Reads what follows the archive. Gives the layer's length and digest.
    pub(super) fn finish(self) -> Result<(u64, Digest)> {
        self.stream.finish()
    }

    fn entry(&mut self, header: &Header<'_>, flag: Flag, before: Before) -> Result<Entry> {
        let Before {
            gnu_path,
            gnu_link,
            mut pax,
        } = before;
        let path = pax
            .path
            .take()
            .or(gnu_path)
            .unwrap_or_else(|| header.path());
        let link = pax.link.take().or(gnu_link);
        let attributes =
            entry::attributes(header, &pax, self.limits).map_err(|reason| refuse(&path, reason))?;
        let kind = match flag {
            Flag::File { is_sparse } => self.file(header, is_sparse, pax, &path)?,
            _ => entry::kind(flag, header, link, self.limits)
                .map_err(|reason| refuse(&path, reason))?,
        };
        Ok(Entry {
            path,
            attributes,
            kind,
        })
    }

    fn file(
        &mut self,
        header: &Header<'_>,
        is_old_sparse: bool,
        pax: Extension,
        path: &[u8],
    ) -> Result<EntryKind> {
        let refuse = |reason| refuse(path, reason);
        let (size, segments) = if is_old_sparse {
            let size = header.sparse_size().map_err(refuse)?;
            (size, Some(self.old_segments(header, path)?))
        } else if pax.sparse.version == (1, 0) {
            let size = pax
                .sparse
                .size
                .ok_or_else(|| refuse("its size is missing"))?;
            (size, Some(self.map_before_content(path)?))
        } else if pax.sparse.version != (0, 0) && pax.sparse.version != (0, 1) {
            return Err(refuse("it is a sparse file of a format that is not known"));
        } else if let Some(segments) = pax.sparse.segments {
            let size = pax
                .sparse
                .size
                .ok_or_else(|| refuse("its size is missing"))?;
            (size, Some(segments))
        } else {
            (self.content, None)
        };
        if size > self.limits.file_bytes {
            return Err(refuse("it is larger than the limit"));
        }
        let segments = segments
            .map(|segments| segments.check(size, self.content))
            .transpose()
            .map_err(refuse)?;
        Ok(EntryKind::File { size, segments })
    }

    /// The segments of GNU's old format: four in the header, then blocks of 21.
    fn old_segments(&mut self, header: &Header<'_>, path: &[u8]) -> Result<Segments> {
        let mut segments = Segments::default();
        let mut take = |fields: &[u8]| {
            segments
                .push_old(fields)
                .map_err(|reason| refuse(path, reason))
        };
        take(header.sparse_segments())?;
        let mut has_more = header.has_more_segments();
        let mut block = [0; BLOCK];
        while has_more {
            // They do not count for the size.
            if !self.stream.read_exact(&mut block)? {
                return Err(cut_off(self.place));
            }
            take(&block[..504])?;
            has_more = block[504] != 0;
        }
        Ok(segments)
    }

    fn map_before_content(&mut self, path: &[u8]) -> Result<Segments> {
        let mut map = MapReader::default();
        let mut block = [0; BLOCK];
        loop {
            if self.content < BLOCK as u64 {
                return Err(refuse(path, "its map of holes is cut off"));
            }
            self.read_content(&mut block)?;
            if map.block(&block).map_err(|reason| refuse(path, reason))? {
                return Ok(map.finish());
            }
        }
    }

    /// The content of an extended header.
    fn extension(&mut self) -> Result<Vec<u8>> {
        if self.content > MAX_EXTENSION {
            return Err(self.refuse("its extended header is larger than 1 MiB"));
        }
        let mut content = vec![0; self.content as usize];
        self.read_content(&mut content)?;
        Ok(content)
    }

    fn read_content(&mut self, into: &mut [u8]) -> Result<()> {
        if !self.stream.read_exact(into)? {
            return Err(cut_off(self.place));
        }
        self.content -= into.len() as u64;
        Ok(())
    }

    fn begin_content(&mut self, size: u64) -> Result<()> {
        let end = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| self.refuse("its size is beyond all measure"))?;
        self.content = size;
        self.padding = end - size;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        let count = std::mem::take(&mut self.content).saturating_add(self.padding);
        self.padding = 0;
        match self.stream.skip(count)? {
            true => Ok(()),
            false => Err(cut_off(self.place)),
        }
    }

    /// Reads a header. False at the end of the archive: two blocks of zeros, or
    /// nothing at all.
    fn read_header(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        if self.stream.peek()?.is_empty() {
            return Ok(false);
        }
        if !self.stream.read_exact(block)? {
            return Err(cut_off(self.place));
        }
        if block.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        // One block of zeros with more behind it: some programs go on there, some
        // do not. Nothing that means different things is taken.
        if self.stream.read_exact(block)? && block.iter().any(|byte| *byte != 0) {
            return Err(self.refuse("a block of zeros stands before it"));
        }
        Ok(false)
    }

    fn refuse(&self, reason: Refusal) -> Error {
        Error::Layer {
            entry: format!("entry at byte {}", self.place),
            reason: reason.to_owned(),
        }
    }
}

fn cut_off(place: u64) -> Error {
    Error::Layer {
        entry: format!("entry at byte {place}"),
        reason: "the archive is cut off".to_owned(),
    }
}
