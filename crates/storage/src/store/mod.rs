//! The images on this host.
//!
//! Below the root that [`ImageStore::open`] is given:
//!
//! ```text
//! images/index.json             names of every image; what is not in it is not there
//! images/blobs/sha256/<hex>     configuration of the image <hex>
//! images/disks/<hex>.erofs      disk of the image <hex>
//! images/downloads/<hex>        layers while they are fetched, whole or in part
//! images/staging/<random>/      what a process is writing, locked by it
//! images/locks/<hex>            held while the image <hex> is made
//! images/lock                   held while the index is read or changed
//! ```
//!
//! Layers are unpacked into the one disk of their image when it is pulled or
//! loaded and are not kept: a disk is all that a container needs, and names are
//! entries of the index. A layer that two images share is stored in both disks.
//!
//! An image appears by one rename of the index, after its disk and configuration
//! are safe on disk. Everything before that is removed by the next process that
//! opens the store, if its writer is gone.

mod find;
mod image;
mod index;
mod lock;
mod staging;

pub use image::{Image, ImageConfig};
pub(crate) use image::{MAX_CONFIG, MAX_LAYERS, ParsedConfig};
pub(crate) use index::sync_parent;
pub(crate) use lock::{NamedLock, is_still_at};
pub(crate) use staging::{DiskBuilder, Staging, check_layer_count};

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::IoContext;
use crate::{Digest, Error, Limits, Reference, Result};
use find::{find, only_name_but_for_digests};
use index::{Index, Names, replace};

/// The images below one folder. Several processes may use it at once.
#[derive(Debug, Clone)]
pub struct ImageStore {
    folder: PathBuf,
    limits: Limits,
}

