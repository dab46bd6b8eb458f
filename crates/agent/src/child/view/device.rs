//! The devices and links that every container finds in `/dev` (OCI runtime-spec,
//! config-linux, Default Devices and Dev symbolic links).

use std::os::fd::OwnedFd;
use std::path::Path;

use caisson_protocol::agent::Device;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::root::Root;
use crate::error::{Error, Result};

/// Name, major and minor number.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Name and what it links to.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills a new `/dev`, which may have what [`add_default`] adds.
pub(super) fn populate(root: &Root, asked: &[Device], is_filled: bool) -> Result<()> {
    let folder = root.folder(Path::new("/dev"))?;
    for device in asked {
        let path = Path::new(&device.path);
        if is_filled && is_default(path) {
            // As the specification has it.
            let name = path.file_name().unwrap_or_default();
            rustix::fs::unlinkat(&folder, name, AtFlags::empty())
                .map_err(Error::path("replace the device", path))?;
        }
        add(root, device)?;
    }
    if is_filled {
        return Ok(());
    }
    add_default(&folder)
}

fn is_default(path: &Path) -> bool {
    DEFAULT
        .iter()
        .any(|(name, ..)| path == Path::new("/dev").join(name))
}

/// Adds what every container has to a `/dev`.
pub(super) fn add_default(folder: &OwnedFd) -> Result<()> {
    for (name, major, minor) in DEFAULT {
        let number = rustix::fs::makedev(major, minor);
        node(folder, name, FileType::CharacterDevice, 0o666, number)
            .map_err(Error::path("make the device", Path::new(name)))?;
    }
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, folder, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::path("make the link", Path::new(name))(errno)),
        }
    }
    Ok(())
}

fn add(root: &Root, device: &Device) -> Result<()> {
    let path = Path::new(&device.path);
    let failed = || Error::path("make the device", path);
    let (Some(parent), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err(Error::Invalid(format!("{} is no device", path.display())));
    };
    let kind = FileType::from_raw_mode(device.mode);
    let number = rustix::fs::makedev(device.major, device.minor);
    let folder = root.folder(parent)?;
    node(&folder, name, kind, device.mode, number).map_err(failed())?;
    let owner = (device.uid.map(Uid::from_raw), device.gid.map(Gid::from_raw));
    rustix::fs::chownat(&folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed())
}

/// Makes a node with exactly this mode; the umask takes nothing away.
fn node(
    folder: &OwnedFd,
    name: &str,
    kind: FileType,
    mode: u32,
    number: u64,
) -> rustix::io::Result<()> {
    let before = rustix::process::umask(Mode::empty());
    let made = rustix::fs::mknodat(
        folder,
        name,
        kind,
        Mode::from_raw_mode(mode & 0o7777),
        number,
    );
    rustix::process::umask(before);
    match made {
        // The specification may name a default device itself.
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}
