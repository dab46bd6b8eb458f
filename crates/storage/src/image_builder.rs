//! Layers in, one disk out.

use std::io::Read;
use std::path::Path;

use crate::erofs::{self, Attributes, Disk, FileWriter, Kind, Spool, Tree, TreeLimits};
use crate::layer::{self, Target};
use crate::{Digest, Error, Result};

/// How large an image may be. What is beyond is refused while it is read: a small
/// download can unpack to anything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Most bytes of all layers together, uncompressed, and most bytes of the disk.
    pub image_bytes: u64,
    /// Most bytes of one file, its holes included. Above 16 TiB it has no effect.
    pub file_bytes: u64,
    /// Most entries of all layers together, and folders that no layer describes.
    pub entries: u64,
    /// Most bytes of memory for names, targets of links and attributes of all layers.
    pub tree_bytes: u64,
    /// Longest path of an entry in bytes.
    pub path_bytes: usize,
    /// Most folders above an entry.
    pub path_depth: u32,
    /// Longest target of a symbolic link in bytes.
    pub symlink_bytes: usize,
    /// Most bytes of extended attributes of one entry.
    pub xattr_bytes: usize,
}

/// Most bytes of a file whatever the limits: what ext4 can have in one as well.
const MAX_FILE: u64 = 16 << 40;

impl Default for Limits {
    /// Several times what the largest known images need.
    fn default() -> Self {
        Self {
            image_bytes: 128 << 30,
            file_bytes: MAX_FILE,
            entries: 2_000_000,
            tree_bytes: 1 << 30,
            // Linux's PATH_MAX without the NUL.
            path_bytes: 4095,
            path_depth: 1024,
            symlink_bytes: 4095,
            xattr_bytes: 64 << 10,
        }
    }
}

/// Makes one EROFS disk of the layers of an image.
///
/// The layers are read once and never touch the host's file system: content goes
/// straight to the disk, names to a tree in memory. The same layers give the same
/// bytes. After an error the builder is of no more use; the unfinished disk has no
/// superblock, and its file is the caller's to remove.
#[derive(Debug)]
pub struct ImageBuilder {
    target: Target,
    limits: Limits,
    /// Layers so far.
    layers: u32,
    /// Their length, uncompressed.
    bytes: u64,
    has_failed: bool,
}

impl ImageBuilder {
    /// Begins a disk at `path`, where there must be nothing. The ends of files are
    /// kept in a file without a name beside it until [`finish`](Self::finish).
    pub fn create(path: &Path, mut limits: Limits) -> Result<Self> {
        limits.file_bytes = limits.file_bytes.min(MAX_FILE);
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let tree_limits = TreeLimits {
            entries: limits.entries,
            bytes: limits.tree_bytes,
            depth: limits.path_depth,
        };
        Ok(Self {
            target: Target {
                disk: Disk::create(path, limits.image_bytes)?,
                spool: Spool::create(folder)?,
                tree: Tree::new(tree_limits),
            },
            limits,
            layers: 0,
            bytes: 0,
            has_failed: false,
        })
    }

    /// Lays the next layer over those before. It is a tar archive, plain or compressed
    /// with gzip or zstd; it is read to its end. `diff_id` is the digest that its
    /// uncompressed bytes must have; the one that they have is returned.
    pub fn add_layer(&mut self, layer: impl Read, diff_id: Option<&Digest>) -> Result<Digest> {
        self.check_usable()?;
        // Until the layer is complete and the right one.
        self.has_failed = true;
        self.layers += 1;
        let left = self.limits.image_bytes - self.bytes;
        let (length, actual) =
            layer::add_layer(&mut self.target, layer, self.layers, left, &self.limits)?;
        match diff_id {
            Some(expected) if *expected != actual => {
                return Err(Error::LayerDigest {
                    expected: expected.clone(),
                    actual,
                });
            }
            _ => {}
        }
        self.bytes += length;
        self.has_failed = false;
        Ok(actual)
    }

    /// Adds what is put over in every container, where the image has nothing of that name,
    /// as Docker does. It would else be made in the writable layer of each.
    pub fn add_mount_points(&mut self) -> Result<()> {
        self.check_usable()?;
        self.layers += 1;
        add_mount_points(&mut self.target, self.layers)
    }

    /// Writes the tree, which makes the disk one.
    pub fn finish(self) -> Result<()> {
        self.check_usable()?;
        let Target { tree, disk, spool } = self.target;
        erofs::write(&tree, disk, spool)
    }

    fn check_usable(&self) -> Result<()> {
        if self.has_failed {
            return Err(Error::Layer {
                entry: "all of it".to_owned(),
                reason: "the layer before it could not be added".to_owned(),
            });
        }
        Ok(())
    }
}

fn add_mount_points(target: &mut Target, layer: u32) -> Result<()> {
    const FOLDERS: [&str; 4] = ["dev", "etc", "proc", "sys"];
    const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
    let refuse = |name: &str| {
        let entry = name.to_owned();
        move |reason: &'static str| Error::Layer {
            entry,
            reason: reason.to_owned(),
        }
    };
    let tree = &mut target.tree;
    for name in FOLDERS {
        if tree.child(Tree::ROOT, name.as_bytes()).is_none() {
            tree.insert_directory(Tree::ROOT, name.as_bytes(), layer, None)
                .map_err(refuse(name))?;
        }
    }
    let etc = tree.child(Tree::ROOT, b"etc");
    let Some(etc) = etc.filter(|etc| tree.is_directory(*etc)) else {
        return Ok(());
    };
    for name in FILES {
        if tree.child(etc, name.as_bytes()).is_none() {
            let empty = FileWriter::new(&mut target.disk, &mut target.spool, 0).finish()?;
            let (kind, attributes) = (Kind::File(empty), Attributes::of_empty_file());
            tree.insert(etc, name.as_bytes(), layer, attributes, kind)
                .map_err(refuse(name))?;
        }
    }
    Ok(())
}