impl ImageStore {
    /// Opens the store below `root`, creating it if need be, and removes what
    /// processes that are gone left half done.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = root.join("images");
        for part in ["blobs/sha256", "disks", "downloads", "staging", "locks"] {
            create_folder(&folder.join(part))?;
        }
        let store = Self {
            folder,
            limits: Limits::default(),
        };
        store.remove_leftovers()?;
        Ok(store)
    }

    /// Sets what an image may contain at most.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// All images, those with a name first, in the order of their names.
    pub fn list(&self) -> Result<Vec<Image>> {
        let _lock = self.lock_shared()?;
        let index = Index::read(&self.folder)?;
        let mut images = index
            .images
            .iter()
            .map(|(id, names)| self.read_image(id, names))
            .collect::<Result<Vec<_>>>()?;
        images.sort_by(|a, b| {
            let key = |image: &Image| (image.references.is_empty(), image.references.clone());
            key(a).cmp(&key(b))
        });
        Ok(images)
    }

    /// The image with this name, ID or beginning of an ID.
    pub fn get(&self, name: &str) -> Result<Option<Image>> {
        let _lock = self.lock_shared()?;
        let index = Index::read(&self.folder)?;
        match find(&index, name)? {
            Some(found) => Ok(Some(self.read_image(found.id, found.names)?)),
            None => Ok(None),
        }
    }

    /// Gives the image `source` (name or ID) the name `target` as well, which is
    /// taken from the image that had it.
    pub fn tag(&self, source: &str, target: &str) -> Result<()> {
        let reference = Reference::parse(target)?;
        if reference.digest().is_some() {
            return Err(Error::Reference {
                reference: target.to_owned(),
                reason: "a name given to an image cannot have a digest",
            });
        }
        let _lock = self.lock_exclusive()?;
        let mut index = Index::read(&self.folder)?;
        let id = match find(&index, source)? {
            Some(found) => Digest::parse(found.id)?,
            None => return Err(Error::NoImage(source.to_owned())),
        };
        index.name(&id, &reference);
        self.write_index(&index)
    }

    /// Takes a name from an image and, with its last name, removes the image.
    /// By ID, all names go; more than one only with `force`.
    ///
    /// An image that `in_use` says a container needs is refused; with `force` it
    /// loses its names but keeps its disk. Returns what happened, in Docker's
    /// words: `Untagged: alpine:latest`, `Deleted: sha256:...`.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: &dyn Fn(&Image) -> bool,
    ) -> Result<Vec<String>> {
        let _lock = self.lock_exclusive()?;
        let mut index = Index::read(&self.folder)?;
        let Some(found) = find(&index, name)? else {
            return Err(Error::NoImage(name.to_owned()));
        };
        let id = Digest::parse(found.id)?;
        let names = found.names.clone();
        match found.reference {
            Some(reference)
                if names.references.len() + names.digests.len() > 1
                    && !only_name_but_for_digests(&names, &reference) =>
            {
                let entry = index.entry(&id);
                entry.references.remove(&reference);
                entry.digests.remove(&reference);
                self.write_index(&index)?;
                return Ok(vec![untagged(&reference)]);
            }
            None if names.references.len() > 1 && !force => {
                return Err(Error::SeveralNames {
                    image: name.to_owned(),
                    names: names.references.iter().map(|name| familiar(name)).collect(),
                });
            }
            _ => {}
        }

        // A disk or configuration that cannot be read must not make the image undeletable.
        let used = match self.read_image(&id.to_string(), &names) {
            Ok(image) => in_use(&image),
            Err(_) => false,
        };
        if used && !force {
            return Err(Error::InUse(name.to_owned()));
        }
        let all = names.references.iter().chain(&names.digests);
        let mut lines: Vec<String> = all.map(|name| untagged(name)).collect();
        if used {
            *index.entry(&id) = Names::default();
            self.write_index(&index)?;
            return Ok(lines);
        }
        index.images.remove(&id.to_string());
        // First the index: what is not in it is removed by whoever opens the store next.
        self.write_index(&index)?;
        for path in [self.disk_path(&id), self.config_path(&id)] {
            remove_file(&path)?;
        }
        lines.push(format!("Deleted: {id}"));
        Ok(lines)
    }

    /// The image with this ID, if the store has it.
    pub(crate) fn get_id(&self, id: &Digest) -> Result<Option<Image>> {
        let _lock = self.lock_shared()?;
        let index = Index::read(&self.folder)?;
        match index.images.get(&id.to_string()) {
            Some(names) => Ok(Some(self.read_image(&id.to_string(), names)?)),
            None => Ok(None),
        }
    }

    /// Gives names to an image that is in the store; None if it is not there
    /// (any more) or damaged, so that it has to be made.
    pub(crate) fn rename(&self, id: &Digest, names: &[Reference]) -> Result<Option<Image>> {
        let _lock = self.lock_exclusive()?;
        let mut index = Index::read(&self.folder)?;
        let known = index.images.contains_key(&id.to_string());
        if !known || self.read_image(&id.to_string(), index.entry(id)).is_err() {
            return Ok(None);
        }
        self.name_and_read(&mut index, id, names).map(Some)
    }

    /// Makes an image of a finished disk. The caller holds the image's lock.
    pub(crate) fn commit(
        &self,
        config: &ParsedConfig,
        disk: &Path,
        staging: &Staging,
        names: &[Reference],
    ) -> Result<Image> {
        let _lock = self.lock_exclusive()?;
        let (target, text) = (self.disk_path(&config.id), self.config_path(&config.id));
        let place = || {
            std::fs::rename(disk, &target).context("move the disk to", &target)?;
            sync_parent(&target)?;
            replace(&text, &config.text, staging.path())?;
            let mut index = Index::read(&self.folder)?;
            self.name_and_read(&mut index, &config.id, names)
        };
        place().inspect_err(|_| {
            // Whoever opens the store next would remove what is not in the index, but
            // it is in the way now if the file system is full.
            let id = config.id.to_string();
            if Index::read(&self.folder).is_ok_and(|index| !index.images.contains_key(&id)) {
                let _ = remove_file(&target);
                let _ = remove_file(&text);
            }
        })
    }

    /// The lock under which the image `id` is made.
    pub(crate) fn lock_image(&self, id: &Digest, on_wait: impl Fn()) -> Result<NamedLock> {
        NamedLock::acquire(&self.folder.join("locks").join(id.hex()), on_wait)
    }

    /// A folder for one process to write in.
    pub(crate) fn staging(&self) -> Result<Staging> {
        // Under the lock, so that nobody takes the new folder for a leftover
        // before it is locked itself.
        let _lock = self.lock_exclusive()?;
        Staging::create(&self.folder.join("staging"))
    }

    /// Where the layer `digest` is while it is fetched.
    pub(crate) fn download_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("downloads").join(digest.hex())
    }

    /// What an image may contain at most.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn name_and_read(&self, index: &mut Index, id: &Digest, names: &[Reference]) -> Result<Image> {
        index.entry(id);
        for name in names {
            index.name(id, name);
        }
        self.write_index(index)?;
        let names = index.entry(id).clone();
        self.read_image(&id.to_string(), &names)
    }

    fn read_image(&self, id: &str, names: &Names) -> Result<Image> {
        let id = Digest::parse(id)?;
        let damaged = |reason: String| Error::DamagedImage {
            image: id.to_string(),
            reason,
        };
        let path = self.config_path(&id);
        let text = std::fs::read(&path)
            .map_err(|error| damaged(format!("{}: {error}", path.display())))?;
        let parsed = ParsedConfig::parse(&path.display().to_string(), text)
            .map_err(|error| damaged(error.to_string()))?;
        if parsed.id != id {
            return Err(damaged(format!("{} was changed", path.display())));
        }
        let disk = self.disk_path(&id);
        let size = std::fs::metadata(&disk)
            .map_err(|error| damaged(format!("{}: {error}", disk.display())))?
            .len();
        let parse = |names: &std::collections::BTreeSet<String>| {
            names
                .iter()
                .map(|name| Reference::parse(name))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Image {
            references: parse(&names.references)?,
            digests: parse(&names.digests)?,
            config: parsed.config,
            created: parsed.created,
            size,
            disk,
            id,
        })
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        // A file that a crash leaves in the staging folder is a leftover like any other.
        index.write(&self.folder, &self.folder.join("staging"))
    }

    fn disk_path(&self, id: &Digest) -> PathBuf {
        self.folder
            .join("disks")
            .join(format!("{}.erofs", id.hex()))
    }

    fn config_path(&self, id: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(id.hex())
    }

    fn open_lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .context("open", &path)
    }

    fn lock_shared(&self) -> Result<File> {
        let file = self.open_lock()?;
        file.lock_shared()
            .context("lock", &self.folder.join("lock"))?;
        Ok(file)
    }

    fn lock_exclusive(&self) -> Result<File> {
        let file = self.open_lock()?;
        file.lock().context("lock", &self.folder.join("lock"))?;
        Ok(file)
    }

    /// Removes what writers that are gone left. Skipped when the store is busy:
    /// the next process does it.
    fn remove_leftovers(&self) -> Result<()> {
        let lock = self.open_lock()?;
        if lock.try_lock().is_err() {
            return Ok(());
        }
        let index = Index::read(&self.folder)?;
        for path in entries(&self.folder.join("disks"))? {
            let known = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(".erofs"))
                .is_some_and(|hex| index.images.contains_key(&format!("sha256:{hex}")));
            if !known {
                remove_file(&path)?;
            }
        }
        for path in entries(&self.folder.join("blobs/sha256"))? {
            let known = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|hex| index.images.contains_key(&format!("sha256:{hex}")));
            if !known {
                remove_file(&path)?;
            }
        }
        for path in entries(&self.folder.join("staging"))? {
            staging::remove_if_abandoned(&path)?;
        }
        for path in entries(&self.folder.join("locks"))? {
            drop(NamedLock::try_acquire(&path)?);
        }
        for path in entries(&self.folder.join("downloads"))? {
            staging::remove_if_old(&path)?;
        }
        Ok(())
    }
}

fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

fn untagged(name: &str) -> String {
    format!("Untagged: {}", familiar(name))
}

/// Creates a folder, and those above it, unless they are there.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context("create the folder", path)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).context("read the folder", folder)? {
        paths.push(entry.context("read the folder", folder)?.path());
    }
    Ok(paths)
}

/// Removes a file that may be gone already.
fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("remove", path)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod small_disk;
#[cfg(test)]
mod tests;
