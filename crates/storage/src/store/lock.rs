//! Locks between processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::IoContext;

/// An exclusive lock with a name on disk, gone when it is dropped.
///
/// The kernel releases it when its holder dies (flock(2)), and the file is
/// removed by whoever holds it, so that nothing piles up.
#[derive(Debug)]
pub(crate) struct NamedLock {
    file: File,
    path: PathBuf,
}

impl NamedLock {
    /// Takes the lock, calling `on_wait` before it has to wait.
    pub(crate) fn acquire(path: &Path, on_wait: impl Fn()) -> Result<Self> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    on_wait();
                    file.lock().context("lock", path)?;
                }
                Err(TryLockError::Error(source)) => return Err(source).context("lock", path),
            }
            if is_still_at(&file, path) {
                return Ok(Self {
                    file,
                    path: path.to_owned(),
                });
            }
            // The holder before us removed the file that we waited for.
        }
    }

    /// Takes the lock unless somebody has it.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) if is_still_at(&file, path) => Ok(Some(Self {
                file,
                path: path.to_owned(),
            })),
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(source).context("lock", path),
        }
    }
}

impl Drop for NamedLock {
    fn drop(&mut self) {
        // Removed while still locked: a waiter then finds that its file is not
        // the one at this path any more and starts over.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .context("open", path)
}

/// Whether `file` is what `path` names now.
pub(crate) fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => held.ino() == named.ino() && held.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_holder_at_a_time_and_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let (holders, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = NamedLock::acquire(&path, || {}).unwrap();
                        let now = holders.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert!(!path.exists());
    }

    #[test]
    fn a_held_lock_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let held = NamedLock::try_acquire(&path).unwrap().unwrap();
        assert!(NamedLock::try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(NamedLock::try_acquire(&path).unwrap().is_some());
    }
}
