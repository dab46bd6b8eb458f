//! Which images there are and what they are called.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::IoContext;
use crate::{Digest, Error, Reference, Result};

/// File of the index in the store's folder.
pub(crate) const INDEX_FILE: &str = "index.json";
const VERSION: u32 = 1;

/// The names of one image, in their complete form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Names {
    /// Names with a tag. A name is that of one image at most.
    pub(crate) references: BTreeSet<String>,
    /// Names with a digest, under which the image was pulled.
    pub(crate) digests: BTreeSet<String>,
}

/// The index as it is on disk. Read and written whole; writers hold the
/// store's lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    version: u32,
    /// By image ID.
    pub(crate) images: BTreeMap<String, Names>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            version: VERSION,
            images: BTreeMap::new(),
        }
    }
}

impl Index {
    /// Reads the index below `folder`; a store without one is empty.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(INDEX_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error).context("read", &path),
        };
        let index: Self = serde_json::from_slice(&text).map_err(|error| Error::Store {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        if index.version != VERSION {
            return Err(Error::Store {
                path,
                reason: format!(
                    "it has version {}, this program reads version {VERSION}",
                    index.version
                ),
            });
        }
        Ok(index)
    }

    /// Replaces the index below `folder` in one step. `staging` is where the
    /// new file is written first, on the same file system.
    pub(crate) fn write(&self, folder: &Path, staging: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|error| Error::Store {
            path: folder.join(INDEX_FILE),
            reason: error.to_string(),
        })?;
        replace(&folder.join(INDEX_FILE), &text, staging)
    }

    /// Gives `reference` to the image `id`, taking it from the one that had it.
    pub(crate) fn name(&mut self, id: &Digest, reference: &Reference) {
        let text = reference.to_string();
        if reference.digest().is_none() {
            for names in self.images.values_mut() {
                names.references.remove(&text);
            }
            self.entry(id).references.insert(text);
        } else {
            self.entry(id).digests.insert(text);
        }
    }

    /// The names of image `id`, which exists from now on.
    pub(crate) fn entry(&mut self, id: &Digest) -> &mut Names {
        self.images.entry(id.to_string()).or_default()
    }
}

/// Writes a file so that after a crash there is the old one or the new one.
pub(crate) fn replace(path: &Path, content: &[u8], staging: &Path) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(staging).context("create a file in", staging)?;
    file.write_all(content).context("write", file.path())?;
    file.as_file().sync_all().context("write", file.path())?;
    file.persist(path)
        .map_err(|error| error.error)
        .context("write", path)?;
    sync_parent(path)
}

/// Makes the entry of `path` in its folder survive a crash.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)
            .and_then(|folder| folder.sync_all())
            .context("synchronise", parent),
        None => Ok(()),
    }
}
