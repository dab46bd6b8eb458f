//! Paths of entries, and the way from them to a folder of the tree.

use super::Refusal;
use crate::erofs::{InodeId, Kind, Tree};
use crate::image_builder::Limits;

/// Most symbolic links on one way, as in Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Most names on one way, those in symbolic links among them: twice what a path can
/// have. Otherwise forty long links would make each entry cost tens of thousands.
const MAX_STEPS: usize = 4096;

/// A path as names below the root. Leading slashes, doubled ones and `.` mean
/// nothing. `..` is refused: no program that makes layers writes it, and programs
/// that read them disagree on what it means.
pub(super) fn normalise(path: &[u8], limits: &Limits) -> Result<Vec<u8>, Refusal> {
    if path.contains(&0) {
        return Err("its name has a NUL in it");
    }
    let mut normal = Vec::with_capacity(path.len().min(limits.path_bytes));
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err("its name has `..` in it"),
            _ => {}
        }
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(name);
        if normal.len() > limits.path_bytes {
            return Err("its name is longer than the limit");
        }
    }
    Ok(normal)
}

/// The folder's part of a normal path, and the last name. None for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.is_empty() => None,
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((b"", path)),
    }
}

/// Names that are still to be gone through.
struct Way {
    path: Vec<u8>,
    position: usize,
}

impl Way {
    fn next(&mut self) -> Option<&[u8]> {
        let rest = self
            .path
            .get(self.position..)
            .filter(|rest| !rest.is_empty())?;
        let length = rest
            .iter()
            .position(|byte| *byte == b'/')
            .unwrap_or(rest.len());
        self.position += length + 1;
        Some(&rest[..length])
    }
}

/// Goes to a folder as a process would whose root is the tree's: symbolic links are
/// followed, and none leads out. Folders that are missing are made for the layer
/// `create`; without one, None is given for them.
pub(super) fn resolve(
    tree: &mut Tree,
    path: &[u8],
    create: Option<u32>,
) -> Result<Option<InodeId>, Refusal> {
    let mut folder = Tree::ROOT;
    let mut links = 0;
    let mut steps = 0;
    let mut ways = vec![Way {
        path: path.to_vec(),
        position: 0,
    }];
    while let Some(way) = ways.last_mut() {
        let Some(name) = way.next() else {
            ways.pop();
            continue;
        };
        steps += 1;
        if steps > MAX_STEPS {
            return Err("the way to it through symbolic links is too long");
        }
        let child = match name {
            b"" | b"." => continue,
            b".." => tree.parent(folder),
            name => match (tree.child(folder, name), create) {
                (Some(child), _) => child,
                (None, Some(layer)) => tree.insert_directory(folder, name, layer, None)?,
                (None, None) => return Ok(None),
            },
        };
        match &tree.get(child).kind {
            Kind::Directory(_) => folder = child,
            Kind::Symlink(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err("the way to it has more than 40 symbolic links");
                }
                if target.starts_with(b"/") {
                    folder = Tree::ROOT;
                }
                ways.push(Way {
                    path: target.to_vec(),
                    position: 0,
                });
            }
            _ => return Err("it lies in something that is no folder"),
        }
    }
    Ok(Some(folder))
}
