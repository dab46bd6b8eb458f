//! The disks of this machine, by their serial numbers.
//!
//! Those of a template are looked up before it is frozen, and the new one among them is
//! mounted: a fork finds that done. The host gives it a copy of the very disk that was
//! mounted, and never another, for what the kernel knows of it is in memory.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::error::{self, Error, Result};

/// Block devices by name.
const BLOCK_DEVICES: &str = "/sys/block";

/// Where a template mounts its new disk.
const NEW: &str = "/run/caisson/disks";

/// Disks by their serial numbers.
#[derive(Debug, Default)]
pub struct Disks {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Devices of those that were there before the template was frozen.
    devices: HashMap<String, PathBuf>,
    /// The one that is mounted, until somebody wants it, and where.
    mounted: Option<(String, PathBuf)>,
}

impl Disks {
    /// Does what can be done before a template is frozen; `new` is the disk to mount.
    pub fn prepare(&self, new: Option<&str>) -> Result<()> {
        let devices = list()?.collect::<HashMap<_, _>>();
        let mut known = self.known();
        if let Some(serial) = new {
            let device = devices.get(serial).ok_or_else(|| missing(serial))?;
            let point = Path::new(NEW).join(error::name("a disk", serial)?);
            mount_new(device, &point)?;
            known.mounted = Some((serial.to_owned(), point));
        }
        known.devices = devices;
        Ok(())
    }

    /// The device of a disk.
    pub fn device(&self, serial: &str) -> Result<PathBuf> {
        if let Some(device) = self.known().devices.get(serial) {
            return Ok(device.clone());
        }
        let mut disks = list()?;
        let found = disks.find(|(found, _)| found == serial);
        found
            .map(|(_, device)| device)
            .ok_or_else(|| missing(serial))
    }

    /// Where a disk has been mounted before the template was frozen. It is the caller's
    /// from then on.
    pub fn take_mounted(&self, serial: &str) -> Option<PathBuf> {
        let mounted = &mut self.known().mounted;
        let (_, point) = mounted.take_if(|(mounted, _)| mounted == serial)?;
        Some(point)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list() -> Result<impl Iterator<Item = (String, PathBuf)>> {
    let folder = Path::new(BLOCK_DEVICES);
    let entries = fs::read_dir(folder).map_err(Error::path("list", folder))?;
    Ok(entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let serial = fs::read_to_string(folder.join(&name).join("serial")).ok()?;
        Some((serial.trim().to_owned(), Path::new("/dev").join(name)))
    }))
}

/// What the kernel has to read and to write of a new mount, it does here and not in each
/// fork.
fn mount_new(device: &Path, point: &Path) -> Result<()> {
    fs::create_dir_all(point).map_err(Error::path("make", point))?;
    mount_layer(device, point)?;
    for folder in ["upper", "work"].map(|name| point.join(name)) {
        clear(&folder).map_err(Error::path("clear", &folder))?;
    }
    try_out(point)?;
    let folder = fs::File::open(point).map_err(Error::path("open", point))?;
    rustix::fs::syncfs(folder).map_err(Error::path("write", point))
}

/// Removes what a rehearsal has left in a folder.
fn clear(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Lays the layer over an empty folder for a moment: overlayfs makes its work folder, and
/// tries out what the layer's file system can do, which the guest's kernel remembers.
fn try_out(layer: &Path) -> Result<()> {
    let (empty, both) = (Path::new(NEW).join("empty"), Path::new(NEW).join("both"));
    for folder in [&empty, &both] {
        fs::create_dir(folder).map_err(Error::path("make", folder))?;
    }
    mount_overlay(&empty, layer, &both)?;
    unmount(&both, UnmountFlags::empty()).map_err(Error::path("unmount", &both))?;
    for folder in [&both, &empty] {
        fs::remove_dir(folder).map_err(Error::path("remove", folder))?;
    }
    Ok(())
}

/// Lays a writable layer over a folder.
pub fn mount_overlay(below: &Path, layer: &Path, point: &Path) -> Result<()> {
    // Without an identity of its own, which would be one more thing to draw and to write.
    let data = format!(
        "lowerdir={},upperdir={},workdir={},uuid=null",
        below.display(),
        layer.join("upper").display(),
        layer.join("work").display()
    );
    let data = CString::new(data).expect("the data is put together from names without NUL bytes");
    mount(
        "overlay",
        point,
        "overlay",
        MountFlags::empty(),
        Some(data.as_c_str()),
    )
    .map_err(Error::path("mount (overlay)", point))
}

/// Mounts the disk of a writable layer.
pub fn mount_layer(device: &Path, point: &Path) -> Result<()> {
    const QUIET: MountFlags = MountFlags::NODEV.union(MountFlags::NOATIME);
    mount(device, point, "ext4", QUIET, None::<&std::ffi::CStr>)
        .map_err(Error::path("mount (ext4)", device))
}

fn missing(serial: &str) -> Error {
    Error::Missing(format!("disk with the serial number {serial:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_disk_is_taken_once_by_its_name() {
        let disks = Disks::default();
        let mounted = Some(("scratch".to_owned(), PathBuf::from("/point")));
        disks.known().mounted = mounted;
        assert_eq!(disks.take_mounted("image"), None);
        assert_eq!(disks.take_mounted("scratch"), Some("/point".into()));
        assert_eq!(disks.take_mounted("scratch"), None);
    }
}
