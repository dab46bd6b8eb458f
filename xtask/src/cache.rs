//! What is too dear to make again for each clone: the kernel and cargo tools,
//! in `$CAISSON_CACHE` or `~/.cache/caisson`.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The cache's folder.
pub fn root() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CAISSON_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME")
        .context("neither CAISSON_CACHE nor HOME is set: name a folder for the build cache")?;
    Ok(PathBuf::from(home).join(".cache/caisson"))
}

/// Gives the entry `<kind>/<key>`, which `make` fills when it is missing.
///
/// An entry appears whole or not at all: it is made in a folder of its own and
/// renamed. Whoever wants the same entry meanwhile waits for it.
pub fn entry(
    kind: &str,
    key: &str,
    make: impl FnOnce(&std::path::Path) -> Result<()>,
) -> Result<PathBuf> {
    let parent = root()?.join(kind);
    let entry = parent.join(key);
    if entry.exists() {
        return Ok(entry);
    }
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let lock_path = parent.join(format!("{key}.lock"));
    let lock = File::create(&lock_path)
        .with_context(|| format!("cannot create {}", lock_path.display()))?;
    lock.lock()
        .with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if entry.exists() {
        return Ok(entry);
    }
    // Left by a run that was killed: the lock says that nobody works in it.
    let partial = parent.join(format!("{key}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let made = make(&partial).and_then(|()| {
        fs::rename(&partial, &entry).with_context(|| format!("cannot rename {}", partial.display()))
    });
    if made.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
    }
    made.map(|()| entry)
}
