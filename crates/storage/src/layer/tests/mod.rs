//! Layers in, disks out, and what is on them.

mod damage;
mod disks;
mod formats;
mod merge;
mod random;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::erofs::reader::{Node, Reader};
use crate::{ImageBuilder, Limits, Result};

/// An archive that is being written, byte by byte: programs that write archives
/// refuse what must be tested here.
#[derive(Default, Clone)]
struct Archive(Vec<u8>);

/// Fields of a header, by their offset.
type Field<'a> = (usize, &'a [u8]);

impl Archive {
    fn new() -> Self {
        Self::default()
    }

    /// A header with these fields changed, and content.
    fn entry(mut self, kind: u8, path: &[u8], fields: &[Field<'_>], content: &[u8]) -> Self {
        if path.len() > 100 {
            self = self.entry(b'L', b"././@LongLink", &[], &[path, b"\0"].concat());
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        let bytes = header.as_mut_bytes();
        bytes[156] = kind;
        let name = &path[..path.len().min(100)];
        bytes[..name.len()].copy_from_slice(name);
        for (offset, field) in fields {
            bytes[*offset..offset + field.len()].copy_from_slice(field);
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(b'0', path.as_bytes(), &[], content)
    }

    fn folder(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), &[], b"")
    }

    fn folder_with(self, path: &str, mode: &[u8]) -> Self {
        self.entry(b'5', path.as_bytes(), &[(100, mode)], b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), &[(157, target.as_bytes())], b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), &[(157, target.as_bytes())], b"")
    }

    /// A PAX header for the next entry.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(b'x', b"pax", &[], &content)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A finished disk.
struct Image {
    _folder: TempDir,
    path: PathBuf,
}

impl Image {
    fn reader(&self) -> Reader {
        Reader::open(&self.path)
    }

    fn tree(&self) -> BTreeMap<String, Node> {
        self.reader().tree()
    }

    /// Every path but the root, with what it is: `/`, `=content`, `->target`.
    fn listing(&self) -> Vec<String> {
        let describe = |(path, node): (String, Node)| match node.mode >> 12 {
            4 => format!("{path}/"),
            8 => format!("{path}={}", String::from_utf8(node.content).unwrap()),
            10 => format!("{path}->{}", String::from_utf8(node.content).unwrap()),
            other => format!("{path}:{other}:{:x}", node.device),
        };
        self.tree()
            .into_iter()
            .filter(|(path, _)| !path.is_empty())
            .map(describe)
            .collect()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// Lets the authors' own program judge the disk.
    fn check(&self) {
        erofs_tool("fsck.erofs", &[self.path.to_str().unwrap()]);
    }
}

/// Runs a program of the package erofs-utils and gives what it says. It recurses for
/// each folder, so it gets as much stack as there is.
fn erofs_tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -s unlimited; exec "$0" "$@""#, program])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_ne!(
        output.status.code(),
        Some(127),
        "there is no {program}: install the package erofs-utils"
    );
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}{complained}"
    );
    said
}

fn build_with(limits: &Limits, layers: &[Vec<u8>]) -> Result<Image> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.erofs");
    let mut builder = ImageBuilder::create(&path, limits.clone())?;
    for layer in layers {
        builder.add_layer(layer.as_slice(), None)?;
    }
    builder.finish()?;
    Ok(Image {
        _folder: folder,
        path,
    })
}

fn build(layers: &[Archive]) -> Result<Image> {
    let layers: Vec<_> = layers.iter().map(|layer| layer.clone().end()).collect();
    build_with(&Limits::default(), &layers)
}

/// What is said about layers that are refused.
fn refusal(layers: &[Archive]) -> String {
    match build(layers) {
        Err(error) => error.to_string(),
        Ok(image) => panic!("was not refused: {:?}", image.listing()),
    }
}
