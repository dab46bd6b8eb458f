//! The files of an image in a folder, for runtimes that are given a bundle.
//!
//! An archive is an OCI image layout (image-spec 1.1, image-layout.md) or what `docker save`
//! writes (`manifest.json`). What it names is hostile: nothing is written outside of the folder.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::{At, Error, Result};

/// A whiteout: the file without this prefix is not there any more (image-spec, layer.md).
const WHITEOUT: &str = ".wh.";

/// Nothing of lower layers is in this folder any more.
const OPAQUE: &str = ".wh..wh..opq";

/// Files of the image, and its configuration beside them.
pub const ROOTFS: &str = "rootfs";
pub const CONFIG: &str = "config.json";

/// Indexes may name indexes, but not for ever.
const DEEPEST: usize = 4;

/// Unpacks the image of an archive into a new folder below `images`.
pub fn unpack(archive: &Path, images: &Path) -> Result<PathBuf> {
    fs::create_dir_all(images).at(images)?;
    let number = fs::read_dir(images).at(images)?.count();
    let folder = images.join(number.to_string());
    let blobs = folder.join("archive");
    fs::create_dir_all(&blobs).at(&blobs)?;
    let file = File::open(archive).at(archive)?;
    tar::Archive::new(BufReader::new(file))
        .unpack(&blobs)
        .at(archive)?;
    let image = Archive {
        name: archive,
        folder: &blobs,
    };
    let (config, layers) = image.parts()?;
    let rootfs = folder.join(ROOTFS);
    fs::create_dir(&rootfs).at(&rootfs)?;
    for layer in layers {
        apply(&layer, &rootfs).at(&layer)?;
    }
    let target = folder.join(CONFIG);
    fs::copy(&config, &target).at(&config)?;
    fs::remove_dir_all(&blobs).at(&blobs)?;
    Ok(folder)
}

struct Archive<'a> {
    name: &'a Path,
    folder: &'a Path,
}

impl Archive<'_> {
    fn wrong(&self, reason: &str) -> Error {
        Error::Image {
            image: self.name.display().to_string(),
            reason: reason.to_owned(),
        }
    }

    /// A path inside of the archive, whatever it says.
    fn path(&self, name: &str) -> Result<PathBuf> {
        let path = Path::new(name);
        let plain = |component| matches!(component, Component::Normal(_));
        let found = self.folder.join(path);
        // A link could lead out of it.
        if path.components().all(plain) && found.symlink_metadata().is_ok_and(|file| file.is_file())
        {
            Ok(found)
        } else {
            Err(self.wrong(&format!("it has no file {name:?}")))
        }
    }

    fn json(&self, name: &str) -> Result<Value> {
        let path = self.path(name)?;
        let text = fs::read(&path).at(&path)?;
        serde_json::from_slice(&text)
            .map_err(|error| self.wrong(&format!("{name} is not JSON: {error}")))
    }

    /// Configuration and layers, the lowest first.
    fn parts(&self) -> Result<(PathBuf, Vec<PathBuf>)> {
        let strings = |list: &Value| -> Vec<String> {
            let words = list.as_array().into_iter().flatten();
            words
                .filter_map(|word| word.as_str().map(str::to_owned))
                .collect()
        };
        let (config, layers) = if self.path("index.json").is_ok() {
            let manifest = self.manifest("index.json", DEEPEST)?;
            let layers = manifest["layers"].as_array().into_iter().flatten();
            let layers = layers
                .map(|layer| self.blob(layer))
                .collect::<Result<_>>()?;
            (self.blob(&manifest["config"])?, layers)
        } else {
            let image = self.json("manifest.json")?[0].take();
            let config = image["Config"].as_str().unwrap_or_default().to_owned();
            (config, strings(&image["Layers"]))
        };
        let layers: Result<Vec<_>> = layers.iter().map(|layer| self.path(layer)).collect();
        Ok((self.path(&config)?, layers?))
    }

    /// The manifest for this machine that an index leads to.
    fn manifest(&self, index: &str, depth: usize) -> Result<Value> {
        let content = self.json(index)?;
        if content["layers"].is_array() {
            return Ok(content);
        }
        let ours = |entry: &&Value| {
            let architecture = &entry["platform"]["architecture"];
            architecture.is_null() || architecture == "amd64"
        };
        let entries = content["manifests"].as_array();
        let entry = entries.into_iter().flatten().find(ours);
        match entry {
            Some(entry) if depth > 0 => self.manifest(&self.blob(entry)?, depth - 1),
            _ => Err(self.wrong("its index names no image for amd64")),
        }
    }

    /// The file of a descriptor.
    fn blob(&self, descriptor: &Value) -> Result<String> {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        digest
            .split_once(':')
            .map(|(algorithm, hash)| format!("blobs/{algorithm}/{hash}"))
            .ok_or_else(|| self.wrong("a descriptor has no digest"))
    }
}

