//! Images from archives and folders: `docker save` (old and new form), OCI
//! layouts as tar or as folder, plain or compressed.

mod docker;
mod folder;
mod layout;
mod spool;
mod tar;

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::IoContext;
use crate::manifest::Blob;
use crate::store::{DiskBuilder, ImageStore, ParsedConfig, Staging, check_layer_count};
use crate::{Digest, Error, Event, Image, Platform, Progress, Reference, Result, VerifyingReader};

/// Where an image is loaded from.
pub enum LoadSource {
    /// A tar archive (plain or compressed with gzip or zstd) or a folder with
    /// an OCI layout.
    Path(PathBuf),
    /// A tar archive that arrives as a stream.
    Reader(Box<dyn Read + Send>),
}

impl std::fmt::Debug for LoadSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

impl ImageStore {
    /// Loads every image of an archive or folder, for the platform of this
    /// program. Blocks until it is done.
    ///
    /// Each image appears whole or not at all; those before one that is refused
    /// stay. The names that the archive gives to an image are the first of its names.
    pub fn load(&self, source: LoadSource, progress: &dyn Progress) -> Result<Vec<Image>> {
        self.load_platform(source, &Platform::default(), progress)
    }

    /// [`load`](Self::load) for a platform of the caller's choice.
    pub fn load_platform(
        &self,
        source: LoadSource,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>> {
        let staging = self.staging()?;
        let archive = Archive::open(source, &staging)?;
        let load = Load {
            store: self,
            archive: &archive,
            platform,
            progress,
        };
        // Archives of newer Dockers are both; manifest.json has the names.
        if archive.get("manifest.json")?.is_some() {
            load.docker()
        } else if archive.get("index.json")?.is_some() {
            load.layout()
        } else if archive.get("repositories")?.is_some() {
            Err(archive.refuse(
                "repositories",
                "the archive was saved by a Docker older than 1.10: load and save it with a newer one",
            ))
        } else {
            Err(archive.refuse(
                "manifest.json",
                "there is neither this file nor index.json: this is no image archive (a plain file system cannot be loaded)",
            ))
        }
    }
}

/// Files by name.
enum Archive {
    Tar(tar::TarArchive, String),
    Folder(folder::Folder, String),
}

impl Archive {
    /// Opens a source. What cannot be read at random is written to `staging` first.
    fn open(source: LoadSource, staging: &Staging) -> Result<Self> {
        match source {
            LoadSource::Path(path) => {
                let name = path.display().to_string();
                let metadata = std::fs::metadata(&path).context("read", &path)?;
                if metadata.is_dir() {
                    return Ok(Self::Folder(folder::Folder::open(&path)?, name));
                }
                let file = std::fs::File::open(&path).context("open", &path)?;
                let plain = if metadata.is_file() {
                    spool::plain_file(file, &name, staging.path())?
                } else {
                    spool::plain_stream(file, &name, staging.path())?
                };
                Ok(Self::Tar(tar::TarArchive::open(plain, &name)?, name))
            }
            LoadSource::Reader(reader) => {
                let name = "the input".to_owned();
                let plain = spool::plain_stream(reader, &name, staging.path())?;
                Ok(Self::Tar(tar::TarArchive::open(plain, &name)?, name))
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Tar(_, name) | Self::Folder(_, name) => name,
        }
    }

    /// The content and size of a file.
    fn get(&self, name: &str) -> Result<Option<(Box<dyn Read + '_>, u64)>> {
        match self {
            Self::Tar(tar, _) => Ok(tar
                .get(name)?
                .map(|(section, size)| (Box::new(section) as Box<dyn Read>, size))),
            Self::Folder(folder, _) => Ok(folder
                .get(name)?
                .map(|(file, size)| (Box::new(file) as Box<dyn Read>, size))),
        }
    }

    fn require(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64)> {
        self.get(name)?
            .ok_or_else(|| self.refuse(name, "it is missing"))
    }

    /// All of a small file.
    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (reader, size) = self.require(name)?;
        if size > limit {
            return Err(self.refuse(name, &format!("it has {size} bytes, more than {limit}")));
        }
        let mut content = Vec::new();
        // A file of a folder may grow meanwhile.
        reader
            .take(limit + 1)
            .read_to_end(&mut content)
            .context("read", &Path::new(self.name()).join(name))?;
        if content.len() as u64 > limit {
            return Err(self.refuse(name, &format!("it has more than {limit} bytes")));
        }
        Ok(content)
    }

    /// All of a small blob, which must be what its digest says.
    fn read_blob(&self, blob: &Blob, limit: u64) -> Result<Vec<u8>> {
        let name = blob_name(&blob.digest);
        let content = self.read(&name, limit)?;
        let actual = Digest::of(&content);
        if actual != blob.digest {
            return Err(self.refuse(&name, &format!("its digest is {actual}: it was changed")));
        }
        Ok(content)
    }

    fn refuse(&self, object: &str, reason: &str) -> Error {
        Error::Archive {
            archive: self.name().to_owned(),
            object: object.escape_debug().to_string(),
            reason: reason.to_owned(),
        }
    }
}

/// Where an OCI layout keeps a blob (OCI image-layout, Blobs).
fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// One layer of an image in an archive.
struct Layer {
    /// Name of the file in the archive.
    file: String,
    /// Digest of the file, where the archive's form gives one.
    digest: Option<Digest>,
}

/// A load under way.
struct Load<'a> {
    store: &'a ImageStore,
    archive: &'a Archive,
    platform: &'a Platform,
    progress: &'a dyn Progress,
}

impl Load<'_> {
    /// Makes one image, or only names it if the store has it.
    fn image(&self, config: ParsedConfig, layers: &[Layer], names: &[Reference]) -> Result<Image> {
        let id = config.id.clone();
        check_layer_count(&config, layers.len(), &id)?;
        let _lock = self
            .store
            .lock_image(&id, || self.progress.event(Event::Waiting { digest: &id }))?;
        if let Some(image) = self.store.rename(&id, names)? {
            self.progress.event(Event::UpToDate);
            return Ok(named_first(image, names));
        }
        let diff_ids = config.diff_ids.clone();
        let shown = |(layer, diff_id): (&Layer, &Digest)| {
            layer.digest.clone().unwrap_or_else(|| diff_id.clone())
        };
        let digests: Vec<Digest> = layers.iter().zip(&diff_ids).map(shown).collect();
        for (layer, digest) in layers.iter().zip(&digests) {
            let (_, size) = self.archive.require(&layer.file)?;
            self.progress.event(Event::LayerAdded {
                layer: digest,
                size,
            });
        }
        let mut disk = DiskBuilder::begin(self.store, config)?;
        for (layer, digest) in layers.iter().zip(&digests) {
            self.progress.event(Event::Unpacking { layer: digest });
            let (reader, _) = self.archive.require(&layer.file)?;
            match &layer.digest {
                Some(expected) => {
                    let mut reader = VerifyingReader::new(reader, expected.clone());
                    disk.add_layer(&mut reader)?;
                    // What follows the archive in the layer counts for its digest.
                    std::io::copy(&mut reader, &mut std::io::sink())
                        .context("read", Path::new(&layer.file))?;
                }
                None => disk.add_layer(reader)?,
            }
            self.progress.event(Event::LayerDone { layer: digest });
        }
        disk.finish(self.store, names)
            .map(|image| named_first(image, names))
    }
}

/// The image may have had other names: those that the archive gives it come first.
fn named_first(mut image: Image, names: &[Reference]) -> Image {
    image.references.sort_by_key(|name| !names.contains(name));
    image
}

#[cfg(test)]
mod tests;
