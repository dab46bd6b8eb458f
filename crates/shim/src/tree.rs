//! What the guest sees of the host: a folder with one entry for each rootfs and each bind
//! mount. The file system device follows what is mounted below it, so that containers
//! can come and go while the machine runs.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use containerd_shim_protos::types::mount::Mount;
use rustix::fs::{CWD, FileType};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::namespace::Host;
use crate::rootfs;

/// Entries at most; each is a mount.
const ENTRIES: u32 = 4096;

/// The folder that is shared with the guest.
#[derive(Debug)]
pub struct Tree {
    folder: PathBuf,
    host: Host,
    next: AtomicU64,
}

/// An entry of the tree. Dropping it takes it away.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    place: Place,
}

/// What an entry is to a container and to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Where the container has it; its rootfs is at `/`.
    pub destination: PathBuf,
    /// Its name in the tree.
    pub name: String,
    /// Whether it is a folder, or else a file.
    pub folder: bool,
}

impl Place {
    /// Whether the container has it as its `/`.
    pub fn is_rootfs(&self) -> bool {
        self.destination == Path::new("/")
    }
}

/// How the entries of a container are named.
#[derive(Debug)]
pub enum Names {
    /// As no entry was: the guest may remember what an old name stood for.
    New,
    /// As the guest knows them already, of which each is used once.
    Known(Vec<Place>),
}

impl Tree {
    /// Makes an empty tree at `folder`, in the shim's own mount namespace.
    pub fn new(folder: PathBuf, host: Host) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(Error::path("make", &folder))?;
        let options = std::ffi::CString::new(format!("size=1m,nr_inodes={ENTRIES},mode=0755"))
            .expect("there is no NUL in it");
        let quiet = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", &folder, "tmpfs", quiet, options.as_c_str())
            .map_err(Error::path("mount a tmpfs at", &folder))?;
        rustix::mount::mount_change(&folder, MountPropagationFlags::SHARED)
            .map_err(Error::path("share the mounts below", &folder))?;
        Ok(Self {
            folder,
            host,
            next: AtomicU64::new(0),
        })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The namespace in which the host's paths are looked up.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes a file or folder of the host an entry.
    pub fn bind(
        &self,
        destination: &Path,
        source: &Path,
        read_only: bool,
        names: &mut Names,
    ) -> Result<Entry> {
        let tree = self
            .host
            .with(|| {
                rustix::mount::open_tree(
                    CWD,
                    source,
                    OpenTreeFlags::OPEN_TREE_CLONE
                        | OpenTreeFlags::OPEN_TREE_CLOEXEC
                        | OpenTreeFlags::AT_RECURSIVE,
                )
            })?
            .map_err(Error::path("share", source))?;
        restrict(&tree, read_only).map_err(Error::path("restrict the mount of", source))?;
        let status = rustix::fs::fstat(&tree).map_err(Error::path("look at", source))?;
        let folder = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        let entry = self.entry(destination, folder, names)?;
        rustix::mount::move_mount(
            &tree,
            "",
            CWD,
            &entry.path,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(Error::path("share", source))?;
        Ok(entry)
    }

    /// Mounts what containerd has prepared for a container's `/` and makes it an entry.
    pub fn mount(&self, mounts: &[Mount], names: &mut Names) -> Result<Entry> {
        let destination = Path::new("/");
        if let [mount] = mounts
            && let Some(source) = rootfs::bound(mount)
        {
            let read_only = rootfs::is_read_only(mount);
            return self.bind(destination, &source, read_only, names);
        }
        let entry = self.entry(destination, true, names)?;
        for mount in mounts {
            rootfs::mount(mount, &entry.path)?;
        }
        Ok(entry)
    }

    fn entry(&self, destination: &Path, folder: bool, names: &mut Names) -> Result<Entry> {
        let place = match names {
            Names::New => Place {
                destination: destination.to_owned(),
                name: self.next.fetch_add(1, Ordering::Relaxed).to_string(),
                folder,
            },
            Names::Known(places) => take(places, destination, folder)?,
        };
        let path = self.folder.join(&place.name);
        let made = if folder {
            std::fs::create_dir(&path)
        } else {
            std::fs::File::create_new(&path).map(drop)
        };
        made.map_err(Error::path("make", &path))?;
        Ok(Entry { path, place })
    }
}

impl Names {
    /// Every name that the guest knows must have been used.
    pub fn all_used(&self) -> Result<()> {
        let left = match self {
            Self::New => None,
            Self::Known(places) => places.first(),
        };
        left.map_or(Ok(()), |place| {
            Err(Error::Invalid(format!(
                "the copy cannot be made: the container of the checkpoint has a bind mount at {}, \
                 and this one has none",
                place.destination.display()
            )))
        })
    }
}

/// The place that a guest knows at a destination. Mounts may lie on top of each other, in
/// their order.
fn take(places: &mut Vec<Place>, destination: &Path, folder: bool) -> Result<Place> {
    let refuse = |reason: String| {
        Err(Error::Invalid(format!(
            "the copy cannot be made: {}: {reason}",
            destination.display()
        )))
    };
    let found = places
        .iter()
        .position(|place| place.destination == destination);
    let Some(place) = found.map(|index| places.remove(index)) else {
        return refuse(
            "the container of the checkpoint has no bind mount here, and its program runs already"
                .to_owned(),
        );
    };
    if place.folder != folder {
        let kind = |folder| if folder { "folder" } else { "file" };
        return refuse(format!(
            "a {} in the checkpoint cannot become a {}",
            kind(place.folder),
            kind(folder)
        ));
    }
    if place.name.parse::<u64>().is_err() {
        return refuse(format!(
            "the checkpoint is damaged: no mount is called {:?}",
            place.name
        ));
    }
    Ok(place)
}

impl Entry {
    /// Its name in the tree.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// What it is to its container and to the guest.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where the guest finds it.
    pub fn guest_path(&self) -> PathBuf {
        Path::new(caisson_protocol::SHARE_ROOT).join(&self.place.name)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Mounts may lie on top of each other; one that is not there ends the list.
        while rustix::mount::unmount(&self.path, UnmountFlags::DETACH).is_ok() {}
        let removed = if self.path.is_dir() {
            std::fs::remove_dir(&self.path)
        } else {
            std::fs::remove_file(&self.path)
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %self.path.display(), "a share's mount point stays");
        }
    }
}

