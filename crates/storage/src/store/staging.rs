//! Where an image grows before it is one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::{ImageStore, ParsedConfig};
use crate::error::IoContext;
use crate::{Digest, Error, Image, ImageBuilder, Reference, Result};

/// How long the parts of an interrupted download are kept for its resumption.
const DOWNLOAD_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A folder that belongs to this process for as long as it lives.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: TempDir,
    /// Locked: the sign that the folder's writer lives.
    _lock: File,
}

impl Staging {
    pub(super) fn create(parent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("")
            .tempdir_in(parent)
            .context("create a folder in", parent)?;
        let lock = File::open(folder.path()).context("open", folder.path())?;
        lock.lock().context("lock", folder.path())?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes a file or folder below the staging folder whose writer is gone. The
/// store's lock is held.
pub(super) fn remove_if_abandoned(path: &Path) -> Result<()> {
    let is_folder = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        // Its writer has just finished.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("read", path),
    };
    if !is_folder {
        // Files right below the staging folder are written under the store's
        // lock, which we hold.
        return super::remove_file(path);
    }
    let Ok(folder) = File::open(path) else {
        return Ok(());
    };
    if folder.try_lock().is_err() {
        return Ok(());
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("remove", path)
        }
        _ => Ok(()),
    }
}

/// Removes the parts of a download that nobody has come back for.
pub(super) fn remove_if_old(path: &Path) -> Result<()> {
    let Ok(file) = File::open(path) else {
        return Ok(());
    };
    let is_old = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| {
            SystemTime::now()
                .duration_since(modified)
                .is_ok_and(|age| age > DOWNLOAD_LIFETIME)
        });
    if is_old && file.try_lock().is_ok() {
        super::remove_file(path)?;
    }
    Ok(())
}

/// Puts the layers of one image together. Dropped before it is finished, it
/// leaves nothing.
pub(crate) struct DiskBuilder {
    builder: ImageBuilder,
    disk: PathBuf,
    staging: Staging,
    config: ParsedConfig,
    layers: usize,
}

impl DiskBuilder {
    /// Begins the disk of the image with this configuration.
    pub(crate) fn begin(store: &ImageStore, config: ParsedConfig) -> Result<Self> {
        let staging = store.staging()?;
        let disk = staging.path().join("disk.erofs");
        Ok(Self {
            builder: ImageBuilder::create(&disk, store.limits().clone())?,
            disk,
            staging,
            config,
            layers: 0,
        })
    }

    /// Adds the next layer, compressed in whatever way. The digest of what is in
    /// it must be the one that the configuration names.
    pub(crate) fn add_layer(&mut self, layer: impl Read) -> Result<()> {
        let diff_id = self
            .config
            .diff_ids
            .get(self.layers)
            .ok_or_else(|| self.wrong_number_of_layers())?;
        self.builder.add_layer(layer, Some(diff_id))?;
        self.layers += 1;
        Ok(())
    }

    /// Makes the image part of the store.
    pub(crate) fn finish(mut self, store: &ImageStore, names: &[Reference]) -> Result<Image> {
        if self.layers != self.config.diff_ids.len() {
            return Err(self.wrong_number_of_layers());
        }
        self.builder.add_mount_points()?;
        self.builder.finish()?;
        File::open(&self.disk)
            .and_then(|disk| disk.sync_all())
            .context("synchronise", &self.disk)?;
        store.commit(&self.config, &self.disk, &self.staging, names)
    }

    fn wrong_number_of_layers(&self) -> Error {
        Error::Image {
            object: self.config.id.to_string(),
            reason: format!(
                "its configuration names {} layers, its manifest another number",
                self.config.diff_ids.len()
            ),
        }
    }
}

/// Refuses an image whose manifest and configuration disagree, before anything
/// is fetched.
pub(crate) fn check_layer_count(config: &ParsedConfig, layers: usize, id: &Digest) -> Result<()> {
    if config.diff_ids.len() == layers {
        return Ok(());
    }
    Err(Error::Image {
        object: id.to_string(),
        reason: format!(
            "its configuration names {} layers, its manifest {layers}",
            config.diff_ids.len()
        ),
    })
}
