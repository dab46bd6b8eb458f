//! A tar archive from a guest, unpacked as what it is: hostile.
//!
//! No path of the archive is ever given to the kernel as a whole. Each is
//! opened below the target folder with links forbidden (`openat2(2)`), so that
//! neither `..` nor a link that the archive itself made leads outside.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

/// Where an archive goes.
#[derive(Debug)]
pub struct Target {
    folder: PathBuf,
    /// The name that the archive's topmost entry shall have; none: as it is,
    /// or left away when the content alone was asked for.
    top: Top,
}

#[derive(Debug)]
enum Top {
    Keep,
    Strip,
    Rename(OsString),
}

impl Target {
    /// By Docker's rules: into a folder that exists, else under a new name. A
    /// source that ends in `/.` is the content of a folder without the folder.
    pub fn new(source: &str, destination: &Path) -> Result<Self> {
        let content_only = source.ends_with("/.") || source == ".";
        if destination.is_dir() {
            let top = if content_only || source.trim_matches('/').is_empty() {
                Top::Strip
            } else {
                Top::Keep
            };
            return Ok(Self {
                folder: destination.to_owned(),
                top,
            });
        }
        let whole = std::path::absolute(destination)?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            bail!("{} is not a place to copy to", destination.display());
        };
        if destination.as_os_str().to_string_lossy().ends_with('/') || !parent.is_dir() {
            bail!("the folder {} does not exist", destination.display());
        }
        Ok(Self {
            folder: parent.to_owned(),
            top: Top::Rename(name.to_owned()),
        })
    }

    /// Unpacks everything.
    pub fn unpack(&self, archive: impl Read, keep_owner: bool) -> Result<()> {
        let root = rustix::fs::openat(
            CWD,
            &self.folder,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .with_context(|| format!("cannot open {}", self.folder.display()))?;
        let mut folders = Vec::new();
        let mut archive = Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry.context("the guest sent a damaged archive")?;
            let name = entry.path()?.into_owned();
            let place = self.place(&name)?;
            let Some(place) = place else { continue };
            write_entry(&root, &place, &mut entry, self, keep_owner).with_context(|| {
                format!(
                    "cannot unpack {} below {}",
                    place.display(),
                    self.folder.display()
                )
            })?;
            if entry.header().entry_type() == EntryType::Directory {
                folders.push((place, entry.header().mode()?));
            }
        }
        // Folders get their modes last: one without write permission could not be filled.
        for (place, mode) in folders.into_iter().rev() {
            let folder = open_folder(&root, &place)?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder));
            rustix::fs::chmodat(
                CWD,
                path,
                Mode::from_raw_mode(mode & 0o777),
                AtFlags::empty(),
            )?;
        }
        Ok(())
    }

    /// Where an entry goes below the folder; none for the folder itself.
    fn place(&self, name: &Path) -> Result<Option<PathBuf>> {
        let mut parts = Vec::new();
        for part in name.components() {
            match part {
                Component::Normal(part) => parts.push(part.to_owned()),
                Component::CurDir | Component::RootDir => {}
                _ => bail!("the guest sent an archive with the path {name:?}"),
            }
        }
        match &self.top {
            Top::Keep => {}
            Top::Strip => drop(parts.splice(0..parts.len().min(1), [])),
            Top::Rename(new) => {
                if let Some(first) = parts.first_mut() {
                    first.clone_from(new);
                }
            }
        }
        let place: PathBuf = parts.into_iter().collect();
        Ok((!place.as_os_str().is_empty()).then_some(place))
    }
}

fn open_folder(root: &OwnedFd, place: &Path) -> rustix::io::Result<OwnedFd> {
    let place = if place.as_os_str().is_empty() {
        Path::new(".")
    } else {
        place
    };
    rustix::fs::openat2(
        root,
        place,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

fn write_entry(
    root: &OwnedFd,
    place: &Path,
    entry: &mut Entry<'_, impl Read>,
    target: &Target,
    keep_owner: bool,
) -> Result<()> {
    let parent = open_folder(root, place.parent().unwrap_or(Path::new("")))?;
    let name = place
        .file_name()
        .context("the guest sent an entry without a name")?;
    let kind = entry.header().entry_type();
    match kind {
        EntryType::Directory => {
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => drop(open_folder(root, place)?),
                Err(error) => return Err(error.into()),
            }
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            remove(&parent, name)?;
            let mode = Mode::from_raw_mode(entry.header().mode()? & 0o777);
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, name, flags, mode)?;
            io::copy(entry, &mut File::from(file))?;
        }
        EntryType::Symlink => {
            let link = entry
                .link_name()?
                .context("the guest sent a link without a target")?
                .into_owned();
            remove(&parent, name)?;
            rustix::fs::symlinkat(&*link, &parent, name)?;
        }
        EntryType::Link => {
            let link = entry
                .link_name()?
                .context("the guest sent a link without a target")?
                .into_owned();
            let original = target
                .place(&link)?
                .context("the guest sent a hard link to a folder")?;
            let original_parent = open_folder(root, original.parent().unwrap_or(Path::new("")))?;
            let original_name = original
                .file_name()
                .context("the guest sent a link without a target")?;
            remove(&parent, name)?;
            rustix::fs::linkat(
                &original_parent,
                original_name,
                &parent,
                name,
                AtFlags::empty(),
            )?;
            return Ok(());
        }
        // A device of the guest means nothing here, and could mean harm.
        _ => {
            eprintln!(
                "caisson: {} is left out: it is neither file, folder nor link",
                place.display()
            );
            return Ok(());
        }
    }
    finish(parent.as_fd(), name, entry, keep_owner)
}

