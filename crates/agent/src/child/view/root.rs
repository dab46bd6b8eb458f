//! Paths of a container, resolved within its rootfs whatever links lie on the way.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A rootfs that its own links cannot lead out of.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map(Self)
            .map_err(Error::path("open the rootfs", path))
    }

    /// The rootfs itself.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// What lies at a path.
    pub(super) fn existing(&self, path: &Path) -> Result<OwnedFd> {
        self.resolve(path).map_err(Error::path("find", path))
    }

    /// What lies at a path, if anything does.
    pub(super) fn find(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.resolve(path) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Error::path("find", path)(errno)),
        }
    }

    /// The folder at a path; it and those above it are made if they are not there.
    pub(super) fn folder(&self, path: &Path) -> Result<OwnedFd> {
        let failed = || Error::path("make the folder", path);
        let found = match self.resolve(path) {
            Err(Errno::NOENT) => None,
            found => Some(found.map_err(failed())?),
        };
        let folder = match found {
            Some(folder) => folder,
            None => {
                let (parent, name) = self.parent(path)?;
                make(rustix::fs::mkdirat(
                    &parent,
                    name,
                    Mode::from_raw_mode(0o755),
                ))
                .map_err(failed())?;
                self.resolve(path).map_err(failed())?
            }
        };
        let kind = rustix::fs::fstat(&folder).map_err(failed())?.st_mode;
        if rustix::fs::FileType::from_raw_mode(kind) != rustix::fs::FileType::Directory {
            return Err(failed()(Errno::NOTDIR));
        }
        Ok(folder)
    }

    /// The file at a path; it and the folders above it are made if they are not there.
    pub(super) fn file(&self, path: &Path) -> Result<OwnedFd> {
        let failed = || Error::path("make the file", path);
        match self.resolve(path) {
            Err(Errno::NOENT) => {}
            found => return found.map_err(failed()),
        }
        let (parent, name) = self.parent(path)?;
        let created = rustix::fs::openat(
            &parent,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        );
        make(created.map(drop)).map_err(failed())?;
        self.resolve(path).map_err(failed())
    }

    /// The folder above a path, made if need be, and the path's last name.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        let last = path.components().next_back();
        let (Some(parent), Some(Component::Normal(name))) = (path.parent(), last) else {
            return Err(Error::Invalid(format!(
                "{} cannot be made in a rootfs",
                path.display()
            )));
        };
        Ok((self.folder(parent)?, name))
    }

    fn resolve(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            &self.0,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }
}

/// Somebody else may have made it: whoever looks next sees what it is.
fn make(made: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().expect("temporary folder");
        let rootfs = outside.path().join("rootfs");
        fs::create_dir(&rootfs).expect("made");
        symlink(outside.path(), rootfs.join("absolute")).expect("linked");
        symlink("../../../..", rootfs.join("up")).expect("linked");
        let root = Root::open(&rootfs).expect("opened");

        root.folder(Path::new("/up/a/b")).expect("made");
        assert!(rootfs.join("a/b").is_dir());
        root.file(Path::new("/a/../c/file")).expect("made");
        assert!(rootfs.join("c/file").is_file());
        // The link names a folder that the rootfs does not have.
        assert!(root.folder(Path::new("/absolute/d")).is_err());
        assert!(!outside.path().join("d").exists());
        assert!(
            root.find(Path::new("/none/at/all"))
                .expect("looked")
                .is_none()
        );
        assert!(root.folder(Path::new("/c/file")).is_err());
    }
}
