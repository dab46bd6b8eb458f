//! What a container sees of files: its rootfs with everything that is mounted over it.
//!
//! Built by a child in a mount namespace of its own, with the agent's files still
//! around it. The image decides what lies in the rootfs, so no path is used below it
//! before it has been resolved as if the rootfs were `/` ([`root::Root`]).

mod copy_up;
mod device;
mod mask;
mod option;
mod overlay;
mod premade;
mod root;

use std::path::{Path, PathBuf};

use caisson_protocol::agent::{ContainerDescription, Mount};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_move,
};

pub use self::premade::PremadeMounts;
use self::root::Root;
use super::descriptor_path;
use crate::error::{Error, Result};

/// Type of a mount in the writable layer: an anonymous volume, or one that begins with
/// what its source has.
const VOLUME: &str = "volume";

/// A container's files, before they are put together.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Where the agent has mounted the rootfs.
    pub rootfs: &'a Path,
    /// Where it has mounted what the container writes, if that is apart.
    pub layer: Option<&'a Path>,
    /// File systems that are there already.
    pub premade: &'a PremadeMounts,
    /// The container's description.
    pub description: &'a ContainerDescription,
    /// Files of the agent's and the paths in the container over which they are put.
    pub files: &'a [(PathBuf, PathBuf)],
}

impl View<'_> {
    /// Puts everything in its place and makes it the root of this process, which is
    /// in a mount namespace of its own. Nothing of the agent's files can be reached
    /// any more.
    pub fn enter(&self) -> Result<()> {
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .map_err(Error::system("separate the container's mounts"))?;
        let root = Root::open(self.rootfs)?;
        let mounts = self.description.mounts.as_slice();
        for mount in mounts {
            self.place(&root, mount)?;
        }
        if let Some(mount) = new_file_system(mounts, Path::new("/dev")) {
            let is_filled = self.premade(mount).is_some();
            device::populate(&root, &self.description.devices, is_filled)?;
        }
        for (source, target) in self.files {
            if !mounts.iter().any(|mount| destination(mount) == target) {
                bind_file(&root, source, target)?;
            }
        }
        self.set_parameters()?;
        let is_left = |path: &&Path| !self.premade.protects(path, self.description);
        let read_only = self.description.read_only_paths.iter().map(Path::new);
        for path in read_only.filter(is_left) {
            mask::read_only(&root, path)?;
        }
        let masked = self.description.masked_paths.iter().map(Path::new);
        for path in masked.filter(is_left) {
            mask::mask(&root, path)?;
        }
        self.create_working_folder(&root)?;
        if self.description.read_only_rootfs {
            remount(&descriptor_path(root.descriptor()), MountFlags::RDONLY)
                .map_err(Error::system("make the rootfs read-only"))?;
        }
        pivot(&root)
    }

    fn place(&self, root: &Root, mount: &Mount) -> Result<()> {
        let destination = destination(mount);
        let failed = || Error::path("mount", destination);
        if mount.bind {
            return bind(root, mount);
        }
        if mount.kind == VOLUME && mount.source.is_empty() {
            return volume(root, mount);
        }
        if mount.kind == VOLUME {
            overlay::place(root, self.layer, Path::new(&mount.source), destination)?;
            return restrict(root, mount);
        }
        let target = root.folder(destination)?;
        if let Some(point) = self.premade(mount) {
            return mount_move(point, descriptor_path(&target).as_str()).map_err(failed());
        }
        rustix::mount::mount(
            &mount.source,
            descriptor_path(&target).as_str(),
            &mount.kind,
            option::flags(mount),
            option::data(mount).as_deref(),
        )
        .map_err(failed())?;
        option::propagate(mount, root)
    }

    /// Where a file system is that is just as a mount asks for.
    fn premade(&self, mount: &Mount) -> Option<&Path> {
        self.premade.find(mount, self.description)
    }

    /// Kernel parameters of the container's own namespaces; the agent's `/proc` shows
    /// those of whoever writes.
    fn set_parameters(&self) -> Result<()> {
        for (key, value) in &self.description.sysctls {
            let path = crate::configure::sysctl_path(key)?;
            std::fs::write(&path, value).map_err(Error::path("set the kernel parameter", &path))?;
        }
        Ok(())
    }

    /// A working folder that the image does not have is made, as Docker does.
    fn create_working_folder(&self, root: &Root) -> Result<()> {
        match self.description.process.as_ref() {
            Some(process) => root.folder(Path::new(&process.working_folder)).map(drop),
            None => Ok(()),
        }
    }
}

