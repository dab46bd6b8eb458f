//! Encoding and decoding (netlink(7)): a header, a fixed structure of the message's
//! type, attributes. Everything is aligned to four bytes and in the host's byte order.

use std::ops::Range;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;

/// A request in the making.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of a type (`RTM_*`), with flags besides `NLM_F_REQUEST` and the
    /// structure that the type begins with.
    pub(crate) fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(body);
        let mut message = Self { bytes };
        message.align();
        message
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A string that ends with a zero.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Attributes within an attribute.
    pub(crate) fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let begin = self.bytes.len();
        self.push(kind, &[]);
        let mut filled = fill(self);
        let length = (filled.bytes.len() - begin) as u16;
        filled.bytes[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // Not truncated: the longest value is a program of at most 32 KiB.
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The finished bytes, numbered.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A message of the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// Its type.
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    payload: Vec<u8>,
}

impl Reply {
    /// Splits what was received into messages.
    pub(crate) fn all(mut bytes: &[u8]) -> Vec<Self> {
        let mut replies = Vec::new();
        while let (Some(length), Some(kind), Some(sequence)) =
            (u32_at(bytes, 0), u16_at(bytes, 4), u32_at(bytes, 8))
        {
            let length = length as usize;
            let Some(payload) = bytes.get(HEADER..length) else {
                break;
            };
            replies.push(Self {
                kind,
                sequence,
                payload: payload.to_vec(),
            });
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        replies
    }

    /// Bytes of the structure that the type begins with.
    pub(crate) fn body(&self, range: Range<usize>) -> Option<&[u8]> {
        self.payload.get(range)
    }

    pub(crate) fn byte(&self, at: usize) -> Option<u8> {
        self.payload.get(at).copied()
    }

    pub(crate) fn number(&self, at: usize) -> Option<u32> {
        u32_at(&self.payload, at)
    }

    /// The attributes after a structure of `body` bytes.
    pub(crate) fn attributes(&self, body: usize) -> Attributes<'_> {
        Attributes(self.payload.get(body..).unwrap_or_default())
    }
}

/// Attributes one after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        /// Flags in the type: nested, network byte order.
        const TYPE: u16 = 0x3fff;
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE;
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// A string up to its zero.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = Message::new(16, 0, &[1, 2, 3, 4])
            .text(3, "eth0")
            .nested(18, |message| message.text(1, "veth").number(2, 7))
            .number(4, 1500)
            .finish(9);
        assert_eq!(bytes.len() % 4, 0);
        let replies = Reply::all(&bytes);
        assert_eq!((replies.len(), replies[0].sequence), (1, 9));
        let attributes: Vec<_> = replies[0].attributes(4).collect();
        assert_eq!(attributes[0], (3, &b"eth0\0"[..]));
        let inner: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!(text(inner[0].1), "veth");
        assert_eq!(u32_at(inner[1].1, 0), Some(7));
        assert_eq!(attributes[2], (4, &1500_u32.to_ne_bytes()[..]));
    }

    #[test]
    fn cut_messages_end_the_reading() {
        let bytes = Message::new(16, 0, &[0; 16]).text(3, "eth0").finish(1);
        for end in 0..bytes.len() {
            assert!(Reply::all(&bytes[..end]).is_empty());
        }
        assert_eq!(
            Attributes(&[3, 0, 1, 0, 0]).count(),
            0,
            "shorter than its head"
        );
        assert_eq!(Attributes(&[0, 0, 0, 0]).count(), 0);
    }
}
