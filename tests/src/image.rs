//! Small images, made in a test on top of `busybox`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::{output, programs, text};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

impl Packing {
    fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let mut packer =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(bytes).expect("packed");
                packer.finish().expect("packed")
            }
            Self::Zstd => zstd::encode_all(bytes, 1).expect("packed"),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// A layer in the making.
#[derive(Default)]
pub struct Layer {
    archive: Vec<u8>,
}

impl Layer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        set: impl FnOnce(&mut Header),
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_path(path).expect("a short path");
        set(&mut header);
        header.set_cksum();
        let mut archive = tar::Builder::new(std::mem::take(&mut self.archive));
        archive.append(&header, content).expect("appended");
        // More may follow: the archive's end goes into what is left, which is nothing.
        self.archive = std::mem::take(archive.get_mut());
        self
    }

    /// A file of root's.
    pub fn file(self, path: &str, mode: u32, content: &str) -> Self {
        self.owned_file(path, mode, 0, content)
    }

    /// A file of somebody's.
    pub fn owned_file(self, path: &str, mode: u32, owner: u64, content: &str) -> Self {
        let set = |header: &mut Header| {
            header.set_mode(mode);
            header.set_uid(owner);
            header.set_gid(owner);
        };
        self.entry(EntryType::Regular, path, set, content.as_bytes())
    }

    /// A file of root's that is no text.
    pub fn bytes(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(
            EntryType::Regular,
            path,
            |header| header.set_mode(mode),
            content,
        )
    }

    /// A file whose path is written as it is, past the checks of the library: an
    /// attacker writes what he likes.
    pub fn hostile_file(self, path: &str, content: &str) -> Self {
        let set = |header: &mut Header| {
            let name = &mut header.as_gnu_mut().expect("a GNU header").name;
            name.fill(0);
            name[..path.len()].copy_from_slice(path.as_bytes());
        };
        self.entry(EntryType::Regular, "hostile", set, content.as_bytes())
    }

    /// A folder.
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(
            EntryType::Directory,
            path,
            |header| header.set_mode(mode),
            b"",
        )
    }

    /// A symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        let set = |header: &mut Header| header.set_link_name(target).expect("a short path");
        self.entry(EntryType::Symlink, path, set, b"")
    }

    /// A hard link.
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        let set = |header: &mut Header| header.set_link_name(target).expect("a short path");
        self.entry(EntryType::Link, path, set, b"")
    }

    /// A character device.
    pub fn device(self, path: &str, major: u32, minor: u32) -> Self {
        let set = |header: &mut Header| {
            header.set_device_major(major).expect("a number");
            header.set_device_minor(minor).expect("a number");
        };
        self.entry(EntryType::Char, path, set, b"")
    }

    /// A file that hides one of the layers below.
    pub fn whiteout(self, folder: &str, name: &str) -> Self {
        self.file(&format!("{folder}/.wh.{name}"), 0o644, "")
    }

    /// Extended attributes of the entry that comes next.
    pub fn attributes(mut self, attributes: &[(&str, &[u8])]) -> Self {
        let mut archive = tar::Builder::new(std::mem::take(&mut self.archive));
        let names: Vec<_> = attributes
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value))
            .collect();
        archive
            .append_pax_extensions(names.iter().map(|(name, value)| (name.as_str(), *value)))
            .expect("appended");
        self.archive = std::mem::take(archive.get_mut());
        self
    }

    /// The finished archive.
    pub fn archive(mut self) -> Vec<u8> {
        self.archive.extend_from_slice(&[0; 1024]);
        self.archive
    }
}

/// An image in the making.
pub struct Image {
    name: String,
    config: serde_json::Map<String, Value>,
    layers: Vec<(Packing, Vec<u8>)>,
}

