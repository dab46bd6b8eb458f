//! A real OCI image from Debian's busybox-static: what the demo runs.
//!
//! An OCI image layout (image-spec 1.1, image-layout.md) in one tar file, as
//! `docker save` and `skopeo` write it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::step::{output, target};

/// Where Debian's busybox-static puts its program.
const BUSYBOX: &str = "/bin/busybox";

/// Reference that the image carries.
pub const REFERENCE: &str = "busybox:latest";

/// Folders of the root file system with their modes.
const FOLDERS: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("var", 0o755),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";

const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Writes `target/demo/busybox.tar` and gives its path.
pub fn write() -> Result<PathBuf> {
    let folder = target().join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("busybox.tar");
    let partial = folder.join(format!(".busybox.tar.{}", std::process::id()));
    write_layout(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn write_layout(path: &Path) -> Result<()> {
    let layer = layer()?;
    let layer_digest = digest(&layer);
    // An uncompressed layer's digest is that of its content as well (`diff_ids`).
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"],"WorkingDir":"/"}},"rootfs":{{"type":"layers","diff_ids":["sha256:{layer_digest}"]}},"history":[{{"created_by":"caisson demo: busybox-static"}}]}}"#
    );
    let config_digest = digest(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{config_digest}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{layer_digest}","size":{layer_size}}}]}}"#,
        config_size = config.len(),
        layer_size = layer.len(),
    );
    let manifest_digest = digest(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{manifest_digest}","size":{manifest_size},"platform":{{"architecture":"amd64","os":"linux"}},"annotations":{{"io.containerd.image.name":"docker.io/library/{REFERENCE}","org.opencontainers.image.ref.name":"latest"}}}}]}}"#,
        manifest_size = manifest.len(),
    );

    let mut archive = Builder::new(BufWriter::new(File::create(path)?));
    for folder in ["blobs", "blobs/sha256"] {
        add(&mut archive, EntryType::Directory, folder, 0o755, &[])?;
    }
    let blobs = [
        (&config_digest, config.as_bytes()),
        (&layer_digest, &layer[..]),
        (&manifest_digest, manifest.as_bytes()),
    ];
    for (digest, content) in blobs {
        let name = format!("blobs/sha256/{digest}");
        add(&mut archive, EntryType::Regular, &name, 0o644, content)?;
    }
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    add(
        &mut archive,
        EntryType::Regular,
        "oci-layout",
        0o644,
        layout,
    )?;
    add(
        &mut archive,
        EntryType::Regular,
        "index.json",
        0o644,
        index.as_bytes(),
    )?;
    archive.into_inner()?.flush()?;
    Ok(())
}

/// The only layer: busybox, a link for each of its applets, and the users.
fn layer() -> Result<Vec<u8>> {
    let busybox = fs::read(BUSYBOX)
        .with_context(|| format!("cannot read {BUSYBOX}: run `make setup` for busybox-static"))?;
    let applets = output(Command::new(BUSYBOX).arg("--list"))?;

    let mut archive = Builder::new(Vec::new());
    for (name, mode) in FOLDERS {
        add(&mut archive, EntryType::Directory, name, *mode, &[])?;
    }
    add(
        &mut archive,
        EntryType::Regular,
        "bin/busybox",
        0o755,
        &busybox,
    )?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    add(
        &mut archive,
        EntryType::Regular,
        "etc/passwd",
        0o644,
        PASSWD.as_bytes(),
    )?;
    add(
        &mut archive,
        EntryType::Regular,
        "etc/group",
        0o644,
        GROUP.as_bytes(),
    )?;
    Ok(archive.into_inner()?)
}

fn add<W: Write>(
    archive: &mut Builder<W>,
    kind: EntryType,
    name: &str,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    archive.append_data(&mut header(kind, mode, content.len()), name, content)
}

/// Owned by root and without a time: the same busybox gives the same digests.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