/// Puts a layer over what is there.
fn apply(layer: &Path, rootfs: &Path) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(decompressed(layer)?);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let Some(folder) = inside(rootfs, path.parent().unwrap_or(Path::new(""))) else {
                continue;
            };
            if name == OPAQUE {
                for below in fs::read_dir(folder)? {
                    remove(&below?.path())?;
                }
            } else if !matches!(hidden, "" | "." | "..") {
                remove(&folder.join(hidden))?;
            }
            continue;
        }
        let kind = entry.header().entry_type();
        if kind.is_block_special() || kind.is_character_special() || kind.is_fifo() {
            continue;
        }
        // It refuses whatever would be outside.
        entry.unpack_in(rootfs)?;
    }
    Ok(())
}

/// A folder of the image, unless a link leads out of it or it is not there.
fn inside(rootfs: &Path, folder: &Path) -> Option<PathBuf> {
    let real = rootfs.join(folder).canonicalize().ok()?;
    real.starts_with(rootfs.canonicalize().ok()?)
        .then_some(real)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match path.symlink_metadata() {
        Ok(file) if file.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// By its first bytes: media types are missing in what `docker save` writes.
fn decompressed(layer: &Path) -> std::io::Result<Box<dyn Read>> {
    let mut magic = [0; 4];
    let mut begin = Vec::new();
    File::open(layer)?.take(4).read_to_end(&mut begin)?;
    magic[..begin.len()].copy_from_slice(&begin);
    let file = BufReader::new(File::open(layer)?);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(files: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            archive
                .append_data(&mut header, name, content.as_bytes())
                .expect("appended");
        }
        archive.into_inner().expect("packed")
    }

    fn docker_archive(folder: &Path, layers: &[Vec<u8>]) -> PathBuf {
        let path = folder.join("image.tar");
        let mut archive = tar::Builder::new(File::create(&path).expect("a file"));
        let mut add = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            archive
                .append_data(&mut header, name, content)
                .expect("appended");
        };
        let names: Vec<_> = (0..layers.len())
            .map(|number| format!("{number}.tar"))
            .collect();
        for (name, layer) in names.iter().zip(layers) {
            add(name, layer);
        }
        add("c.json", b"{}");
        let manifest = serde_json::json!([{ "Config": "c.json", "Layers": names }]);
        add("manifest.json", manifest.to_string().as_bytes());
        archive.finish().expect("packed");
        path
    }

    #[test]
    fn layers_hide_what_is_below() {
        let folder = tempfile::tempdir().expect("a folder");
        let layers = [
            layer(&[("a/one", "1"), ("a/two", "2"), ("b/three", "3")]),
            layer(&[("a/.wh.one", ""), ("b/.wh..wh..opq", ""), ("b/four", "4")]),
        ];
        let archive = docker_archive(folder.path(), &layers);
        let image = unpack(&archive, &folder.path().join("images")).expect("unpacked");
        let there = |name: &str| image.join(ROOTFS).join(name).exists();
        assert!(!there("a/one") && there("a/two") && !there("b/three") && there("b/four"));
    }

    #[test]
    fn nothing_is_written_or_removed_outside() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).expect("a folder");
        fs::write(outside.join("kept"), "").expect("written");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive
            .append_link(&mut header, "link", &outside)
            .expect("appended");
        let link = archive.into_inner().expect("packed");
        let hidden = layer(&[("link/.wh.kept", "")]);
        let archive = docker_archive(folder.path(), &[link.clone(), hidden]);
        unpack(&archive, &folder.path().join("images")).expect("unpacked");
        assert!(outside.join("kept").exists());
        let written = layer(&[("link/new", "")]);
        let archive = docker_archive(folder.path(), &[link, written]);
        assert!(unpack(&archive, &folder.path().join("images")).is_err());
        assert!(!outside.join("new").exists());
    }

    #[test]
    fn an_archive_without_an_image_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("image.tar");
        fs::write(&path, layer(&[("file", "")])).expect("written");
        let error = unpack(&path, &folder.path().join("images")).expect_err("no image");
        assert!(error.to_string().contains("manifest.json"), "{error}");
    }
}
