//! Where everything goes, decided before the metadata is written: folders name
//! inodes by their place.

use std::collections::HashMap;

use super::directory;
use super::disk::Blocks;
use super::file::{FileLayout, MAX_INLINE};
use super::format::{BLOCK, DataLayout, DiskInode, SLOT, Version};
use super::tree::{Inode, InodeId, Kind, Timestamp, Tree};

/// One inode's place and form.
#[derive(Debug)]
pub(super) struct Place {
    pub inode: InodeId,
    pub disk: DiskInode,
    /// Bytes from the start of the metadata.
    pub offset: u64,
    /// Blocks of a folder or a long symbolic link.
    pub blocks: Blocks,
    /// Bytes behind the inode and its attributes that belong to the content.
    pub inline: u64,
}

/// The disk to be.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order in which they are written.
    pub places: Vec<Place>,
    /// Number of each inode; 0 if it is no longer in the tree.
    pub numbers: Vec<u64>,
    /// First block after those of files and folders.
    pub meta_block: u64,
    /// Bytes of metadata.
    pub meta_size: u64,
    /// Time of the compact inodes.
    pub time: Timestamp,
    pub has_chunks: bool,
}

impl Plan {
    /// Lays out a tree whose files end before block `next`.
    pub(super) fn new(tree: &Tree, next: u32) -> Self {
        let order = order(tree);
        let time = commonest_time(tree, &order);
        let mut plan = Self {
            places: Vec::with_capacity(order.len()),
            numbers: vec![0; tree.len()],
            meta_block: u64::from(next),
            // Slot 0 stays empty: readers of folders take inode 0 for "no file".
            meta_size: SLOT,
            time,
            has_chunks: false,
        };
        for inode in order {
            plan.place(tree, inode);
        }
        plan
    }

    fn place(&mut self, tree: &Tree, id: InodeId) {
        let inode = tree.get(id);
        let content = Content::of(tree, id, self.meta_block);
        self.meta_block += u64::from(content.blocks.count);
        self.has_chunks |= content.layout == DataLayout::ChunkBased;
        let attributes = &inode.attributes;
        let mut disk = DiskInode {
            version: Version::Extended,
            layout: content.layout,
            xattr_count: attributes.xattrs.count(),
            mode: directory::file_type(&inode.kind).mode() | attributes.permissions,
            links: links(tree, inode),
            size: content.size,
            union: content.union,
            number: self.places.len() as u32 + 1,
            uid: attributes.uid,
            gid: attributes.gid,
            seconds: attributes.modified.seconds,
            nanoseconds: attributes.modified.nanoseconds,
        };
        if disk.fits_compact() && attributes.modified == self.time {
            disk.version = Version::Compact;
        }
        let head = disk.version.size() + attributes.xattrs.stored_size();
        // What the kernel reads at once is in one block: the inode always, and the
        // end of the content with all that is before it.
        let mut whole = disk.version.size();
        if content.layout == DataLayout::FlatInline {
            whole = head + content.inline;
            if whole > BLOCK {
                // Attributes that large leave no room in the inode's block: its end
                // must only be in one block itself.
                let tail = self.meta_size + head;
                if tail % BLOCK + content.inline > BLOCK {
                    let gap = (tail.next_multiple_of(BLOCK) - tail).next_multiple_of(SLOT);
                    self.meta_size += gap;
                }
                whole = 0;
            }
        }
        if self.meta_size % BLOCK + whole > BLOCK {
            self.meta_size = self.meta_size.next_multiple_of(BLOCK);
        }
        self.numbers[id.index()] = self.meta_size / SLOT;
        self.places.push(Place {
            inode: id,
            disk,
            offset: self.meta_size,
            blocks: content.blocks,
            inline: content.inline,
        });
        self.meta_size = (self.meta_size + head + content.inline).next_multiple_of(SLOT);
    }
}

/// How the content of an inode is stored.
struct Content {
    size: u64,
    layout: DataLayout,
    union: u32,
    /// Blocks that are still to be written.
    blocks: Blocks,
    inline: u64,
}

impl Content {
    fn of(tree: &Tree, id: InodeId, next: u64) -> Self {
        let none = Self {
            size: 0,
            layout: DataLayout::FlatPlain,
            union: 0,
            blocks: Blocks::default(),
            inline: 0,
        };
        match &tree.get(id).kind {
            Kind::Fifo => none,
            Kind::CharacterDevice(number) | Kind::BlockDevice(number) => Self {
                union: *number,
                ..none
            },
            Kind::File(data) => match &data.layout {
                FileLayout::Plain => Self {
                    size: data.size,
                    union: data.blocks.start,
                    ..none
                },
                FileLayout::Tail { .. } => Self {
                    size: data.size,
                    layout: DataLayout::FlatInline,
                    union: data.blocks.start,
                    inline: data.size % BLOCK,
                    ..none
                },
                FileLayout::Chunked { bits, .. } => Self {
                    size: data.size,
                    layout: DataLayout::ChunkBased,
                    union: u32::from(*bits),
                    inline: data.map_size(),
                    ..none
                },
            },
            Kind::Symlink(target) => Self::to_be_written(target.len() as u64, next),
            Kind::Directory(_) => {
                let entries = directory::entries(tree, id);
                let (full, last) = directory::blocks(&entries)
                    .fold((0, 0), |(full, last), (_, used)| {
                        (full + (last > 0) as u64, used)
                    });
                Self::to_be_written(full * BLOCK + last, next)
            }
        }
    }

    fn to_be_written(size: u64, next: u64) -> Self {
        let tail = size % BLOCK;
        let (blocks, inline) = match tail {
            1..=MAX_INLINE => (size / BLOCK, tail),
            _ => (size.div_ceil(BLOCK), 0),
        };
        Self {
            size,
            layout: match inline {
                0 => DataLayout::FlatPlain,
                _ => DataLayout::FlatInline,
            },
            // The whole disk is checked before any of this is written.
            union: next as u32,
            blocks: Blocks {
                start: next as u32,
                count: blocks as u32,
            },
            inline,
        }
    }
}

/// All inodes, the root first, the contents of a folder side by side.
fn order(tree: &Tree) -> Vec<InodeId> {
    let mut is_known = vec![false; tree.len()];
    let mut order = vec![Tree::ROOT];
    let mut folders = vec![Tree::ROOT];
    while let Some(folder) = folders.pop() {
        let first = order.len();
        for child in tree.directory(folder).children.values() {
            if !std::mem::replace(&mut is_known[child.inode.index()], true) {
                order.push(child.inode);
            }
        }
        let is_folder = |id: &&InodeId| matches!(tree.get(**id).kind, Kind::Directory(_));
        folders.extend(order[first..].iter().rev().filter(is_folder));
    }
    order
}

/// The time that lets most inodes be compact; of several, the earliest.
fn commonest_time(tree: &Tree, order: &[InodeId]) -> Timestamp {
    let mut counts: HashMap<Timestamp, u64> = HashMap::new();
    for id in order {
        *counts.entry(tree.get(*id).attributes.modified).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(time, count)| (*count, std::cmp::Reverse(*time)))
        .map_or(Timestamp::default(), |(time, _)| time)
}

/// Names of an inode, those of the format among them: a folder's `.` and the `..`
/// of each folder in it.
fn links(tree: &Tree, inode: &Inode) -> u32 {
    match &inode.kind {
        Kind::Directory(folder) => {
            let is_folder = |id| matches!(tree.get(id).kind, Kind::Directory(_));
            let folders = folder
                .children
                .values()
                .filter(|child| is_folder(child.inode));
            2 + folders.count() as u32
        }
        _ => inode.names,
    }
}
