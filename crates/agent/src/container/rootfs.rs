//! The files of a container: a read-only image with a writable layer over it.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use caisson_protocol::SHARE_ROOT;
use caisson_protocol::agent;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind_recursive, unmount};

use crate::device;
use crate::disks::{self, Disks};
use crate::error::{self, Error, Result};

/// Where containers have their folders.
const CONTAINERS: &str = "/run/caisson/containers";

/// The mounts of one container and the folder that holds them.
///
/// ```text
/// image/   the image's disk
/// layer/   the writable layer's disk or tmpfs, with upper/ and work/, unless the disk
///          was mounted elsewhere before the container was there
/// rootfs/  both in one
/// files/   what is put over files of the rootfs
/// ```
///
/// A rootfs that is a share or a disk of its own has neither image nor layer.
#[derive(Debug)]
pub struct Rootfs {
    folder: PathBuf,
    /// Mount points in the order of mounting.
    mounted: Vec<PathBuf>,
    /// Device that has come for it and goes with it.
    device: Option<u32>,
    /// Where the writable layer is, unless the host has it.
    layer: Option<PathBuf>,
}

impl Rootfs {
    /// Mounts what the request describes.
    pub fn mount(id: &str, request: &agent::Rootfs, disks: &Disks) -> Result<Self> {
        let folder = Path::new(CONTAINERS).join(error::name("a container", id)?);
        fs::create_dir_all(&folder).map_err(Error::path("make", &folder))?;
        let mut rootfs = Self {
            folder,
            mounted: Vec::new(),
            device: None,
            layer: None,
        };
        let mounted = if let Some(disk) = request.disk.as_ref() {
            rootfs.mount_disk(disk, disks)
        } else if request.share_path.is_empty() {
            rootfs.mount_layers(request, disks)
        } else {
            rootfs.mount_share(&request.share_path)
        };
        if let Err(error) = mounted {
            rootfs.unmount();
            return Err(error);
        }
        Ok(rootfs)
    }

    /// The container's `/`.
    pub fn path(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Where what the container writes is, unless the host has it.
    pub fn layer(&self) -> Option<PathBuf> {
        self.layer.clone()
    }

    /// Whether it is a folder of the host.
    pub fn is_share(&self) -> bool {
        self.layer.is_none() && self.device.is_none()
    }

    /// Where a file of the agent's can be written that is mounted in the container.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join("files").join(name)
    }

    /// Writes files that are put over those of the rootfs. Returns where they are and
    /// where they shall be.
    pub fn write_files(&self, files: &[agent::File]) -> Result<Vec<(PathBuf, PathBuf)>> {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.folder.join("files");
        fs::create_dir_all(&folder).map_err(Error::path("make", &folder))?;
        let places = files_of(&self.path(), files);
        for (file, (path, _)) in files.iter().zip(&places) {
            let mode = fs::Permissions::from_mode(file.mode & 0o777);
            fs::write(path, &file.content)
                .and_then(|()| fs::set_permissions(path, mode))
                .map_err(Error::path("write", path))?;
        }
        Ok(places)
    }

