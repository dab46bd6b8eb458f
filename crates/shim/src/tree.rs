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
    name: String,
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
    pub fn bind(&self, source: &Path, read_only: bool) -> Result<Entry> {
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
        let entry = self.entry(folder)?;
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

    /// Mounts what containerd has prepared and makes it an entry.
    pub fn mount(&self, mounts: &[Mount]) -> Result<Entry> {
        if let [mount] = mounts
            && let Some(source) = rootfs::bound(mount)
        {
            return self.bind(&source, rootfs::is_read_only(mount));
        }
        let entry = self.entry(true)?;
        for mount in mounts {
            rootfs::mount(mount, &entry.path)?;
        }
        Ok(entry)
    }

    /// A new name: the guest may remember what an old one stood for.
    fn entry(&self, folder: bool) -> Result<Entry> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.folder.join(&name);
        let made = if folder {
            std::fs::create_dir(&path)
        } else {
            std::fs::File::create_new(&path).map(drop)
        };
        made.map_err(Error::path("make", &path))?;
        Ok(Entry { path, name })
    }
}

impl Entry {
    /// Its name in the tree.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the guest finds it.
    pub fn guest_path(&self) -> PathBuf {
        Path::new(caisson_protocol::SHARE_ROOT).join(&self.name)
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