/// The mount of a folder, if it is not one of the host's or the image's but a new tmpfs.
fn new_file_system<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let mut mounts = mounts.iter().rev();
    let mount = mounts.find(|mount| destination(mount) == path)?;
    (!mount.bind).then_some(mount)
}

fn destination(mount: &Mount) -> &Path {
    Path::new(&mount.destination)
}

fn bind(root: &Root, mount: &Mount) -> Result<()> {
    let (source, destination) = (Path::new(&mount.source), destination(mount));
    let failed = || Error::path("mount", destination);
    let is_folder = source
        .metadata()
        .map_err(Error::path("find", source))?
        .is_dir();
    let target = if is_folder {
        root.folder(destination)?
    } else {
        root.file(destination)?
    };
    let target = descriptor_path(&target);
    if mount.copy_up && is_folder {
        copy_up::fill(source, Path::new(&target)).map_err(Error::path("fill", source))?;
    }
    let bound = if mount.recursive {
        mount_bind_recursive(source, target.as_str())
    } else {
        rustix::mount::mount_bind(source, target.as_str())
    };
    bound.map_err(failed())?;
    restrict(root, mount)?;
    option::propagate(mount, root)
}

/// A volume that lives in the writable layer: a mount of its own, so that it can be
/// written although the rootfs is read-only.
fn volume(root: &Root, mount: &Mount) -> Result<()> {
    let destination = destination(mount);
    let failed = || Error::path("mount", destination);
    // Held open until it is mounted: the path leads through the descriptor.
    let target = root.folder(destination)?;
    let path = descriptor_path(&target);
    rustix::mount::mount_bind(path.as_str(), path.as_str()).map_err(failed())?;
    restrict(root, mount)
}

/// Gives a new bind mount its flags.
fn restrict(root: &Root, mount: &Mount) -> Result<()> {
    let flags = option::flags(mount);
    if flags.is_empty() {
        return Ok(());
    }
    let destination = destination(mount);
    // The name means the new mount now, an older descriptor what is below it.
    let target = root.existing(destination)?;
    remount(&descriptor_path(&target), flags).map_err(Error::path("mount", destination))
}

fn bind_file(root: &Root, source: &Path, destination: &Path) -> Result<()> {
    let target = root.file(destination)?;
    rustix::mount::mount_bind(source, descriptor_path(&target))
        .map_err(Error::path("mount", destination))
}

/// Adds flags to a bind mount; those it has stay.
fn remount(target: &str, flags: MountFlags) -> rustix::io::Result<()> {
    let held = rustix::fs::statvfs(target)?.f_flag;
    let mut kept = MountFlags::empty();
    for (flag, bit) in [
        (rustix::fs::StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (
            rustix::fs::StatVfsMountFlags::RELATIME,
            MountFlags::RELATIME,
        ),
    ] {
        if held.contains(flag) {
            kept |= bit;
        }
    }
    rustix::mount::mount_remount(target, MountFlags::BIND | kept | flags, c"")
}

fn pivot(root: &Root) -> Result<()> {
    let enter = || {
        rustix::process::fchdir(root.descriptor())?;
        // With one path for both, the old root ends up on top of the new one.
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    enter().map_err(Error::system("enter the container's rootfs"))
}

/// An empty file system over a folder.
fn mount_nothing(target: &str) -> rustix::io::Result<()> {
    mount(
        "tmpfs",
        target,
        "tmpfs",
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        Some(c"size=0,mode=0555"),
    )
}
