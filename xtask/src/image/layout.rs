//! An OCI image layout (image-spec 1.1, image-layout.md) in one tar file, as `docker save` and
//! `skopeo` write it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image of one layer.
pub struct Image {
    /// Name below `docker.io/library`, with the tag `latest`.
    pub name: &'static str,
    /// The `config` of the image's configuration, in JSON.
    pub config: String,
    /// What made it, for the history.
    pub made_of: &'static str,
    /// The layer, an archive without compression.
    pub layer: Vec<u8>,
}

impl Image {
    /// Writes the layout.
    pub fn write(&self, path: &Path) -> Result<()> {
        let layer_digest = digest(&self.layer);
        // An uncompressed layer's digest is that of its content as well (`diff_ids`).
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":["sha256:{layer_digest}"]}},"history":[{{"created_by":"caisson demo: {made_of}"}}]}}"#,
            config = self.config,
            made_of = self.made_of,
        );
        let config_digest = digest(config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{config_digest}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{layer_digest}","size":{layer_size}}}]}}"#,
            config_size = config.len(),
            layer_size = self.layer.len(),
        );
        let manifest_digest = digest(manifest.as_bytes());
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{manifest_digest}","size":{manifest_size},"platform":{{"architecture":"amd64","os":"linux"}},"annotations":{{"io.containerd.image.name":"docker.io/library/{name}:latest","org.opencontainers.image.ref.name":"latest"}}}}]}}"#,
            manifest_size = manifest.len(),
            name = self.name,
        );

        let mut archive = Builder::new(BufWriter::new(File::create(path)?));
        for folder in ["blobs", "blobs/sha256"] {
            add(&mut archive, EntryType::Directory, folder, 0o755, &[])?;
        }
        let blobs = [
            (&config_digest, config.as_bytes()),
            (&layer_digest, &self.layer[..]),
            (&manifest_digest, manifest.as_bytes()),
        ];
        for (digest, content) in blobs {
            let name = format!("blobs/sha256/{digest}");
            add(&mut archive, EntryType::Regular, &name, 0o644, content)?;
        }
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        for (name, content) in [
            ("oci-layout", &layout[..]),
            ("index.json", index.as_bytes()),
        ] {
            add(&mut archive, EntryType::Regular, name, 0o644, content)?;
        }
        archive.into_inner()?.flush()?;
        Ok(())
    }
}

/// Adds a file or folder of root.
pub fn add<W: Write>(
    archive: &mut Builder<W>,
    kind: EntryType,
    name: &str,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    archive.append_data(&mut header(kind, mode, content.len()), name, content)
}

/// Owned by root and without a time: the same content gives the same digests.
pub fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