/// Makes room for an entry. A folder in its place is an error, not removed.
fn remove(parent: &OwnedFd, name: &std::ffi::OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn finish(
    parent: std::os::fd::BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    entry: &Entry<'_, impl Read>,
    keep_owner: bool,
) -> Result<()> {
    let header = entry.header();
    if keep_owner {
        let id =
            |number: u64| u32::try_from(number).context("the guest sent an owner out of range");
        let (user, group) = (id(header.uid()?)?, id(header.gid()?)?);
        rustix::fs::chownat(
            parent,
            name,
            Some(rustix::fs::Uid::from_raw(user)),
            Some(rustix::fs::Gid::from_raw(group)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    let modified = Timespec {
        tv_sec: i64::try_from(header.mtime()?).unwrap_or(0),
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: modified,
        last_modification: modified,
    };
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder);
        builder.into_inner().expect("an archive")
    }

    fn header(kind: EntryType, name: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        // Past the checks of the library: an attacker writes what he likes.
        header.as_gnu_mut().expect("a GNU header").name[..name.len()]
            .copy_from_slice(name.as_bytes());
        header
    }

    fn add(
        builder: &mut tar::Builder<Vec<u8>>,
        kind: EntryType,
        name: &str,
        link: &str,
        content: &[u8],
    ) {
        let mut header = header(kind, name, content.len() as u64);
        header.as_gnu_mut().expect("a GNU header").linkname[..link.len()]
            .copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).expect("appended");
    }

    #[test]
    fn a_file_gets_the_name_that_was_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = archive(|builder| add(builder, EntryType::Regular, "etc/passwd", "", b"x"));
        let target = Target::new("/etc", &folder.path().join("copy")).expect("a target");
        let with_folder = archive(|builder| add(builder, EntryType::Directory, "etc", "", b""));
        target.unpack(&with_folder[..], false).expect("unpacked");
        target.unpack(&bytes[..], false).expect("unpacked");
        assert_eq!(
            std::fs::read(folder.path().join("copy/passwd")).expect("a file"),
            b"x"
        );
    }

    #[test]
    fn nothing_leaves_the_folder() {
        let outer = tempfile::tempdir().expect("a folder");
        let inner = outer.path().join("inner");
        std::fs::create_dir(&inner).expect("a folder");
        let attacks: [fn(&mut tar::Builder<Vec<u8>>); 3] = [
            |builder| add(builder, EntryType::Regular, "../escaped", "", b"x"),
            |builder| {
                add(builder, EntryType::Symlink, "out", "..", b"");
                add(builder, EntryType::Regular, "out/escaped", "", b"x");
            },
            |builder| {
                add(builder, EntryType::Symlink, "out", "..", b"");
                add(builder, EntryType::Link, "stolen", "out/secret", b"");
            },
        ];
        std::fs::write(outer.path().join("secret"), "x").expect("a file");
        for (number, attack) in attacks.iter().enumerate() {
            let target = Target::new("/x", &inner).expect("a target");
            target
                .unpack(&archive(attack)[..], false)
                .expect_err(&format!("attack {number} is refused"));
            assert!(!outer.path().join("escaped").exists(), "attack {number}");
            assert!(!inner.join("stolen").exists(), "attack {number}");
        }
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let outer = tempfile::tempdir().expect("a folder");
        let inner = outer.path().join("inner");
        std::fs::create_dir(&inner).expect("a folder");
        let bytes = archive(|builder| {
            add(builder, EntryType::Symlink, "link", "../victim", b"");
            add(builder, EntryType::Regular, "link", "", b"new");
        });
        std::fs::write(outer.path().join("victim"), "old").expect("a file");
        Target::new("/x", &inner)
            .expect("a target")
            .unpack(&bytes[..], false)
            .expect("unpacked");
        assert_eq!(
            std::fs::read(outer.path().join("victim")).expect("a file"),
            b"old"
        );
        assert_eq!(std::fs::read(inner.join("link")).expect("a file"), b"new");
    }
}