    /// Writes everything to its disk and lets go of it. Can be called again.
    pub fn unmount(&mut self) {
        while let Some(point) = self.mounted.pop() {
            let unmounted = match unmount(&point, UnmountFlags::empty()) {
                // Somebody is still in it: it is written, and goes when they do.
                Err(Errno::BUSY) => {
                    rustix::fs::sync();
                    unmount(&point, UnmountFlags::DETACH)
                }
                unmounted => unmounted,
            };
            if let Err(errno) = unmounted {
                eprintln!("agent: cannot unmount {}: {errno}", point.display());
            }
        }
        if let Some(device) = self.device.take()
            && let Err(error) = device::let_go(&device::name(device))
        {
            eprintln!("agent: {error}");
        }
        // Only memory: what stays is an empty folder in the agent's own tmpfs.
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("agent: cannot remove {}: {error}", self.folder.display());
        }
    }

    fn mount_layers(&mut self, request: &agent::Rootfs, disks: &Disks) -> Result<()> {
        let image = self.point("image")?;
        // A rehearsal has none.
        if !request.image_disk.is_empty() {
            let read_only = MountFlags::RDONLY | MountFlags::NODEV;
            let disk = disks.device(&request.image_disk)?;
            self.mount_at(&image, &disk, "erofs", read_only, None)?;
        }

        let layer = self.mount_layer(request, disks)?;
        self.layer = Some(layer.clone());
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        for folder in [&upper, &work] {
            fs::create_dir_all(folder).map_err(Error::path("make", folder))?;
        }
        copy_owner(&image, &upper)?;
        let rootfs = self.point("rootfs")?;
        disks::mount_overlay(&image, &layer, &rootfs)?;
        self.mounted.push(rootfs);
        Ok(())
    }

    /// Mounts what takes the container's writes. Returns where it is.
    fn mount_layer(&mut self, request: &agent::Rootfs, disks: &Disks) -> Result<PathBuf> {
        if let Some(layer) = disks.take_mounted(&request.scratch_disk) {
            self.mounted.push(layer.clone());
            return Ok(layer);
        }
        let layer = self.point("layer")?;
        if request.scratch_disk.is_empty() {
            let size = match request.tmpfs_size {
                0 => "50%".to_owned(),
                bytes => bytes.to_string(),
            };
            let quiet = MountFlags::NODEV | MountFlags::NOATIME;
            let data = format!("size={size},mode=0755");
            self.mount_at(&layer, Path::new("tmpfs"), "tmpfs", quiet, Some(&data))?;
        } else {
            disks::mount_layer(&disks.device(&request.scratch_disk)?, &layer)?;
            self.mounted.push(layer.clone());
        }
        Ok(layer)
    }

    fn mount_share(&mut self, share_path: &str) -> Result<()> {
        let source = Path::new(SHARE_ROOT).join(error::name("a rootfs", share_path)?);
        let rootfs = self.point("rootfs")?;
        mount_bind_recursive(&source, &rootfs).map_err(Error::path("mount", &source))?;
        self.mounted.push(rootfs);
        Ok(())
    }

    fn mount_disk(&mut self, wanted: &agent::RootfsDisk, disks: &Disks) -> Result<()> {
        device::bind(wanted.device)?;
        self.device = Some(wanted.device);
        let disk = disks.device(&wanted.serial)?;
        let rootfs = self.point("rootfs")?;
        let flags = MountFlags::from_bits_retain(wanted.flags);
        let options = (!wanted.options.is_empty()).then_some(wanted.options.as_str());
        self.mount_at(&rootfs, &disk, &wanted.file_system, flags, options)
    }

    fn point(&self, name: &str) -> Result<PathBuf> {
        let point = self.folder.join(name);
        fs::create_dir_all(&point).map_err(Error::path("make", &point))?;
        Ok(point)
    }

    fn mount_at(
        &mut self,
        point: &Path,
        source: &Path,
        kind: &str,
        flags: MountFlags,
        data: Option<&str>,
    ) -> Result<()> {
        let data = data
            .map(CString::new)
            .transpose()
            .map_err(|_| Error::Invalid("options of a mount have a NUL byte".to_owned()))?;
        mount(source, point, kind, flags, data.as_deref())
            .map_err(Error::path(&format!("mount ({kind})"), source))?;
        self.mounted.push(point.to_owned());
        Ok(())
    }
}

/// Where the files are that are put over those of a rootfs, and where they shall be.
pub(super) fn files_of(rootfs: &Path, files: &[agent::File]) -> Vec<(PathBuf, PathBuf)> {
    let folder = rootfs.with_file_name("files");
    let places = files.iter().enumerate();
    places
        .map(|(number, file)| {
            let place = folder.join(number.to_string());
            (place, PathBuf::from(&file.path))
        })
        .collect()
}

/// The container's `/` takes its owner and mode from the upper folder, which a new disk
/// has as root's: they shall be the image's.
fn copy_owner(image: &Path, upper: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let attributes = |folder: &Path| {
        let metadata = folder.metadata().map_err(Error::path("read", folder))?;
        Ok((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777))
    };
    let (uid, gid, mode) = attributes(image)?;
    if (uid, gid, mode) == attributes(upper)? {
        return Ok(());
    }
    std::os::unix::fs::chown(upper, Some(uid), Some(gid))
        .and_then(|()| fs::set_permissions(upper, fs::Permissions::from_mode(mode)))
        .map_err(Error::path("change the owner of", upper))
}
