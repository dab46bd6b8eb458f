//! Entries of a layer, put together from their headers.

use super::Refusal;
use super::extension::Extension;
use super::header::Header;
use super::sparse::Segment;
use crate::erofs::{Attributes, Timestamp, Xattrs, device_number};
use crate::image_builder::Limits;

/// One entry. Its content is still to be read.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it stands in the archive.
    pub path: Vec<u8>,
    pub attributes: Attributes,
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum EntryKind {
    File {
        /// Size with the holes.
        size: u64,
        /// What is not holes; None if it has none.
        segments: Option<Vec<Segment>>,
    },
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    CharacterDevice(u32),
    BlockDevice(u32),
    Directory,
    Fifo,
}

/// What the type flag of a header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// A file, GNU's old sparse format if true.
    File {
        is_sparse: bool,
    },
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
    LongName,
    LongLink,
    Pax,
    /// Says nothing about a file.
    Comment,
}

impl Flag {
    pub(super) fn of(header: &Header<'_>) -> Result<Self, Refusal> {
        Ok(match header.kind() {
            // Before POSIX, a slash at the end of the name was a folder's only mark.
            0 if header.path().ends_with(b"/") => Self::Directory,
            0 | b'0' | b'7' => Self::File { is_sparse: false },
            b'S' => Self::File { is_sparse: true },
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' => Self::CharacterDevice,
            b'4' => Self::BlockDevice,
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            b'L' => Self::LongName,
            b'K' => Self::LongLink,
            b'x' => Self::Pax,
            // A global header (containerd ignores them as well), a volume's label.
            b'g' | b'V' => Self::Comment,
            _ => return Err("it is of a type that files do not have"),
        })
    }

    /// Whether content follows the header. For the others the size means nothing.
    pub(super) fn has_content(self) -> bool {
        matches!(
            self,
            Self::File { .. } | Self::LongName | Self::LongLink | Self::Pax | Self::Comment
        )
    }
}

/// What an entry is, of those that have no content.
pub(super) fn kind(
    flag: Flag,
    header: &Header<'_>,
    link: Option<Vec<u8>>,
    limits: &Limits,
) -> Result<EntryKind, Refusal> {
    let target = || link.unwrap_or_else(|| header.link());
    let device = || {
        let (major, minor) = header.device()?;
        u32::try_from(major)
            .ok()
            .zip(u32::try_from(minor).ok())
            .and_then(|(major, minor)| device_number(major, minor))
            .ok_or("Linux has no such device number")
    };
    Ok(match flag {
        Flag::HardLink => EntryKind::HardLink(target()),
        Flag::Symlink => {
            let target = target();
            if target.is_empty() || target.contains(&0) {
                return Err("it is a symbolic link to nothing");
            }
            if target.len() > limits.symlink_bytes {
                return Err("it is a symbolic link that is longer than the limit");
            }
            EntryKind::Symlink(target)
        }
        Flag::CharacterDevice => EntryKind::CharacterDevice(device()?),
        Flag::BlockDevice => EntryKind::BlockDevice(device()?),
        Flag::Directory => EntryKind::Directory,
        Flag::Fifo => EntryKind::Fifo,
        _ => return Err("it is of a type that files do not have"),
    })
}

pub(super) fn attributes(
    header: &Header<'_>,
    extension: &Extension,
    limits: &Limits,
) -> Result<Attributes, Refusal> {
    let id = |given: Option<u64>, header: Result<i64, Refusal>| {
        let id = match given {
            Some(id) => u32::try_from(id).ok(),
            None => u32::try_from(header?).ok(),
        };
        // The highest number is Linux's "nobody at all".
        id.filter(|id| *id != u32::MAX)
            .ok_or("its user or group ID is none that Linux has")
    };
    let xattrs = Xattrs::encode(&extension.xattrs)
        .filter(|xattrs| xattrs.len() <= limits.xattr_bytes)
        .ok_or("its extended attributes are larger than the limit")?;
    Ok(Attributes {
        permissions: header.permissions()?,
        uid: id(extension.uid, header.uid())?,
        gid: id(extension.gid, header.gid())?,
        modified: match extension.modified {
            Some(modified) => modified,
            None => Timestamp {
                seconds: header.modified()?,
                nanoseconds: 0,
            },
        },
        xattrs,
    })
}
