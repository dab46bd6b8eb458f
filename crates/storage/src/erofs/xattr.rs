//! Extended attributes as they stand behind an inode.

use std::collections::BTreeMap;

/// Name prefixes that the format has numbers for. The ACLs have no more to their name.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
/// Linux's `XATTR_NAME_MAX`.
const MAX_NAME: usize = 255;
/// The count in an inode has 16 bits and is in units of four bytes, the header
/// being the first.
const MAX_SIZE: usize = (u16::MAX as usize - 1) * 4;
/// Bytes before the first attribute: a filter and a count that are not used.
const HEADER: usize = 12;

/// Name of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct XattrKey {
    index: u8,
    suffix: Box<[u8]>,
}

impl XattrKey {
    /// Takes a full name apart. None if the format cannot hold such an attribute.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        let (suffix, index) = PREFIXES
            .iter()
            .find_map(|(prefix, index)| Some((name.strip_prefix(*prefix)?, *index)))?;
        let is_acl = matches!(index, 2 | 3);
        (suffix.is_empty() == is_acl && name.len() <= MAX_NAME).then(|| Self {
            index,
            suffix: suffix.into(),
        })
    }
}

/// All attributes of an inode, encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Xattrs(Box<[u8]>);

impl Xattrs {
    /// None if they are more than an inode can have.
    pub(crate) fn encode(xattrs: &BTreeMap<XattrKey, Vec<u8>>) -> Option<Self> {
        let mut encoded = Vec::new();
        for (key, value) in xattrs {
            encoded.push(u8::try_from(key.suffix.len()).ok()?);
            encoded.push(key.index);
            encoded.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
            encoded.extend_from_slice(&key.suffix);
            encoded.extend_from_slice(value);
            encoded.resize(encoded.len().next_multiple_of(4), 0);
        }
        (encoded.len() <= MAX_SIZE).then(|| Self(encoded.into()))
    }

    /// Bytes in memory, about those on the disk.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes behind the inode.
    pub(super) fn stored_size(&self) -> u64 {
        match self.0.len() {
            0 => 0,
            length => (HEADER + length) as u64,
        }
    }

    /// `i_xattr_icount` of the inode.
    pub(super) fn count(&self) -> u16 {
        match self.0.len() {
            0 => 0,
            // At most MAX_SIZE.
            length => (1 + length / 4) as u16,
        }
    }

    pub(super) fn store(&self, out: &mut Vec<u8>) {
        if !self.0.is_empty() {
            out.extend([0; HEADER]);
            out.extend_from_slice(&self.0);
        }
    }
}
