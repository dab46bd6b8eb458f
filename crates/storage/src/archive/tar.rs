//! A tar archive read at random: the objects of an image stand in it in any
//! order.
//!
//! The headers are walked here rather than by `tar::Archive`, which reads the
//! long names of an entry into memory whatever their length is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tar::{EntryType, Header, PaxExtensions};

use crate::error::IoContext;
use crate::section::Section;
use crate::{Error, Result};

const BLOCK: u64 = 512;
/// Most entries of an archive: an image with the most layers needs far fewer.
const MAX_ENTRIES: usize = 100_000;
/// Longest extended header, in bytes. The names in an image archive are short.
const MAX_EXTENSION: u64 = 64 << 10;
/// Most links that are followed from a name to its file.
const MAX_LINKS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// Another name in the archive.
    Link(String),
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// The files of an uncompressed tar archive.
#[derive(Debug)]
pub(super) struct TarArchive {
    file: File,
    name: String,
    entries: BTreeMap<String, Entry>,
}

impl TarArchive {
    /// Reads the headers of an archive. `name` is what errors call it.
    pub(super) fn open(file: File, name: &str) -> Result<Self> {
        let length = file.metadata().context("read", Path::new(name))?.len();
        let mut archive = Self {
            file,
            name: name.to_owned(),
            entries: BTreeMap::new(),
        };
        archive.walk(length)?;
        Ok(archive)
    }

    /// The content and size of a file, None if the archive does not have it.
    pub(super) fn get(&self, name: &str) -> Result<Option<(Section<'_>, u64)>> {
        let mut name = name.to_owned();
        for _ in 0..MAX_LINKS {
            match self.entries.get(&name) {
                None => return Ok(None),
                Some(Entry::Link(target)) => name.clone_from(target),
                Some(&Entry::File { offset, size }) => {
                    return Ok(Some((Section::new(&self.file, offset, size), size)));
                }
            }
        }
        Err(self.refuse(&name, "its links lead in a circle"))
    }

    fn walk(&mut self, length: u64) -> Result<()> {
        let mut position = 0;
        let mut extension = Extension::default();
        let mut count = 0;
        while let Some(header) = self.header(position, length)? {
            let place = format!("entry at byte {position}");
            count += 1;
            if count > MAX_ENTRIES {
                return Err(self.refuse(&place, "the archive has more than 100000 entries"));
            }
            let kind = header.entry_type();
            let is_extension = matches!(
                kind,
                EntryType::GNULongName
                    | EntryType::GNULongLink
                    | EntryType::XHeader
                    | EntryType::XGlobalHeader
            );
            let size = match extension.size {
                Some(size) if !is_extension => size,
                _ => header
                    .entry_size()
                    .map_err(|_| self.refuse(&place, "its size is no number"))?,
            };
            let offset = position + BLOCK;
            // Links have no content, whatever their size field says.
            let stored = match kind {
                EntryType::Link | EntryType::Symlink | EntryType::Directory => 0,
                _ => size,
            };
            let end = offset
                .checked_add(stored)
                .filter(|end| *end <= length)
                .ok_or_else(|| self.refuse(&place, "it ends after the end of the archive"))?;
            position = end.next_multiple_of(BLOCK);

            if is_extension {
                let content = self.extension(offset, size, &place)?;
                self.extend(&mut extension, kind, &content, &place)?;
                continue;
            }
            let given = std::mem::take(&mut extension);
            let path = given
                .path
                .unwrap_or_else(|| header.path_bytes().into_owned());
            let name = self.normal_name(&path, &place)?;
            let entry = match kind {
                EntryType::Regular | EntryType::Continuous => Entry::File { offset, size },
                EntryType::Link | EntryType::Symlink => {
                    let target = given
                        .link
                        .or_else(|| header.link_name_bytes().map(|target| target.into_owned()))
                        .ok_or_else(|| self.refuse(&name, "it is a link to nothing"))?;
                    let parent = match kind {
                        EntryType::Symlink => {
                            name.rsplit_once('/').map_or("", |(parent, _)| parent)
                        }
                        _ => "",
                    };
                    Entry::Link(self.link_target(&name, parent, &target)?)
                }
                // Nothing that an image needs is a device or a sparse file.
                _ => continue,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(self.refuse(&name, "the archive has it twice"));
            }
        }
        Ok(())
    }

