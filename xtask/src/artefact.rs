//! Files of `target/guest/`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::step::target;

/// Path of a guest artefact.
pub fn path(name: &str) -> PathBuf {
    target().join("guest").join(name)
}

/// Writes an artefact so that a machine being started never sees half of it.
pub fn write(name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = path(name);
    let folder = path.parent().expect("an artefact has a folder");
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let partial = folder.join(format!(".{name}.{}", std::process::id()));
    fs::write(&partial, content).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Copies a file to an artefact unless it is there already, byte for byte.
pub fn copy(from: &Path, name: &str) -> Result<PathBuf> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let path = path(name);
    if fs::read(&path).is_ok_and(|present| present == content) {
        return Ok(path);
    }
    write(name, &content)
}

/// The same for a program, which stays one.
pub fn copy_program(from: &Path, name: &str) -> Result<PathBuf> {
    let path = copy(from, name)?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, executable)
        .with_context(|| format!("cannot make {} executable", path.display()))?;
    Ok(path)
}

/// Where the output of building something goes.
pub fn log(name: &str) -> Result<PathBuf> {
    let folder = path("log");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.join(name))
}
