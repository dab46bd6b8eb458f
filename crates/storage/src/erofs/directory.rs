//! Folders as they stand on the disk.
//!
//! A block of a folder has its entries of twelve bytes first and their names behind
//! them. All names are sorted as bytes, `.` and `..` among them, within blocks and
//! from block to block: the kernel searches by halves.

use super::format::{BLOCK, FileType};
use super::tree::{InodeId, Kind, Tree};

/// `struct erofs_dirent`.
const ENTRY: usize = 12;

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    name: &'a [u8],
    inode: InodeId,
}

/// All names of a folder in their order.
pub(super) fn entries(tree: &Tree, id: InodeId) -> Vec<Entry<'_>> {
    let folder = tree.directory(id);
    let mut entries: Vec<_> = folder
        .children
        .iter()
        .map(|(name, child)| Entry {
            name,
            inode: child.inode,
        })
        .collect();
    for (name, inode) in [(&b"."[..], id), (b"..", folder.parent)] {
        let place = entries.partition_point(|entry| entry.name < name);
        entries.insert(place, Entry { name, inode });
    }
    entries
}

/// The entries of each block, and how many bytes of it they fill.
pub(super) fn blocks<'e, 'a>(
    entries: &'e [Entry<'a>],
) -> impl Iterator<Item = (&'e [Entry<'a>], u64)> {
    let mut left = entries;
    std::iter::from_fn(move || {
        let mut used = 0;
        let count = left
            .iter()
            .take_while(|entry| {
                let fits = used + ENTRY + entry.name.len() <= BLOCK as usize;
                if fits {
                    used += ENTRY + entry.name.len();
                }
                fits
            })
            .count();
        let (block, rest) = left.split_at(count);
        left = rest;
        (count > 0).then_some((block, used as u64))
    })
}

/// One block, without what fills it up. `numbers` has the inodes' numbers.
pub(super) fn encode(block: &[Entry<'_>], tree: &Tree, numbers: &[u64], out: &mut Vec<u8>) {
    let mut name_offset = block.len() * ENTRY;
    for entry in block {
        out.extend(numbers[entry.inode.index()].to_le_bytes());
        // Below the size of a block.
        out.extend((name_offset as u16).to_le_bytes());
        out.push(file_type(&tree.get(entry.inode).kind).directory_entry());
        out.push(0);
        name_offset += entry.name.len();
    }
    for entry in block {
        out.extend_from_slice(entry.name);
    }
}

pub(super) fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Directory(_) => FileType::Directory,
        Kind::File(_) => FileType::Regular,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::CharacterDevice(_) => FileType::CharacterDevice,
        Kind::BlockDevice(_) => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
    }
}
