//! What `docker save` writes: `manifest.json` beside configurations and layers.

use serde::Deserialize;

use super::{Layer, Load};
use crate::store::{MAX_CONFIG, ParsedConfig};
use crate::{Digest, Image, Reference, Result};

const MAX_MANIFEST_JSON: u64 = 16 << 20;
/// Most images of one archive.
const MAX_IMAGES: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Load<'_> {
    pub(super) fn docker(&self) -> Result<Vec<Image>> {
        let text = self.archive.read("manifest.json", MAX_MANIFEST_JSON)?;
        let saved: Vec<SavedImage> = serde_json::from_slice(&text).map_err(|error| {
            self.archive.refuse(
                "manifest.json",
                &format!("it is no list of images: {error}"),
            )
        })?;
        if saved.is_empty() {
            return Err(self.archive.refuse("manifest.json", "it names no image"));
        }
        if saved.len() > MAX_IMAGES {
            return Err(self
                .archive
                .refuse("manifest.json", "it names more than 1000 images"));
        }
        saved.iter().map(|image| self.saved_image(image)).collect()
    }

    fn saved_image(&self, saved: &SavedImage) -> Result<Image> {
        let names = saved
            .repo_tags
            .iter()
            .flatten()
            .map(|name| self.given_name(name))
            .collect::<Result<Vec<_>>>()?;
        let text = self.archive.read(&saved.config, MAX_CONFIG)?;
        let config = ParsedConfig::parse(&saved.config, text)?;
        // Docker names a configuration by its digest, and so says what it should be.
        if let Some(expected) = digest_in_name(&saved.config)
            && expected != config.id
        {
            return Err(self.archive.refuse(
                &saved.config,
                &format!("its digest is {}: it was changed", config.id),
            ));
        }
        config.config.check_platform(&saved.config, self.platform)?;
        let layers: Vec<Layer> = saved
            .layers
            .iter()
            .map(|file| Layer {
                file: file.clone(),
                // The configuration has the digest of what is in it.
                digest: None,
            })
            .collect();
        self.image(config, &layers, &names)
    }

    /// A name that the archive gives to an image.
    pub(super) fn given_name(&self, name: &str) -> Result<Reference> {
        let reference = Reference::parse(name)?;
        if reference.digest().is_some() {
            return Err(self.archive.refuse(
                name,
                "an image in an archive cannot have a name with a digest",
            ));
        }
        Ok(reference)
    }
}

/// The digest in `<hex>.json` and `blobs/sha256/<hex>`.
fn digest_in_name(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let hex = last.strip_suffix(".json").unwrap_or(last);
    Digest::parse(&format!("sha256:{hex}")).ok()
}
