//! Where snapshots are kept.
//!
//! ```text
//! <SHA-256 of the name>/   a snapshot: the machine's files, scratch.img, snapshot.json
//! .new                     one that is being made
//! .gone-...                one that is being removed
//! lock                     held while one is made
//! ```
//!
//! As with templates, a maker holds the lock, which the kernel releases however the maker
//! ends, and a snapshot appears by one rename when all of it is on the disk. It stays until
//! it is removed: nobody else could make it again.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caisson_hypervisor::Template;
use caisson_hypervisor::template::{FileIdentity, Recipe, Unfit};
use caisson_storage::Digest;

use super::SnapshotRecord;

const LOCK: &str = "lock";
const NEW: &str = ".new";
const SCRATCH: &str = "scratch.img";
const RECORD: &str = "snapshot.json";

/// How often a lock is tried that somebody else has.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// The snapshots of one installation.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    folder: PathBuf,
}

/// A snapshot in the store.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// As it was made.
    pub record: SnapshotRecord,
    directory: PathBuf,
}

/// A snapshot that is being made. What there is of it goes when this is dropped.
#[derive(Debug)]
pub struct Making {
    name: String,
    folder: PathBuf,
    lock: File,
}

impl SnapshotStore {
    /// The store of the installation at `root`; its folder need not exist.
    pub fn new(root: &Path) -> Self {
        Self {
            folder: root.join("snapshots"),
        }
    }

    /// Begins to make one, when nobody else does. The name must be free.
    pub async fn begin(&self, name: &str) -> Result<Making> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let lock = loop {
            match self.try_lock()? {
                Some(lock) => break lock,
                None => tokio::time::sleep(LOCK_POLL).await,
            }
        };
        self.remove_leftovers();
        if self.directory(name).exists() {
            bail!(
                "there is a snapshot {name}; remove it with `caisson snapshot rm {name}`, or \
                 choose another name"
            );
        }
        let making = Making {
            name: name.to_owned(),
            folder: self.folder.clone(),
            lock,
        };
        let new = making.directory();
        fs::create_dir(&new).with_context(|| format!("cannot make {}", new.display()))?;
        Ok(making)
    }

    /// The snapshot of that name.
    pub fn find(&self, name: &str) -> Result<Snapshot> {
        let directory = self.directory(name);
        match read(&directory) {
            Ok(record) => Ok(Snapshot { record, directory }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "there is no snapshot {name}; `caisson snapshot ls` shows those that are there"
                )
            }
            Err(error) => Err(error).with_context(|| {
                format!("snapshot {name} is damaged; remove it with `caisson snapshot rm {name}`")
            }),
        }
    }

    /// Every snapshot, by name. One that cannot be read does not hide the others.
    pub fn list(&self) -> Result<Vec<Snapshot>> {
        let mut snapshots: Vec<_> = self
            .entries()?
            .filter(|(name, _)| !name.starts_with('.') && name != LOCK)
            .filter_map(|(_, directory)| match read(&directory) {
                Ok(record) => Some(Snapshot { record, directory }),
                Err(error) => {
                    tracing::warn!(%error, directory = %directory.display(), "a snapshot cannot be read");
                    None
                }
            })
            .collect();
        snapshots.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(snapshots)
    }

    /// Removes the snapshot of that name. Copies of it run on.
    pub fn remove(&self, name: &str) -> Result<()> {
        let directory = self.directory(name);
        let gone = self.folder.join(format!(".gone-{}", std::process::id()));
        match fs::rename(&directory, &gone) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "there is no snapshot {name}; `caisson snapshot ls` shows those that are there"
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove snapshot {name}"));
            }
        }
        fs::remove_dir_all(&gone)
            .with_context(|| format!("snapshot {name} is not wholly removed: {}", gone.display()))
    }

    /// Removes what makers and removers that were killed have left, unless one is at work.
    pub fn tidy(&self) -> Result<()> {
        if self.folder.exists() && self.try_lock()?.is_some() {
            self.remove_leftovers();
        }
        Ok(())
    }

    fn try_lock(&self) -> Result<Option<File>> {
        let path = self.folder.join(LOCK);
        let failed = || format!("cannot lock {}", path.display());
        let file = File::create(&path).with_context(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(failed),
        }
    }

    /// Only with the lock.
    fn remove_leftovers(&self) {
        for (name, path) in self.entries().into_iter().flatten() {
            if name.starts_with('.') {
                remove_folder(&path);
            }
        }
    }

    fn entries(&self) -> Result<impl Iterator<Item = (String, PathBuf)> + use<>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot list {}", self.folder.display()));
            }
        };
        Ok(entries.into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name, entry.path()))
        }))
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.folder.join(Digest::of(name.as_bytes()).hex())
    }
}

