//! The metadata, once the tree is complete.

use super::directory;
use super::disk::Disk;
use super::file::{FileData, FileLayout};
use super::format::{BLOCK, NULL_BLOCK, Superblock};
use super::plan::{Place, Plan};
use super::spool::Spool;
use super::tree::{Kind, Tree};
use crate::Result;

/// Completes a disk that has the content of all files.
pub(crate) fn write(tree: &Tree, mut disk: Disk, mut spool: Spool) -> Result<()> {
    spool.flush()?;
    let plan = Plan::new(tree, disk.block());
    let meta_start = plan.meta_block * BLOCK;
    disk.check((meta_start + plan.meta_size).next_multiple_of(BLOCK))?;

    let mut buffer = Vec::new();
    for place in plan.places.iter().filter(|place| place.blocks.count > 0) {
        write_blocks(tree, &plan, place, &mut disk, &mut buffer)?;
    }
    debug_assert_eq!(disk.position(), meta_start);
    for place in &plan.places {
        disk.append_zeros(meta_start + place.offset - disk.position())?;
        buffer.clear();
        place.disk.encode(&mut buffer);
        tree.get(place.inode).attributes.xattrs.store(&mut buffer);
        disk.append(&buffer)?;
        write_inline(tree, &plan, place, &mut disk, &spool, &mut buffer)?;
    }
    disk.pad()?;

    let root = plan.numbers[Tree::ROOT.index()];
    let superblock = Superblock {
        // The first inode.
        root: root as u16,
        inodes: plan.places.len() as u64,
        seconds: plan.time.seconds,
        nanoseconds: plan.time.nanoseconds,
        blocks: disk.block(),
        meta_block: plan.meta_block as u32,
        has_chunks: plan.has_chunks,
    };
    disk.finish(&superblock.encode())
}

/// Writes what a folder or a symbolic link has in blocks.
fn write_blocks(
    tree: &Tree,
    plan: &Plan,
    place: &Place,
    disk: &mut Disk,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    debug_assert_eq!(disk.block(), place.blocks.start);
    match &tree.get(place.inode).kind {
        Kind::Directory(_) => {
            let entries = directory::entries(tree, place.inode);
            let blocks = directory::blocks(&entries).take(place.blocks.count as usize);
            for (block, _) in blocks {
                buffer.clear();
                directory::encode(block, tree, &plan.numbers, buffer);
                disk.append(buffer)?;
                disk.pad()?;
            }
        }
        Kind::Symlink(target) => {
            disk.append(target)?;
            disk.pad()?;
        }
        _ => {}
    }
    Ok(())
}

/// Writes what stands behind an inode and its attributes.
fn write_inline(
    tree: &Tree,
    plan: &Plan,
    place: &Place,
    disk: &mut Disk,
    spool: &Spool,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    if place.inline == 0 {
        return Ok(());
    }
    buffer.clear();
    match &tree.get(place.inode).kind {
        Kind::Directory(_) => {
            let entries = directory::entries(tree, place.inode);
            if let Some((block, _)) = directory::blocks(&entries).last() {
                directory::encode(block, tree, &plan.numbers, buffer);
            }
        }
        Kind::Symlink(target) => buffer.extend_from_slice(target),
        Kind::File(data) => match data.layout {
            FileLayout::Plain => {}
            FileLayout::Tail { spooled } => {
                buffer.resize(place.inline as usize, 0);
                spool.read(buffer, spooled)?;
            }
            FileLayout::Chunked { .. } => return write_map(data, disk, buffer),
        },
        _ => {}
    }
    disk.append(buffer)
}

/// Writes the block of each chunk of a file.
fn write_map(file: &FileData, disk: &mut Disk, buffer: &mut Vec<u8>) -> Result<()> {
    let FileLayout::Chunked { bits, data } = &file.layout else {
        return Ok(());
    };
    // At most 2^20 chunks.
    let chunks = (file.map_size() / 4) as u32;
    let mut next = 0;
    let mut block = file.blocks.start;
    for range in data {
        buffer.extend((next..range.start).flat_map(|_| NULL_BLOCK.to_le_bytes()));
        for _ in range.clone() {
            buffer.extend(block.to_le_bytes());
            // The last chunk may be shorter, but has none behind it.
            block = block.wrapping_add(1 << bits);
        }
        next = range.end;
    }
    buffer.extend((next..chunks).flat_map(|_| NULL_BLOCK.to_le_bytes()));
    disk.append(buffer)
}
