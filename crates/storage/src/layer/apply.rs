//! Layers laid over a tree.

use std::io::Read;

use super::Refusal;
use super::entry::{Entry, EntryKind};
use super::path::{normalise, resolve, split};
use super::tar::{TarReader, refuse};
use crate::Digest;
use crate::erofs::{Disk, FileWriter, InodeId, Kind, Spool, Tree};
use crate::image_builder::Limits;

/// Before the name of something that a layer removes.
const WHITEOUT: &[u8] = b".wh.";
/// In a folder of which a layer removes everything.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Before names that AUFS uses for itself. They were never files of an image.
const AUFS: &[u8] = b".wh..wh.";

/// What layers are put into.
#[derive(Debug)]
pub(crate) struct Target {
    pub tree: Tree,
    pub disk: Disk,
    pub spool: Spool,
}

/// Puts a layer into the target. `number` is 1 for the lowest; `limit` is how long the
/// layer may be. Gives its length and digest, uncompressed.
pub(crate) fn add_layer(
    target: &mut Target,
    layer: impl Read,
    number: u32,
    limit: u64,
    limits: &Limits,
) -> crate::Result<(u64, Digest)> {
    let mut archive = TarReader::new(layer, limit, limits)?;
    while let Some(entry) = archive.next()? {
        apply(target, &mut archive, entry, number, limits)?;
    }
    let layer = archive.finish()?;
    target.disk.release(target.tree.take_unused())?;
    Ok(layer)
}

fn apply(
    target: &mut Target,
    archive: &mut TarReader<'_>,
    entry: Entry,
    layer: u32,
    limits: &Limits,
) -> crate::Result<()> {
    let refuse = |reason: Refusal| refuse(&entry.path, reason);
    let path = normalise(&entry.path, limits).map_err(refuse)?;
    let tree = &mut target.tree;
    let Some((parent, name)) = split(&path) else {
        return match entry.kind {
            EntryKind::Directory => {
                tree.describe(Tree::ROOT, layer, entry.attributes);
                Ok(())
            }
            _ => Err(refuse("it has no name")),
        };
    };
    match Mark::of(parent, name).map_err(refuse)? {
        Mark::None => {}
        Mark::Ignored => return Ok(()),
        mark => return hide(tree, parent, mark, layer).map_err(refuse),
    }
    // Linux's own whiteout: it would hide the name in the guest.
    if let EntryKind::CharacterDevice(0) = entry.kind {
        return hide(tree, parent, Mark::Whiteout(name), layer).map_err(refuse);
    }

    let folder = resolve(tree, parent, Some(layer))
        .map_err(refuse)?
        .ok_or_else(|| refuse("its folder is missing"))?;
    let kind = match entry.kind {
        EntryKind::Directory => {
            return tree
                .insert_directory(folder, name, layer, Some(entry.attributes))
                .map(|_| ())
                .map_err(refuse);
        }
        EntryKind::HardLink(existing) => {
            return link(tree, folder, name, &existing, layer, limits).map_err(refuse);
        }
        EntryKind::File { size, segments } => {
            let mut file = FileWriter::new(&mut target.disk, &mut target.spool, size);
            let mut position = 0;
            for segment in segments.iter().flatten() {
                file.skip(segment.offset - position)?;
                copy(archive, &mut file, segment.length)?;
                position = segment.offset + segment.length;
            }
            match segments {
                None => copy(archive, &mut file, size)?,
                Some(_) => file.skip(size - position)?,
            }
            Kind::File(file.finish()?)
        }
        EntryKind::Symlink(target) => Kind::Symlink(target.into()),
        EntryKind::CharacterDevice(number) => Kind::CharacterDevice(number),
        EntryKind::BlockDevice(number) => Kind::BlockDevice(number),
        EntryKind::Fifo => Kind::Fifo,
    };
    target
        .tree
        .insert(folder, name, layer, entry.attributes, kind)
        .map_err(refuse)
}

fn copy(
    archive: &mut TarReader<'_>,
    file: &mut FileWriter<'_>,
    mut length: u64,
) -> crate::Result<()> {
    while length > 0 {
        let bytes = archive.peek(length)?;
        file.write(bytes)?;
        let count = bytes.len();
        archive.take(count);
        length -= count as u64;
    }
    Ok(())
}

fn link(
    tree: &mut Tree,
    folder: InodeId,
    name: &[u8],
    existing: &[u8],
    layer: u32,
    limits: &Limits,
) -> Result<(), Refusal> {
    const MISSING: Refusal = "it is a hard link to something that does not exist";
    let path = normalise(existing, limits)?;
    let (parent, existing) = split(&path).ok_or("it is a hard link to a folder")?;
    let parent = resolve(tree, parent, None)?.ok_or(MISSING)?;
    let inode = tree.child(parent, existing).ok_or(MISSING)?;
    tree.link(folder, name, layer, inode)
}

/// What a name means beside itself.
#[derive(Debug, Clone, Copy)]
enum Mark<'a> {
    None,
    /// Hides this name of lower layers.
    Whiteout(&'a [u8]),
    /// Hides all names of lower layers in the folder.
    Opaque,
    Ignored,
}

impl<'a> Mark<'a> {
    fn of(parent: &[u8], name: &'a [u8]) -> Result<Self, Refusal> {
        for folder in parent.split(|byte| *byte == b'/') {
            if folder.starts_with(AUFS) {
                return Ok(Self::Ignored);
            }
            if folder.starts_with(WHITEOUT) {
                return Err("it lies in a folder whose name begins with `.wh.`, which is reserved");
            }
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Self::None),
            _ if name == OPAQUE => Ok(Self::Opaque),
            _ if name.starts_with(AUFS) => Ok(Self::Ignored),
            Some(b"" | b"." | b"..") => Err("it hides what is no name"),
            Some(hidden) => Ok(Self::Whiteout(hidden)),
        }
    }
}

fn hide(tree: &mut Tree, parent: &[u8], mark: Mark<'_>, layer: u32) -> Result<(), Refusal> {
    // A folder that is not there has nothing to hide.
    let Some(folder) = resolve(tree, parent, None)? else {
        return Ok(());
    };
    match mark {
        Mark::Whiteout(name) => tree.hide(folder, name, layer),
        Mark::Opaque => tree.hide_content(folder, layer),
        Mark::None | Mark::Ignored => {}
    }
    Ok(())
}
