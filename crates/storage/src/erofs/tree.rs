//! The tree of an image while its layers come in.
//!
//! Layers are numbered from 1. Each folder knows which layer made it and which touched it last, so that a
//! whiteout can tell what lies in lower layers from what its own layer brings,
//! whatever their order in the archive. Nothing here recurses: the depth of a tree
//! is the image's choice, the depth of our stack is not.

use std::collections::BTreeMap;

use super::disk::Blocks;
use super::file::FileData;
use super::xattr::Xattrs;

/// Longest name: Linux's `NAME_MAX`.
const MAX_NAME: usize = 255;
/// Reckoned for a name and its inode beside the bytes that they hold: what they
/// take in memory, generously.
const ENTRY_COST: u64 = 256;

/// Why a tree does not take something.
pub(crate) type Refusal = &'static str;

/// An inode of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InodeId(u32);

impl InodeId {
    /// The inode's place in lists of all inodes.
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// When something was modified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Timestamp {
    pub seconds: i64,
    /// Below a thousand million.
    pub nanoseconds: u32,
}

/// What an inode has whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permissions, set-user-ID, set-group-ID, sticky.
    pub permissions: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: Timestamp,
    pub xattrs: Xattrs,
}

impl Attributes {
    /// Those of a folder that no layer describes.
    fn of_implicit_folder() -> Self {
        Self {
            permissions: 0o755,
            uid: 0,
            gid: 0,
            modified: Timestamp::default(),
            xattrs: Xattrs::default(),
        }
    }

    /// Those of an empty file that no layer describes.
    pub(crate) fn of_empty_file() -> Self {
        Self {
            permissions: 0o644,
            ..Self::of_implicit_folder()
        }
    }
}

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Kind {
    Directory(Directory),
    File(FileData),
    Symlink(Box<[u8]>),
    CharacterDevice(u32),
    BlockDevice(u32),
    Fifo,
}

/// A folder.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(super) parent: InodeId,
    /// The root has 0.
    depth: u32,
    pub(super) children: BTreeMap<Box<[u8]>, Child>,
    /// Layer that made it.
    made: u32,
    /// Last layer that has something in it.
    touched: u32,
    /// Last layer that gives its attributes.
    described: Option<u32>,
    /// Last layer that hides what lower ones have in it.
    opaque: Option<u32>,
}

/// A name in a folder.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) inode: InodeId,
    /// Layer that gives the name, unless it is a folder's.
    layer: u32,
}

/// An inode.
#[derive(Debug)]
pub(crate) struct Inode {
    pub attributes: Attributes,
    pub kind: Kind,
    /// Names of it; none if it is no longer in the tree.
    pub(super) names: u32,
}

/// How large a tree may grow. What is replaced later counts as well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TreeLimits {
    /// Names.
    pub entries: u64,
    /// Bytes in memory.
    pub bytes: u64,
    /// Folders above a name.
    pub depth: u32,
}

/// A tree of files.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    limits: TreeLimits,
    entries: u64,
    bytes: u64,
    unused: Vec<Blocks>,
}

impl Tree {
    pub(crate) const ROOT: InodeId = InodeId(0);

    pub(crate) fn new(limits: TreeLimits) -> Self {
        let root = Inode {
            attributes: Attributes::of_implicit_folder(),
            kind: Kind::Directory(Directory {
                parent: Self::ROOT,
                depth: 0,
                children: BTreeMap::new(),
                made: 0,
                touched: 0,
                described: None,
                opaque: None,
            }),
            names: 1,
        };
        Self {
            inodes: vec![root],
            limits,
            entries: 0,
            bytes: 0,
            unused: Vec::new(),
        }
    }

