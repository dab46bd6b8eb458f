//! Files with holes, in the four forms that GNU tar has for them: its own old one,
//! and the PAX formats 0.0, 0.1 and 1.0 (GNU tar manual, appendix "Storing Sparse
//! Files").

use super::Refusal;
use super::header;

/// Most segments of one file, for the memory they take.
const MAX_SEGMENTS: usize = 1 << 18;

/// Content between holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub offset: u64,
    pub length: u64,
}

/// Segments of a file, as they are read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Segments(Vec<Segment>);

impl Segments {
    pub(super) fn push(&mut self, offset: u64, length: u64) -> Result<(), Refusal> {
        if self.0.len() == MAX_SEGMENTS {
            return Err("it is a sparse file with more than 262144 segments");
        }
        self.0.push(Segment { offset, length });
        Ok(())
    }

    /// Takes segments of the old format. They end at the first that is empty.
    pub(super) fn push_old(&mut self, fields: &[u8]) -> Result<(), Refusal> {
        for field in fields.chunks_exact(24) {
            let (offset, length) = field.split_at(12);
            if offset[0] == 0 || length[0] == 0 {
                break;
            }
            self.push(header::size(offset)?, header::size(length)?)?;
        }
        Ok(())
    }

    /// Takes the list of the format 0.1: offsets and lengths with commas between.
    pub(super) fn parse_list(list: &[u8]) -> Result<Self, Refusal> {
        let mut segments = Self::default();
        if list.is_empty() {
            return Ok(segments);
        }
        let mut numbers = list.split(|byte| *byte == b',').map(decimal);
        while let Some(offset) = numbers.next() {
            let length = numbers.next().flatten();
            let (offset, length) = offset.zip(length).ok_or("its map of holes is damaged")?;
            segments.push(offset, length)?;
        }
        Ok(segments)
    }

    /// The segments, if they are in their order, lie in a file of `size` bytes and
    /// are together `stored` bytes long.
    pub(super) fn check(self, size: u64, stored: u64) -> Result<Vec<Segment>, Refusal> {
        let mut end = 0;
        let mut sum = 0;
        for segment in &self.0 {
            if segment.offset < end {
                return Err("its map of holes is not in order");
            }
            end = segment
                .offset
                .checked_add(segment.length)
                .filter(|end| *end <= size)
                .ok_or("its map of holes goes beyond its end")?;
            // Not above `end`, as segments do not overlap.
            sum += segment.length;
        }
        if sum != stored {
            return Err("its content is not as long as its map of holes says");
        }
        Ok(self.0)
    }
}

/// Reads the map of the format 1.0, which stands before the content: the number of
/// segments, then their offsets and lengths, each on a line of its own.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    segments: Segments,
    count: Option<u64>,
    offset: Option<u64>,
    line: Vec<u8>,
}

impl MapReader {
    /// Takes a block. True if the map ends in it.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<bool, Refusal> {
        for byte in block {
            if *byte != b'\n' {
                // No number is longer.
                if self.line.len() == 20 {
                    return Err("its map of holes is damaged");
                }
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line).ok_or("its map of holes is damaged")?;
            self.line.clear();
            match (self.count, self.offset.take()) {
                (None, _) => self.count = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => self.segments.push(offset, number)?,
            }
            if self.count == Some(self.segments.0.len() as u64) && self.offset.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn finish(self) -> Segments {
        self.segments
    }
}

/// A decimal number without a sign.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
