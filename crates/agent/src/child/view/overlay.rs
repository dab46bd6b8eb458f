//! A volume that begins with what the host shares, and whose changes stay in the
//! container's writable layer.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use rustix::mount::MountFlags;

use super::copy_up::copy_attributes;
use super::root::Root;
use crate::child::descriptor_path;
use crate::error::{self, Error, Result};

/// Folder of the layer with what such volumes have become.
const VOLUMES: &str = "volumes";

/// Mounts the container's version of `source` on `destination`. It is the same one when
/// the container is started again.
pub(super) fn place(
    root: &Root,
    layer: Option<&Path>,
    source: &Path,
    destination: &Path,
) -> Result<()> {
    let layer = layer.ok_or_else(|| Error::Missing("writable layer".to_owned()))?;
    let name = source.file_name().and_then(|name| name.to_str());
    let name = error::name("a volume", name.unwrap_or_default())?;
    let folder = layer.join(VOLUMES).join(name);
    fs::create_dir_all(&folder).map_err(Error::path("make", &folder))?;
    if source.is_dir() {
        self::folder(root, &folder, source, destination)
    } else {
        file(root, &folder, source, destination)
    }
}

fn folder(root: &Root, own: &Path, source: &Path, destination: &Path) -> Result<()> {
    let (upper, work) = (own.join("upper"), own.join("work"));
    if !upper.exists() {
        fs::create_dir(&upper).map_err(Error::path("make", &upper))?;
        copy_attributes(source, &upper).map_err(Error::path("make", &upper))?;
    }
    fs::create_dir_all(&work).map_err(Error::path("make", &work))?;
    let target = root.folder(destination)?;
    // Paths of the agent's own, without commas and colons.
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        source.display(),
        upper.display(),
        work.display()
    );
    let data = CString::new(data)
        .map_err(|error| Error::path("mount", destination)(std::io::Error::from(error)))?;
    rustix::mount::mount(
        "overlay",
        descriptor_path(&target).as_str(),
        "overlay",
        MountFlags::NODEV | MountFlags::NOSUID,
        Some(data.as_c_str()),
    )
    .map_err(Error::path("mount", destination))
}

fn file(root: &Root, own: &Path, source: &Path, destination: &Path) -> Result<()> {
    let copy = own.join("file");
    if !copy.exists() {
        fs::copy(source, &copy)
            .and_then(|_| copy_attributes(source, &copy))
            .map_err(Error::path("copy", source))?;
    }
    let target = root.file(destination)?;
    rustix::mount::mount_bind(copy, descriptor_path(&target).as_str())
        .map_err(Error::path("mount", destination))
}