    /// Number of inodes, removed ones included.
    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    pub(crate) fn get(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    fn get_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// The folder with this number. Only asked for inodes that are folders.
    pub(super) fn directory(&self, id: InodeId) -> &Directory {
        match &self.get(id).kind {
            Kind::Directory(directory) => directory,
            _ => unreachable!("names are only looked up in folders"),
        }
    }

    fn directory_mut(&mut self, id: InodeId) -> &mut Directory {
        match &mut self.get_mut(id).kind {
            Kind::Directory(directory) => directory,
            _ => unreachable!("names are only looked up in folders"),
        }
    }

    pub(crate) fn is_directory(&self, id: InodeId) -> bool {
        matches!(self.get(id).kind, Kind::Directory(_))
    }

    /// The folder above; of the root, itself.
    pub(crate) fn parent(&self, directory: InodeId) -> InodeId {
        self.directory(directory).parent
    }

    /// What has this name in a folder.
    pub(crate) fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        let child = self.directory(directory).children.get(name)?;
        Some(child.inode)
    }

    /// Puts something that is no folder into a folder, in place of what had its name.
    pub(crate) fn insert(
        &mut self,
        directory: InodeId,
        name: &[u8],
        layer: u32,
        attributes: Attributes,
        kind: Kind,
    ) -> Result<(), Refusal> {
        let target = match &kind {
            Kind::Symlink(target) => target.len(),
            Kind::File(data) => data.memory(),
            _ => 0,
        };
        self.charge(name, target + attributes.xattrs.len())?;
        let inode = self.push(attributes, kind);
        self.put(directory, name, layer, inode);
        Ok(())
    }

    /// Gives an inode that is no folder another name.
    pub(crate) fn link(
        &mut self,
        directory: InodeId,
        name: &[u8],
        layer: u32,
        target: InodeId,
    ) -> Result<(), Refusal> {
        if self.is_directory(target) {
            return Err("it is a hard link to a folder");
        }
        self.charge(name, 0)?;
        // First, so that the old name being the target's own does not remove it.
        self.get_mut(target).names += 1;
        self.put(directory, name, layer, target);
        Ok(())
    }

    /// Makes a folder, or describes the one that there is. Without attributes the
    /// layer only has something in it.
    pub(crate) fn insert_directory(
        &mut self,
        directory: InodeId,
        name: &[u8],
        layer: u32,
        attributes: Option<Attributes>,
    ) -> Result<InodeId, Refusal> {
        let xattrs = attributes
            .as_ref()
            .map_or(0, |attributes| attributes.xattrs.len());
        self.charge(name, xattrs)?;
        if let Some(existing) = self.child(directory, name)
            && self.is_directory(existing)
        {
            if let Some(attributes) = attributes {
                self.describe(existing, layer, attributes);
            }
            return Ok(existing);
        }
        let depth = self.directory(directory).depth + 1;
        if depth > self.limits.depth {
            return Err("it lies in more folders than the limit allows");
        }
        let kind = Kind::Directory(Directory {
            parent: directory,
            depth,
            children: BTreeMap::new(),
            made: layer,
            touched: layer,
            described: attributes.is_some().then_some(layer),
            opaque: None,
        });
        let inode = self.push(
            attributes.unwrap_or_else(Attributes::of_implicit_folder),
            kind,
        );
        self.put(directory, name, layer, inode);
        Ok(inode)
    }

    /// Gives a folder its attributes.
    pub(crate) fn describe(&mut self, directory: InodeId, layer: u32, attributes: Attributes) {
        self.directory_mut(directory).described = Some(layer);
        self.get_mut(directory).attributes = attributes;
        self.touch(directory, layer);
    }

    /// Hides what lower layers have under a name. What this layer has there stays.
    pub(crate) fn hide(&mut self, directory: InodeId, name: &[u8], layer: u32) {
        let Some(child) = self.directory(directory).children.get(name) else {
            return;
        };
        let inode = child.inode;
        if !self.is_of_layer(child, layer) {
            self.remove(directory, name);
        } else if self.is_directory(inode) {
            self.hide_content(inode, layer);
            self.forget_description(inode, layer);
        }
    }

