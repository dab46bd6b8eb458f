//! Snapshots that are file systems of their own, on a block device or in a file.
//!
//! They become disks of the machine. Whoever has such a disk can write onto it what no
//! file system should hold, so that no kernel but the guest's is to read it: the host
//! does not mount it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caisson_sandbox::RootfsDisk;
use containerd_shim_protos::types::mount::Mount;
use rustix::fs::FlockOperation;
use rustix::mount::MountFlags;

use crate::error::{Error, Result};
use crate::namespace::Host;
use crate::rootfs::{self, Options};

/// File systems on disks that the guest's kernel has (`guest/kernel.config`).
const KNOWN: [&str; 2] = ["ext4", "erofs"];

/// How long the machine of a killed shim may take to let go of its disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// The disk that these mounts describe, if they are one.
pub fn of(mounts: &[Mount], host: &Host) -> Result<Option<RootfsDisk>> {
    let Some(mount) = alone(mounts) else {
        return Ok(None);
    };
    let source = Path::new(&mount.source);
    let metadata = host
        .with(|| source.metadata())?
        .map_err(Error::path("find the snapshot", source))?;
    let is_device = metadata.file_type().is_block_device();
    if !is_device && !metadata.is_file() {
        return Ok(None);
    }
    if !KNOWN.contains(&mount.type_.as_str()) {
        tracing::warn!(
            source = mount.source,
            "the guest's kernel has no {}: the host mounts the snapshot and shares it",
            mount.type_
        );
        return Ok(None);
    }
    let options = options(mount);
    let read_only = options.flags.contains(MountFlags::RDONLY);
    let opened = host.with(|| open_alone(source, is_device, read_only))?;
    Ok(Some(RootfsDisk {
        file: Arc::new(opened.map_err(|error| refused(source, error))?),
        read_only,
        file_system: mount.type_.clone(),
        flags: options.flags.bits(),
        options: options.text(),
    }))
}

/// A mount that is the whole rootfs and has a source of its own.
fn alone(mounts: &[Mount]) -> Option<&Mount> {
    let [mount] = mounts else {
        return None;
    };
    let whole = mount.target.is_empty() && rootfs::bound(mount).is_none();
    (whole && mount.source.starts_with('/')).then_some(mount)
}

fn options(mount: &Mount) -> Options {
    let mut options = Options::parse(&mount.options);
    if mount.type_ == "erofs" {
        // It cannot be written to.
        options.flags |= MountFlags::RDONLY;
    }
    options
}

fn refused(source: &Path, error: io::Error) -> Error {
    if is_busy(&error) {
        return Error::State(format!(
            "{} is in use by another container, or mounted on the host",
            source.display()
        ));
    }
    Error::path("open the snapshot", source)(error)
}

fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock
    )
}

/// Opens a snapshot that nobody else writes to. Two kernels that write into one file
/// system destroy it.
fn open_alone(source: &Path, is_device: bool, read_only: bool) -> io::Result<File> {
    let begin = Instant::now();
    loop {
        match open(source, is_device, read_only) {
            Err(error) if is_busy(&error) && begin.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

fn open(source: &Path, is_device: bool, read_only: bool) -> io::Result<File> {
    // Of a block device, it excludes mounts and others who ask for the same (open(2)).
    let exclusive = if is_device && !read_only {
        libc::O_EXCL
    } else {
        0
    };
    let file = File::options()
        .read(true)
        .write(!read_only)
        .custom_flags(exclusive)
        .open(source)?;
    // The machine's descriptor is a copy of this one and keeps the lock.
    let lock = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    rustix::fs::flock(&file, lock)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            type_: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_whole_rootfs_is_a_disk() {
        let device = mount("ext4", "/dev/mapper/a", &[]);
        assert!(alone(std::slice::from_ref(&device)).is_some());
        let below = Mount {
            target: "/below".to_owned(),
            ..device.clone()
        };
        assert!(alone(&[below]).is_none());
        assert!(alone(&[device.clone(), device]).is_none());
        assert!(alone(&[mount("bind", "/x", &["rw"])]).is_none());
        assert!(alone(&[mount("overlay", "overlay", &[])]).is_none());
    }

    #[test]
    fn options_are_for_the_kernel_or_the_file_system() {
        let parsed = options(&mount("ext4", "/s", &["loop", "rw", "discard", "noatime"]));
        assert_eq!(parsed.flags, MountFlags::NOATIME);
        assert_eq!(parsed.text(), "discard");
        let parsed = options(&mount("erofs", "/s", &["loop"]));
        assert_eq!(parsed.flags, MountFlags::RDONLY);
    }

    #[test]
    fn one_writes_or_many_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("snapshot");
        std::fs::write(&path, "").expect("written");
        let busy = |read_only| open(&path, false, read_only).is_err_and(|error| is_busy(&error));
        let writer = open(&path, false, false).expect("opened");
        assert!(busy(false) && busy(true));
        drop(writer);
        let reader = open(&path, false, true).expect("opened");
        assert!(busy(false) && !busy(true));
        drop(reader);
    }
}