/// The device serves files: it runs none and opens no device. What the host mounts below
/// the source later appears, if the host shares it.
fn restrict(tree: &OwnedFd, read_only: bool) -> std::io::Result<()> {
    let mut attributes = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    if read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    let argument = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_SLAVE,
        userns_fd: 0,
    };
    // SAFETY: the path is a string with its NUL, and the kernel reads as many bytes of
    // the structure as it is told that it has.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const argument,
            size_of_val(&argument),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(destination: &str, name: &str, folder: bool) -> Place {
        Place {
            destination: destination.into(),
            name: name.to_owned(),
            folder,
        }
    }

    #[test]
    fn a_copy_has_the_mounts_of_its_checkpoint() {
        let mut places = vec![
            place("/etc/hosts", "0", false),
            place("/volume", "1", true),
            place("/volume", "2", true),
            place("/", "3", true),
            place("/hostile", "../4", true),
        ];
        let refused = |destination: &str, folder, word: &str| {
            let error = take(&mut places.clone(), Path::new(destination), folder);
            let error = error.expect_err(word).to_string();
            assert!(
                error.contains(destination) && error.contains(word),
                "{error}"
            );
        };
        refused(
            "/etc/hosts",
            true,
            "a file in the checkpoint cannot become a folder",
        );
        refused("/other", true, "has no bind mount here");
        refused("/hostile", true, "damaged");
        let mut name = |destination: &str, folder| {
            let found = take(&mut places, Path::new(destination), folder);
            found.expect(destination).name
        };
        assert_eq!(name("/volume/", true), "1");
        assert_eq!(name("/", true), "3");
        assert_eq!(name("/volume", true), "2");
        let left = Names::Known(places).all_used().expect_err("two are left");
        assert!(left.to_string().contains("at /etc/hosts"), "{left}");
        Names::New.all_used().expect("there is nothing to use");
    }
}
