//! The tree that the device serves: an empty folder with the host's files and folders
//! attached to it, which is all that the process can see.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::jail;

/// Longest name of an entry (`NAME_MAX`).
const NAME_LIMIT: usize = 255;

/// A file or folder of the host and its name in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    name: OsString,
    source: PathBuf,
    read_only: bool,
}

impl Mount {
    /// Parses `NAME=SOURCE`. The name ends at the first `=`; the rest is a path, whatever
    /// characters it has.
    pub fn parse(argument: OsString, read_only: bool) -> Result<Self, &'static str> {
        let mut bytes = argument.into_vec();
        let end = bytes
            .iter()
            .position(|&byte| byte == b'=')
            .ok_or("there is no `=` after the name")?;
        let source = PathBuf::from(OsString::from_vec(bytes.split_off(end + 1)));
        bytes.truncate(end);
        let name = OsString::from_vec(bytes);
        if !is_component(&name) {
            return Err("the name is not a single path component");
        }
        if !source.is_absolute() {
            return Err("the source is not an absolute path");
        }
        Ok(Self {
            name,
            source,
            read_only,
        })
    }

    /// A copy of the source's mounts that is attached nowhere and can do no more than
    /// this mount is for.
    fn detached(&self) -> Result<OwnedFd> {
        let tree = rustix::mount::open_tree(
            CWD,
            &self.source,
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE,
        )
        .with_context(|| format!("cannot share {}", self.source.display()))?;
        // The process serves files. It runs none, and opens no device.
        let mut attributes =
            libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
        if self.read_only {
            attributes |= libc::MOUNT_ATTR_RDONLY;
        }
        // Cut off from what happens to others.
        jail::change_mount(&tree, attributes, libc::MS_PRIVATE, libc::AT_RECURSIVE)
            .with_context(|| format!("cannot restrict the mount of {}", self.source.display()))?;
        Ok(tree)
    }

    /// Makes the entry of `root` to which the mount `tree` can be attached.
    fn make_entry(&self, root: &OwnedFd, tree: &OwnedFd) -> Result<()> {
        let make = || {
            let status = rustix::fs::fstat(tree)?;
            if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
                rustix::fs::mkdirat(root, &self.name, Mode::from_raw_mode(0o555))
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(root, &self.name, flags, Mode::from_raw_mode(0o444)).map(drop)
            }
        };
        make().with_context(|| format!("cannot make the entry {}", self.name.display()))
    }
}

fn is_component(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_LIMIT
        && bytes != b"."
        && bytes != b".."
        && !bytes.contains(&b'/')
}

/// Makes a tree of these mounts the root of the process, which must have a mount
/// namespace of its own. Returns the folder of the process's own descriptors, through
/// which the file server opens files a second time.
pub fn enter(mounts: &[Mount]) -> Result<File> {
    let trees: Vec<OwnedFd> = mounts.iter().map(Mount::detached).collect::<Result<_>>()?;
    let root = jail::empty_root()?;
    for (mount, tree) in mounts.iter().zip(&trees) {
        mount.make_entry(&root, tree)?;
    }
    jail::attach_root(&root)?;
    for (mount, tree) in mounts.iter().zip(&trees) {
        rustix::mount::move_mount(
            tree,
            "",
            &root,
            &mount.name,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .with_context(|| format!("cannot attach {}", mount.source.display()))?;
    }
    enter_root(&root)
}

/// A copy of the mounts at and below `folder` that later ones appear in, and that
/// passes nothing back.
pub fn follow(folder: &Path) -> Result<OwnedFd> {
    let failed = || format!("cannot share {}", folder.display());
    let tree = rustix::mount::open_tree(
        CWD,
        folder,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .with_context(failed)?;
    jail::change_mount(&tree, 0, libc::MS_SLAVE, libc::AT_RECURSIVE).with_context(failed)?;
    Ok(tree)
}

/// Makes a tree that follows the host's mounts the root of the process; see [`enter`].
pub fn enter_tree(tree: &OwnedFd) -> Result<File> {
    jail::attach_root(tree)?;
    enter_root(tree)
}

fn enter_root(root: &OwnedFd) -> Result<File> {
    // Only this mount: those below it have flags of their own.
    jail::change_mount(root, libc::MOUNT_ATTR_RDONLY, 0, 0)
        .context("cannot make the device's root read-only")?;
    // As a mount of its own it has no parent: `..` leads nowhere, least of all to the
    // other processes and settings in /proc.
    let own_descriptors = rustix::mount::open_tree(
        CWD,
        "/proc/self/fd",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .context("cannot open /proc/self/fd")?;
    jail::pivot_into(root)?;
    Ok(own_descriptors.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(argument: &[u8]) -> Result<(OsString, PathBuf), &'static str> {
        let mount = Mount::parse(OsString::from_vec(argument.to_vec()), true)?;
        assert!(mount.read_only);
        Ok((mount.name, mount.source))
    }

    #[test]
    fn a_source_may_be_any_absolute_path() {
        for source in [&b"/a=b:ro"[..], b"/", b"/\xff\xfe", b"/a b,c"] {
            let argument = [b"0=", source].concat();
            let (name, parsed) = parse(&argument).expect("valid");
            assert_eq!(name, "0");
            assert_eq!(parsed.as_os_str().as_bytes(), source);
        }
    }

    #[test]
    fn a_name_is_one_component() {
        let long = [&[b'x'; 256][..], b"=/a"].concat();
        for argument in [&b"=/a"[..], b".=/a", b"..=/a", b"a/b=/a", b"/=/a", &long] {
            assert_eq!(
                parse(argument),
                Err("the name is not a single path component")
            );
        }
        assert_eq!(parse(b"/a"), Err("there is no `=` after the name"));
        assert_eq!(parse(b"a=b"), Err("the source is not an absolute path"));
        assert_eq!(parse(b"a="), Err("the source is not an absolute path"));
    }
}
