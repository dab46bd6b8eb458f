//! The mounts that containerd's snapshotters describe.

use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use rustix::mount::MountFlags;

use crate::error::{Error, Result};
use crate::namespace::alone;

/// Most that the kernel takes of a file system's own options is a page, NUL included.
const OPTIONS_LIMIT: usize = 4095;

/// The folder that a mount only makes visible elsewhere.
pub fn bound(mount: &Mount) -> Option<PathBuf> {
    let is_bind = mount.type_ == "bind"
        || mount
            .options
            .iter()
            .any(|option| option == "bind" || option == "rbind");
    (is_bind && mount.target.is_empty()).then(|| PathBuf::from(&mount.source))
}

/// Whether nothing may be written through a mount.
pub fn is_read_only(mount: &Mount) -> bool {
    mount.options.iter().any(|option| option == "ro")
}

/// Mounts one of them at a folder.
pub fn mount(mount: &Mount, folder: &Path) -> Result<()> {
    let target = target(mount, folder)?;
    let mut options = Options::parse(&mount.options);
    // The device serves the files: nothing of them is executed or opened as a device here.
    options.flags |= MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    if options.in_file {
        return Err(Error::Invalid(format!(
            "{} holds a file system ({}) that the guest's kernel does not have; keep snapshots \
             in files with ext4, or use another snapshotter",
            mount.source, mount.type_
        )));
    }
    let mut working = None;
    if options.text().len() > OPTIONS_LIMIT {
        working = options.shorten();
    }
    let text = options.text();
    let described = format!("mount the rootfs ({}, {})", mount.type_, mount.source);
    if text.len() > OPTIONS_LIMIT {
        return Err(Error::Invalid(format!(
            "cannot {described}: it has more layers than one overlay can take"
        )));
    }
    let text = CString::new(text)
        .map_err(|_| Error::Invalid(format!("cannot {described}: NUL in its options")))?;
    let call = || {
        if let Some(working) = &working {
            rustix::process::chdir(working)?;
        }
        rustix::mount::mount(
            mount.source.as_str(),
            &target,
            mount.type_.as_str(),
            options.flags,
            text.as_c_str(),
        )
    };
    alone(call)?.map_err(Error::host(described))
}

/// A mount may be for a folder below the rootfs.
fn target(mount: &Mount, folder: &Path) -> Result<PathBuf> {
    let below = Path::new(mount.target.trim_start_matches('/'));
    let plain = below
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if plain {
        return Ok(folder.join(below));
    }
    Err(Error::Invalid(format!(
        "{} is no place in a rootfs",
        mount.target
    )))
}

/// Options of a mount: flags of the kernel's and words for the file system.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Flags of the kernel's.
    pub flags: MountFlags,
    /// The source is a file with a file system in it.
    in_file: bool,
    words: Vec<String>,
}

impl Options {
    /// Reads them.
    pub fn parse(options: &[String]) -> Self {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            in_file: false,
            words: Vec::new(),
        };
        for option in options {
            match option.as_str() {
                "ro" => parsed.flags |= MountFlags::RDONLY,
                "rw" => parsed.flags -= MountFlags::RDONLY,
                "noatime" => parsed.flags |= MountFlags::NOATIME,
                "nodiratime" => parsed.flags |= MountFlags::NODIRATIME,
                "relatime" => parsed.flags |= MountFlags::RELATIME,
                "sync" => parsed.flags |= MountFlags::SYNCHRONOUS,
                "nodev" => parsed.flags |= MountFlags::NODEV,
                "nosuid" => parsed.flags |= MountFlags::NOSUID,
                "noexec" => parsed.flags |= MountFlags::NOEXEC,
                "loop" => parsed.in_file = true,
                "dev" | "suid" | "exec" | "defaults" | "" => {}
                word => parsed.words.push(word.to_owned()),
            }
        }
        parsed
    }

    /// What the file system itself is told.
    pub fn text(&self) -> String {
        self.words.join(",")
    }

    /// Names the lower folders of an overlay relative to the folder above them all, which
    /// is returned: with many layers their whole paths do not fit.
    fn shorten(&mut self) -> Option<PathBuf> {
        let lower = self
            .words
            .iter_mut()
            .find(|word| word.starts_with("lowerdir="))?;
        let folders: Vec<PathBuf> = lower
            .trim_start_matches("lowerdir=")
            .split(':')
            .map(PathBuf::from)
            .collect();
        let common = folders
            .iter()
            .skip(1)
            .fold(folders.first()?.clone(), |common, folder| {
                common
                    .components()
                    .zip(folder.components())
                    .take_while(|(ours, theirs)| ours == theirs)
                    .map(|(component, _)| component)
                    .collect()
            });
        let relative: Vec<_> = folders
            .iter()
            .map(|folder| folder.strip_prefix(&common).unwrap_or(folder))
            .map(|folder| folder.to_string_lossy().into_owned())
            .collect();
        *lower = format!("lowerdir={}", relative.join(":"));
        Some(common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Options {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        Options::parse(&words)
    }

    #[test]
    fn many_layers_are_named_from_the_folder_above_them() {
        let mut parsed = options(&[
            "ro",
            "index=off",
            "lowerdir=/s/snapshots/12/fs:/s/snapshots/1/fs",
        ]);
        assert_eq!(parsed.flags, MountFlags::RDONLY);
        assert_eq!(parsed.shorten().as_deref(), Some(Path::new("/s/snapshots")));
        assert_eq!(parsed.text(), "index=off,lowerdir=12/fs:1/fs");
    }

    #[test]
    fn a_target_stays_in_the_rootfs() {
        let mount = |target: &str| Mount {
            target: target.to_owned(),
            ..Default::default()
        };
        let folder = Path::new("/tree/0");
        assert_eq!(
            target(&mount("/a/b"), folder).expect("fine"),
            Path::new("/tree/0/a/b")
        );
        assert!(target(&mount("../x"), folder).is_err());
    }
}