    /// The header at `position`; None at the end of the archive.
    fn header(&self, position: u64, length: u64) -> Result<Option<Header>> {
        if position >= length {
            return Ok(None);
        }
        let place = format!("entry at byte {position}");
        let mut block = [0; BLOCK as usize];
        self.file
            .read_exact_at(&mut block, position)
            .map_err(|_| self.refuse(&place, "the archive is cut off"))?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // POSIX 1003.1, pax, ustar interchange format: the sum of all bytes,
        // those of the checksum itself taken as spaces.
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|byte| u32::from(*byte))
            .sum();
        if header.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
            return Err(self.refuse(
                &place,
                if position == 0 {
                    "this is no tar archive"
                } else {
                    "its header is damaged"
                },
            ));
        }
        Ok(Some(header))
    }

    fn extension(&self, offset: u64, size: u64, place: &str) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(self.refuse(place, "its extended header is larger than 64 KiB"));
        }
        let mut content = vec![0; size as usize];
        self.file
            .read_exact_at(&mut content, offset)
            .context("read", Path::new(&self.name))?;
        Ok(content)
    }

    fn extend(
        &self,
        extension: &mut Extension,
        kind: EntryType,
        content: &[u8],
        place: &str,
    ) -> Result<()> {
        let without_nul = || {
            content
                .split(|byte| *byte == 0)
                .next()
                .unwrap_or_default()
                .to_vec()
        };
        match kind {
            EntryType::GNULongName => extension.path = Some(without_nul()),
            EntryType::GNULongLink => extension.link = Some(without_nul()),
            EntryType::XHeader => {
                for record in PaxExtensions::new(content) {
                    let record =
                        record.map_err(|_| self.refuse(place, "its extended header is damaged"))?;
                    match record.key_bytes() {
                        b"path" => extension.path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => extension.link = Some(record.value_bytes().to_vec()),
                        b"size" => {
                            let size = record.value().ok().and_then(|value| value.parse().ok());
                            extension.size = Some(
                                size.ok_or_else(|| self.refuse(place, "its size is no number"))?,
                            );
                        }
                        _ => {}
                    }
                }
            }
            // A global header says nothing about names and sizes.
            _ => {}
        }
        Ok(())
    }

    /// A name without `.` and doubled slashes. One that leads out of the archive
    /// is refused: no honest tool writes it.
    fn normal_name(&self, path: &[u8], place: &str) -> Result<String> {
        let text =
            std::str::from_utf8(path).map_err(|_| self.refuse(place, "its name is not UTF-8"))?;
        if text.starts_with('/') || text.split('/').any(|part| part == "..") || text.contains('\0')
        {
            return Err(self.refuse(
                &text.escape_debug().to_string(),
                "it leads out of the archive",
            ));
        }
        Ok(join("", text))
    }

    fn link_target(&self, name: &str, parent: &str, target: &[u8]) -> Result<String> {
        let outside = || self.refuse(name, "it is a link that leads out of the archive");
        let target = std::str::from_utf8(target).map_err(|_| outside())?;
        if target.starts_with('/') {
            return Err(outside());
        }
        let mut parts: Vec<&str> = parent.split('/').filter(|part| !part.is_empty()).collect();
        for part in target.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(outside)?;
                }
                part => parts.push(part),
            }
        }
        Ok(parts.join("/"))
    }

    fn refuse(&self, object: &str, reason: &str) -> Error {
        Error::Archive {
            archive: self.name.clone(),
            object: object.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    parent
        .split('/')
        .chain(name.split('/'))
        .filter(|part| !part.is_empty() && *part != ".")
        .collect::<Vec<_>>()
        .join("/")
}

/// Puts the position back to the start, so that the same file can be read again.
pub(super) fn rewind(file: &mut File, name: &str) -> Result<()> {
    file.seek(SeekFrom::Start(0))
        .context("read", Path::new(name))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Result<TarArchive> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        raw(&builder.into_inner().unwrap())
    }

    fn raw(bytes: &[u8]) -> Result<TarArchive> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        TarArchive::open(file, "test.tar")
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, text: &str) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        let (content, link) = match kind {
            EntryType::Regular => (text, ""),
            _ => ("", text),
        };
        // Written as it is: the builder itself refuses hostile names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }

    fn text(archive: &TarArchive, name: &str) -> String {
        let (mut section, size) = archive.get(name).unwrap().unwrap();
        let mut text = String::new();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, size);
        text
    }

    #[test]
    fn finds_files_by_any_spelling_and_link() {
        let long = format!("{}/x", "d".repeat(200));
        let archive = archive(|tar| {
            add(tar, EntryType::Regular, "./a//b", "one");
            add(tar, EntryType::Symlink, "c/layer.tar", "../a/b");
            add(tar, EntryType::Link, "c/hard", "c/layer.tar");
            let mut header = Header::new_gnu();
            header.set_size(3);
            tar.append_data(&mut header, &long, "two".as_bytes())
                .unwrap();
            tar.append_pax_extensions([("path", "pax/name".as_bytes())])
                .unwrap();
            add(tar, EntryType::Regular, "short", "three");
        })
        .unwrap();
        for (name, content) in [
            ("a/b", "one"),
            ("c/layer.tar", "one"),
            ("c/hard", "one"),
            (long.as_str(), "two"),
            ("pax/name", "three"),
        ] {
            assert_eq!(text(&archive, name), content, "{name}");
        }
        assert!(archive.get("short").unwrap().is_none());
    }

    #[test]
    fn refuses_hostile_entries_by_name() {
        for (name, link) in [
            ("../x", None),
            ("/etc/passwd", None),
            ("a/../../x", None),
            ("a/x", Some("../../x")),
            ("x", Some("/etc/passwd")),
        ] {
            let error = archive(|tar| match link {
                Some(target) => add(tar, EntryType::Symlink, name, target),
                None => add(tar, EntryType::Regular, name, "x"),
            })
            .unwrap_err()
            .to_string();
            assert!(error.contains(name), "{error}");
        }
        let twice = archive(|tar| {
            add(tar, EntryType::Regular, "a", "1");
            add(tar, EntryType::Regular, "./a", "2");
        });
        assert!(twice.unwrap_err().to_string().contains("twice"));
        let circle = archive(|tar| {
            add(tar, EntryType::Symlink, "a", "b");
            add(tar, EntryType::Symlink, "b", "a");
        })
        .unwrap();
        assert!(circle.get("a").is_err());
    }

    #[test]
    fn refuses_damaged_archives() {
        assert!(raw(b"this is a text and no archive").is_err());
        assert!(raw(&[b'x'; 2048]).is_err());
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder, EntryType::Regular, "a", &"x".repeat(2000));
        let bytes = builder.into_inner().unwrap();
        assert!(raw(&bytes[..1024]).is_err(), "cut off");
        let mut huge = Header::new_gnu();
        huge.set_path("a").unwrap();
        huge.set_size(u64::MAX - 511);
        huge.set_cksum();
        assert!(raw(huge.as_bytes()).is_err(), "size overflows");
        let mut name = Header::new_gnu();
        name.set_entry_type(EntryType::GNULongName);
        name.set_size(1 << 20);
        name.set_cksum();
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(2 << 20, b'a');
        assert!(raw(&bytes).unwrap_err().to_string().contains("64 KiB"));
    }
}