impl Making {
    /// Where the driver leaves the machine.
    pub fn directory(&self) -> PathBuf {
        self.folder.join(NEW)
    }

    /// Where the copy of the writable layer goes.
    pub fn scratch(&self) -> PathBuf {
        self.directory().join(SCRATCH)
    }

    /// The machine and the writable layer are there: makes it a snapshot.
    pub fn finish(self, mut record: SnapshotRecord, recipe: &Recipe) -> Result<()> {
        let new = self.directory();
        let failed = || format!("cannot keep snapshot {}", record.name);
        File::open(self.scratch())
            .and_then(|scratch| scratch.sync_all())
            .with_context(failed)?;
        Template::seal(&new, recipe).with_context(failed)?;
        let mut disk = 0;
        for entry in fs::read_dir(&new).with_context(failed)? {
            disk += entry
                .and_then(|entry| entry.metadata())
                .with_context(failed)?
                .blocks()
                * 512;
        }
        record.disk = disk;
        record.scratch = FileIdentity::of(&self.scratch())
            .with_context(failed)?
            .to_string();
        let mut file = File::create_new(new.join(RECORD)).with_context(failed)?;
        serde_json::to_writer_pretty(&mut file, &record)?;
        let folder = SnapshotStore {
            folder: self.folder.clone(),
        };
        file.sync_all()
            .and_then(|()| File::open(&new)?.sync_all())
            .and_then(|()| fs::rename(&new, folder.directory(&self.name)))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .with_context(failed)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // There is nothing if it was finished. The lock is still ours.
        remove_folder(&self.directory());
        if let Err(error) = self.lock.unlock() {
            tracing::debug!(%error, "the lock goes with the process");
        }
    }
}

impl Snapshot {
    /// Its machine, for copies of this recipe.
    pub fn open(&self, recipe: &Recipe) -> Result<Template> {
        let name = &self.record.name;
        let again = format!(
            "make it again: `caisson snapshot rm {name}`, then `caisson snapshot` a container \
             that runs"
        );
        let machine = Template::open(&self.directory, recipe).map_err(|unfit| match unfit {
            Unfit::Damaged(what) => {
                anyhow::anyhow!("snapshot {name} is damaged: {what}; {again}")
            }
            Unfit::Differs(names) => {
                let parts: Vec<_> = names.iter().map(|name| part(name)).collect();
                anyhow::anyhow!(
                    "snapshot {name} does not fit this installation any more: {} changed since \
                     it was made; {again}",
                    parts.join(" and ")
                )
            }
        })?;
        let found = FileIdentity::of(&self.directory.join(SCRATCH))
            .map_or_else(|error| error.to_string(), |found| found.to_string());
        if found != self.record.scratch {
            bail!(
                "snapshot {name} is damaged: the writable layer is not what was written; {again}"
            );
        }
        Ok(machine)
    }

    /// The writable layer as it was.
    pub fn scratch(&self) -> PathBuf {
        self.directory.join(SCRATCH)
    }
}

/// What a user would call a part of a recipe.
fn part(name: &str) -> &str {
    match name {
        "program" => "the hypervisor (QEMU)",
        "kernel" => "the guest's kernel",
        "initramfs" => "the initramfs with the guest agent",
        "arguments" => "the machine (the processor, its clock, or what the hypervisor is told)",
        "recipe" => "Caisson's way to make machines",
        "kind" => "the size or make of the machine",
        other => other,
    }
}

fn read(directory: &Path) -> io::Result<SnapshotRecord> {
    let bytes = fs::read(directory.join(RECORD))?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn remove_folder(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "a folder cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_finished_is_not_there() {
        let root = tempfile::tempdir().expect("a folder");
        let store = SnapshotStore::new(root.path());
        assert!(store.list().expect("a list").is_empty());
        let making = store.begin("warm:latest").await.expect("begun");
        fs::write(making.scratch(), "x").expect("written");
        store.tidy().expect("looked at");
        assert!(making.scratch().exists(), "its maker is at work");
        drop(making);
        assert!(!root.path().join("snapshots/.new").exists());

        // A maker that was killed has no chance to clean up.
        fs::create_dir(root.path().join("snapshots/.new")).expect("a folder");
        store.tidy().expect("tidied");
        assert!(!root.path().join("snapshots/.new").exists());
        assert!(store.list().expect("a list").is_empty());
        let error = store.find("warm:latest").expect_err("none");
        assert!(error.to_string().contains("no snapshot warm:latest"));
        assert!(store.remove("warm:latest").is_err());
    }
}
