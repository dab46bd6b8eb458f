//! Mount options in the words of fstab (OCI runtime-spec, config, Linux mount options).

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::root::Root;
use crate::child::descriptor_path;
use crate::error::{Error, Result};

/// The options of one mount, by what they are for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) bind: bool,
    /// With what is mounted below the source.
    pub(super) recursive: bool,
    /// An empty source is filled with what the image has at the destination.
    pub(super) copy_up: bool,
    pub(super) flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    data: Vec<String>,
}

impl Options {
    pub(super) fn parse(mount: &Mount) -> Self {
        let mut options = Self {
            bind: mount.typ().as_deref() == Some("bind"),
            recursive: false,
            copy_up: false,
            flags: MountFlags::empty(),
            propagation: None,
            data: Vec::new(),
        };
        for word in mount.options().iter().flatten() {
            options.add(word);
        }
        options
    }

    fn add(&mut self, word: &str) {
        match word {
            "bind" => self.bind = true,
            "copyup" => self.copy_up = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            // Set what the opposite of a default is.
            "ro" => self.flags |= MountFlags::RDONLY,
            "nosuid" => self.flags |= MountFlags::NOSUID,
            "nodev" => self.flags |= MountFlags::NODEV,
            "noexec" => self.flags |= MountFlags::NOEXEC,
            "sync" => self.flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => self.flags |= MountFlags::DIRSYNC,
            "noatime" => self.flags |= MountFlags::NOATIME,
            "nodiratime" => self.flags |= MountFlags::NODIRATIME,
            "relatime" => self.flags |= MountFlags::RELATIME,
            "strictatime" => self.flags |= MountFlags::STRICTATIME,
            "silent" => self.flags |= MountFlags::SILENT,
            "nosymfollow" => self.flags |= MountFlags::from_bits_retain(256),
            "rw" => self.flags -= MountFlags::RDONLY,
            "suid" => self.flags -= MountFlags::NOSUID,
            "dev" => self.flags -= MountFlags::NODEV,
            "exec" => self.flags -= MountFlags::NOEXEC,
            "async" => self.flags -= MountFlags::SYNCHRONOUS,
            "atime" => self.flags -= MountFlags::NOATIME,
            "diratime" => self.flags -= MountFlags::NODIRATIME,
            "norelatime" => self.flags -= MountFlags::RELATIME,
            "defaults" | "loud" | "nostrictatime" | "symfollow" => {}
            _ => match propagation(word) {
                Some(propagation) => self.propagation = Some(propagation),
                None => self.data.push(word.to_owned()),
            },
        }
    }

    /// What the file system itself is told.
    pub(super) fn data(&self) -> Option<CString> {
        // A NUL byte, which JSON may have, ends no string of the kernel's here.
        CString::new(self.data.join(","))
            .ok()
            .filter(|data| !data.is_empty())
    }

    /// How the mount shares what is mounted below it, if that was said.
    pub(super) fn propagate(&self, root: &Root, destination: &Path) -> Result<()> {
        let Some(propagation) = self.propagation else {
            return Ok(());
        };
        let target = root.existing(destination)?;
        rustix::mount::mount_change(descriptor_path(&target), propagation)
            .map_err(Error::path("set the propagation of", destination))
    }
}

fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let all = MountPropagationFlags::REC;
    Some(match word {
        "private" => MountPropagationFlags::PRIVATE,
        "rprivate" => MountPropagationFlags::PRIVATE | all,
        "shared" => MountPropagationFlags::SHARED,
        "rshared" => MountPropagationFlags::SHARED | all,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "rslave" => MountPropagationFlags::DOWNSTREAM | all,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        "runbindable" => MountPropagationFlags::UNBINDABLE | all,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, words: &[&str]) -> Options {
        let json = serde_json::json!({"destination": "/x", "type": kind, "options": words});
        Options::parse(&serde_json::from_value(json).expect("a mount"))
    }

    #[test]
    fn words_are_told_apart() {
        let options = parse(
            "tmpfs",
            &["nosuid", "ro", "size=64k", "rprivate", "rw", "mode=755"],
        );
        assert!(!options.bind);
        assert_eq!(options.flags, MountFlags::NOSUID);
        assert_eq!(options.data().as_deref(), Some(c"size=64k,mode=755"));
        assert!(options.propagation.is_some());
    }

    #[test]
    fn a_bind_is_one_by_type_or_by_option() {
        assert!(parse("bind", &[]).bind);
        assert!(parse("none", &["rbind", "ro"]).recursive);
        assert_eq!(parse("bind", &[]).data(), None);
    }
}
