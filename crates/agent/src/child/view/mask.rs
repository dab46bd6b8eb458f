//! Parts of `/proc` and `/sys` that a container shall not see or not write.

use std::path::Path;

use rustix::fs::FileType;
use rustix::mount::MountFlags;

use super::root::Root;
use super::{descriptor_path, mount_nothing, remount};
use crate::error::{Error, Result};

/// Hides what lies at a path, if anything does (OCI runtime-spec, maskedPaths).
pub(super) fn mask(root: &Root, path: &Path) -> Result<()> {
    let Some(found) = root.find(path)? else {
        return Ok(());
    };
    let failed = || Error::path("mask", path);
    let mode = rustix::fs::fstat(&found).map_err(failed())?.st_mode;
    let target = descriptor_path(&found);
    let masked = if FileType::from_raw_mode(mode) == FileType::Directory {
        mount_nothing(&target)
    } else {
        // The agent's: the container's is the image's to choose.
        rustix::mount::mount_bind("/dev/null", target.as_str())
    };
    masked.map_err(failed())
}

/// Refuses writes below a path, if anything is there (readonlyPaths).
pub(super) fn read_only(root: &Root, path: &Path) -> Result<()> {
    let Some(found) = root.find(path)? else {
        return Ok(());
    };
    let failed = || Error::path("make read-only", path);
    let target = descriptor_path(&found);
    rustix::mount::mount_bind_recursive(target.as_str(), target.as_str()).map_err(failed())?;
    // The name means the new mount now, the descriptor what is below it.
    let bound = root.existing(path)?;
    remount(&descriptor_path(&bound), MountFlags::RDONLY).map_err(failed())
}
