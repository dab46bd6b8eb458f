//! Superblock and inodes as they stand on the disk: `fs/erofs/erofs_fs.h`.

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
const BLOCK_BITS: u8 = 12;
/// An inode's number is its place in units of this many bytes.
pub(super) const SLOT: u64 = 32;
/// Where the superblock stands in block 0.
const SUPERBLOCK_OFFSET: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;

const COMPAT_CHECKSUM: u32 = 0x1;
/// Times are those of modification.
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED: u32 = 0x4;

/// Most blocks of a disk: the last two numbers mean "none" and "full".
pub(super) const MAX_BLOCKS: u64 = u32::MAX as u64 - 1;
/// In a chunk map: no content, zeros.
pub(super) const NULL_BLOCK: u32 = u32::MAX;

/// File types of directory entries and the type bits of modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileType {
    Regular,
    Directory,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Symlink,
}

impl FileType {
    /// `FT_*` of Linux's `fs_types.h`.
    pub(super) fn directory_entry(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharacterDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }

    /// `S_IF*`.
    pub(super) fn mode(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharacterDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// How an inode's content is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In blocks that follow each other.
    FlatPlain = 0,
    /// Like it, but what does not fill a block follows the inode.
    FlatInline = 2,
    /// By a map that follows the inode.
    ChunkBased = 4,
}

/// Whether an inode takes 32 or 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Small numbers only, and the time is the superblock's.
    Compact = 0,
    /// Everything.
    Extended = 1,
}

impl Version {
    pub(super) fn size(self) -> u64 {
        match self {
            Self::Compact => 32,
            Self::Extended => 64,
        }
    }
}

/// An inode as it is stored.
#[derive(Debug)]
pub(super) struct DiskInode {
    pub version: Version,
    pub layout: DataLayout,
    /// `i_xattr_icount`.
    pub xattr_count: u16,
    /// Type and permissions.
    pub mode: u16,
    pub links: u32,
    pub size: u64,
    /// First block, device number or chunk format.
    pub union: u32,
    /// Only for programs whose inode numbers have 32 bits.
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl DiskInode {
    /// Whether the numbers fit a compact inode. The time must be compared with the
    /// superblock's by the caller.
    pub(super) fn fits_compact(&self) -> bool {
        let short = |number: u32| u16::try_from(number).is_ok();
        u32::try_from(self.size).is_ok() && short(self.links) && short(self.uid) && short(self.gid)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let format = self.version as u16 | (self.layout as u16) << 1;
        out.extend(format.to_le_bytes());
        out.extend(self.xattr_count.to_le_bytes());
        out.extend(self.mode.to_le_bytes());
        match self.version {
            Version::Compact => {
                // `fits_compact` holds, so no cast loses anything.
                out.extend((self.links as u16).to_le_bytes());
                out.extend((self.size as u32).to_le_bytes());
                out.extend([0; 4]);
                out.extend(self.union.to_le_bytes());
                out.extend(self.number.to_le_bytes());
                out.extend((self.uid as u16).to_le_bytes());
                out.extend((self.gid as u16).to_le_bytes());
                out.extend([0; 4]);
            }
            Version::Extended => {
                out.extend([0; 2]);
                out.extend(self.size.to_le_bytes());
                out.extend(self.union.to_le_bytes());
                out.extend(self.number.to_le_bytes());
                out.extend(self.uid.to_le_bytes());
                out.extend(self.gid.to_le_bytes());
                out.extend(self.seconds.to_le_bytes());
                out.extend(self.nanoseconds.to_le_bytes());
                out.extend(self.links.to_le_bytes());
                out.extend([0; 16]);
            }
        }
    }
}

/// What the superblock says.
#[derive(Debug)]
pub(super) struct Superblock {
    pub root: u16,
    pub inodes: u64,
    /// Time of every compact inode.
    pub seconds: i64,
    pub nanoseconds: u32,
    pub blocks: u32,
    pub meta_block: u32,
    pub has_chunks: bool,
}

impl Superblock {
    /// Block 0.
    pub(super) fn encode(&self) -> [u8; BLOCK as usize] {
        let mut block = [0; BLOCK as usize];
        let superblock = &mut block[SUPERBLOCK_OFFSET..];
        let mut put = |offset: usize, bytes: &[u8]| {
            superblock[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(24, &self.seconds.to_le_bytes());
        put(32, &self.nanoseconds.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.meta_block.to_le_bytes());
        let incompatible = if self.has_chunks { INCOMPAT_CHUNKED } else { 0 };
        put(80, &incompatible.to_le_bytes());
        // Of the rest of the block, the checksum itself taken as zero.
        let checksum = crc32c(superblock);
        superblock[4..8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// CRC-32C as the kernel's `crc32c(~0, ...)` gives it: not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

/// A device's number as `new_encode_dev` of Linux packs it; None if the kernel has
/// no such number (12 bits of major, 20 of minor).
pub(crate) fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20)
        .then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_rfc_3720() {
        // B.4: CRC of 32 zero bytes, and of 32 bytes of ones, there inverted.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn devices_are_numbered_like_linux() {
        assert_eq!(device_number(1, 3), Some(0x103));
        assert_eq!(device_number(0xabc, 0xf_edcb), Some(0xfeda_bccb));
        assert_eq!(device_number(1 << 12, 0), None);
        assert_eq!(device_number(0, 1 << 20), None);
    }
}