    /// Hides what lower layers have in a folder. What this layer has there stays.
    pub(crate) fn hide_content(&mut self, directory: InodeId, layer: u32) {
        let mut pending = vec![directory];
        while let Some(id) = pending.pop() {
            let folder = self.directory_mut(id);
            // Of what this layer made, nothing is older; what it hid once has
            // nothing left to hide. So each folder is gone through once for a layer.
            if folder.made == layer || folder.opaque == Some(layer) {
                continue;
            }
            folder.opaque = Some(layer);
            let (kept, hidden): (Vec<_>, Vec<_>) = std::mem::take(&mut folder.children)
                .into_iter()
                .partition(|(_, child)| self.is_of_layer(child, layer));
            for (_, child) in hidden {
                self.drop_name(child.inode);
            }
            for (_, child) in &kept {
                if self.is_directory(child.inode) {
                    self.forget_description(child.inode, layer);
                    pending.push(child.inode);
                }
            }
            self.directory_mut(id).children = kept.into_iter().collect();
        }
    }

    /// Removes a name and, if it was the last, what had it.
    pub(crate) fn remove(&mut self, directory: InodeId, name: &[u8]) {
        if let Some(child) = self.directory_mut(directory).children.remove(name) {
            self.drop_name(child.inode);
        }
    }

    /// Blocks on the disk that nothing in the tree names since this was called last.
    pub(crate) fn take_unused(&mut self) -> Vec<Blocks> {
        std::mem::take(&mut self.unused)
    }

    /// Checks a name and counts it.
    fn charge(&mut self, name: &[u8], bytes: usize) -> Result<(), Refusal> {
        if name.len() > MAX_NAME {
            return Err("its name is longer than 255 bytes");
        }
        self.entries += 1;
        self.bytes += ENTRY_COST + (name.len() + bytes) as u64;
        // Inodes are numbered with 32 bits.
        if self.entries > self.limits.entries.min(u64::from(u32::MAX) / 2) {
            return Err("the image has more entries than its limit");
        }
        if self.bytes > self.limits.bytes {
            return Err("the names and attributes of the image take more memory than its limit");
        }
        Ok(())
    }

    fn push(&mut self, attributes: Attributes, kind: Kind) -> InodeId {
        let id = InodeId(self.inodes.len() as u32);
        self.inodes.push(Inode {
            attributes,
            kind,
            names: 1,
        });
        id
    }

    fn put(&mut self, directory: InodeId, name: &[u8], layer: u32, inode: InodeId) {
        let child = Child { inode, layer };
        let folder = self.directory_mut(directory);
        if let Some(replaced) = folder.children.insert(name.into(), child) {
            self.drop_name(replaced.inode);
        }
        self.touch(directory, layer);
    }

    /// Notes that a layer has something in a folder, and so in all above it.
    fn touch(&mut self, mut id: InodeId, layer: u32) {
        loop {
            let folder = self.directory_mut(id);
            // Then all above it are as well: folders do not move. The root is its
            // own parent, so this ends there.
            if folder.touched == layer {
                return;
            }
            folder.touched = layer;
            id = folder.parent;
        }
    }

    fn is_of_layer(&self, child: &Child, layer: u32) -> bool {
        match &self.get(child.inode).kind {
            Kind::Directory(folder) => folder.touched == layer,
            _ => child.layer == layer,
        }
    }

    /// Attributes that come from a layer which is hidden are hidden with it.
    fn forget_description(&mut self, directory: InodeId, layer: u32) {
        let folder = self.directory_mut(directory);
        if folder.described != Some(layer) {
            folder.described = None;
            self.get_mut(directory).attributes = Attributes::of_implicit_folder();
        }
    }

    fn drop_name(&mut self, id: InodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let inode = self.get_mut(id);
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            inode.attributes.xattrs = Xattrs::default();
            match std::mem::replace(&mut inode.kind, Kind::Fifo) {
                Kind::Directory(folder) => {
                    pending.extend(folder.children.values().map(|child| child.inode));
                }
                Kind::File(data) if data.blocks.count > 0 => self.unused.push(data.blocks),
                _ => {}
            }
        }
    }
}
