//! The OCI image layout: `index.json` above blobs named by their digest.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageIndex};

use super::{Layer, Load, blob_name};
use crate::manifest::{self, Blob, Document, MAX_MANIFEST, Manifest};
use crate::store::{MAX_CONFIG, ParsedConfig};
use crate::{Error, Image, Reference, Result};

/// Complete name of the image, as containerd and Docker write it.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Name or tag of the image (OCI image-spec, annotations).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Most images of one layout.
const MAX_IMAGES: usize = 1000;
/// How deep indexes may lie in one another.
const MAX_DEPTH: usize = 4;

impl Load<'_> {
    pub(super) fn layout(&self) -> Result<Vec<Image>> {
        let text = self.archive.read("index.json", MAX_MANIFEST)?;
        let Document::Index(index) = manifest::parse("index.json", &text)? else {
            return Err(self
                .archive
                .refuse("index.json", "it is a manifest, not an index"));
        };
        if index.manifests().is_empty() {
            return Err(self.archive.refuse("index.json", "it names no image"));
        }
        if index.manifests().len() > MAX_IMAGES {
            return Err(self
                .archive
                .refuse("index.json", "it names more than 1000 images"));
        }
        let mut by_name: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
        for descriptor in index.manifests() {
            by_name
                .entry(image_name(descriptor))
                .or_default()
                .push(descriptor.clone());
        }
        let mut images = Vec::new();
        for (name, descriptors) in by_name {
            let names = match &name {
                Some(name) => vec![self.given_name(name)?],
                None => Vec::new(),
            };
            // Several descriptors with one name are one image for several platforms.
            let blob = match &descriptors[..] {
                [descriptor] => manifest::read_blob(descriptor)
                    .map_err(|reason| self.archive.refuse("index.json", &reason))?,
                _ => {
                    let object = name.as_deref().unwrap_or("index.json");
                    manifest::choose(object, &with_manifests(&index, descriptors), self.platform)?
                }
            };
            images.push(self.layout_image(&blob, &names)?);
        }
        Ok(images)
    }

    fn layout_image(&self, blob: &Blob, names: &[Reference]) -> Result<Image> {
        let manifest = self.manifest(blob)?;
        let object = blob_name(&manifest.config.digest);
        let text = self.archive.read_blob(&manifest.config, MAX_CONFIG)?;
        let config = ParsedConfig::parse(&object, text)?;
        config.config.check_platform(&object, self.platform)?;
        let layers: Vec<Layer> = manifest
            .layers
            .iter()
            .map(|layer| Layer {
                file: blob_name(&layer.digest),
                digest: Some(layer.digest.clone()),
            })
            .collect();
        self.image(config, &layers, names)
    }

    /// The manifest for the platform wanted, below any number of indexes.
    fn manifest(&self, blob: &Blob) -> Result<Manifest> {
        let mut blob = blob.clone();
        for _ in 0..MAX_DEPTH {
            let object = blob_name(&blob.digest);
            let text = self.archive.read_blob(&blob, MAX_MANIFEST)?;
            match manifest::parse(&object, &text)? {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index(index) => {
                    blob = manifest::choose(&object, &index, self.platform)?;
                }
            }
        }
        Err(Error::Image {
            object: blob_name(&blob.digest),
            reason: format!("it lies below more than {MAX_DEPTH} indexes"),
        })
    }
}

/// The name of an image. A tag alone, as some tools write it, is none.
fn image_name(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations
        .get(IMAGE_NAME)
        .or_else(|| {
            annotations
                .get(REF_NAME)
                .filter(|name| name.contains(['/', ':']))
        })
        .cloned()
}

fn with_manifests(index: &ImageIndex, manifests: Vec<Descriptor>) -> ImageIndex {
    let mut index = index.clone();
    index.set_manifests(manifests);
    index
}