impl Image {
    /// `busybox` under another name, `NAME:TAG`.
    ///
    /// # Panics
    /// If the demo's image is missing.
    pub fn on_busybox(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            config: serde_json::Map::new(),
            layers: vec![(Packing::Plain, busybox_layer())],
        }
    }

    /// Sets a key of the configuration, by its name in the OCI image specification.
    #[must_use]
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Adds a layer.
    #[must_use]
    pub fn layer(self, layer: Layer) -> Self {
        self.packed_layer(Packing::Plain, layer)
    }

    /// Adds a packed layer.
    #[must_use]
    pub fn packed_layer(mut self, packing: Packing, layer: Layer) -> Self {
        self.layers.push((packing, layer.archive()));
        self
    }

    fn configuration(&self) -> Vec<u8> {
        let digests: Vec<_> = self.layers.iter().map(|(_, layer)| digest(layer)).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        config.to_string().into_bytes()
    }

    /// As `docker save` writes it.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn save_as_docker(&self, path: &Path) {
        let configuration = self.configuration();
        let config_name = format!("{}.json", hex(&configuration));
        let mut files = vec![(config_name.clone(), configuration)];
        let mut layers = Vec::new();
        for (packing, layer) in &self.layers {
            let name = format!("{}/layer.tar", hex(layer));
            files.push((name.clone(), packing.pack(layer)));
            layers.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": layers}]);
        files.push((
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ));
        write_archive(path, &files);
    }

    /// As an archive of an OCI layout.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn save_as_oci(&self, path: &Path) {
        write_archive(path, &self.layout());
    }

    /// As a folder in OCI layout.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn save_as_folder(&self, folder: &Path) {
        for (name, content) in self.layout() {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, content).expect("written");
        }
    }

    fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let mut blobs = BTreeMap::new();
        let mut blob = |kind: &str, bytes: Vec<u8>| {
            let descriptor = json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest(&bytes),
                "size": bytes.len(),
            });
            blobs.insert(format!("blobs/sha256/{}", hex(&bytes)), bytes);
            descriptor
        };
        let config = blob("config.v1+json", self.configuration());
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(packing, layer)| {
                blob(
                    &format!("layer.v1.tar{}", packing.suffix()),
                    packing.pack(layer),
                )
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut manifest = blob("manifest.v1+json", manifest.to_string().into_bytes());
        manifest["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        let mut files: Vec<_> = blobs.into_iter().collect();
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        let layout = json!({"imageLayoutVersion": "1.0.0"});
        files.push(("oci-layout".to_owned(), layout.to_string().into_bytes()));
        files
    }
}

fn write_archive(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut archive = tar::Builder::new(File::create(path).expect("a file"));
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, name, content.as_slice())
            .expect("appended");
    }
    archive.finish().expect("written");
}

/// The one layer of the demo's image, unpacked.
fn busybox_layer() -> Vec<u8> {
    let mut archive = tar::Archive::new(File::open(programs::demo_image()).expect("an image"));
    let files: BTreeMap<String, Vec<u8>> = archive
        .entries()
        .expect("an archive")
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (name, content)
        })
        .collect();
    let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).expect("JSON") };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        format!("blobs/{}", digest.replace(':', "/"))
    };
    let manifest = json(&blob(&json("index.json")["manifests"][0]));
    let layer = &manifest["layers"][0];
    let bytes = &files[&blob(layer)];
    if layer["mediaType"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("gzip"))
    {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut plain)
            .expect("unpacked");
        return plain;
    }
    bytes.clone()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// An initramfs in `folder` whose first process is a script for the host's busybox.
///
/// # Panics
/// Without busybox-static.
pub fn initramfs(folder: &Path, script: &str) -> PathBuf {
    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("bin")).expect("a folder");
    std::fs::copy("/bin/busybox", tree.join("bin/sh")).expect("busybox-static on the host");
    std::fs::write(tree.join("init"), format!("#!/bin/sh\n{script}\n")).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tree.join("init"), mode).expect("executable");
    let path = folder.join("initramfs");
    let mut cpio = Command::new("/bin/busybox");
    cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(&tree);
    let archive = output(cpio, b"bin\nbin/sh\ninit\n");
    assert!(archive.status.success(), "{}", text(&archive.stderr));
    std::fs::write(&path, archive.stdout).expect("written");
    path
}
