//! An OCI layout in a folder of the host.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::Result;
use crate::error::IoContext;

/// A folder that names cannot lead out of.
#[derive(Debug)]
pub(super) struct Folder {
    folder: File,
    name: std::path::PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            folder: File::open(path).context("open", path)?,
            name: path.to_owned(),
        })
    }

    /// The content and size of a regular file, None if there is no file of this
    /// name.
    pub(super) fn get(&self, name: &str) -> Result<Option<(File, u64)>> {
        let path = self.name.join(name);
        let opened = rustix::fs::openat2(
            &self.folder,
            name,
            // A FIFO must not hold us up.
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        );
        let file = match opened {
            Ok(descriptor) => File::from(descriptor),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(std::io::Error::from(error)).context("open", &path),
        };
        let metadata = file.metadata().context("read", &path)?;
        Ok(metadata.is_file().then_some((file, metadata.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn stays_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("layout");
        std::fs::create_dir_all(root.join("blobs")).unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        std::fs::write(root.join("blobs/a"), "content").unwrap();
        symlink("a", root.join("blobs/link")).unwrap();
        symlink("../../secret", root.join("blobs/out")).unwrap();
        symlink("/etc/passwd", root.join("blobs/absolute")).unwrap();
        let layout = Folder::open(&root).unwrap();
        assert_eq!(layout.get("blobs/a").unwrap().unwrap().1, 7);
        assert_eq!(layout.get("blobs/link").unwrap().unwrap().1, 7);
        assert!(layout.get("blobs/none").unwrap().is_none());
        assert!(
            layout.get("blobs").unwrap().is_none(),
            "a folder is no file"
        );
        for name in ["../secret", "blobs/out", "blobs/absolute", "/etc/passwd"] {
            assert!(layout.get(name).is_err(), "{name}");
        }
    }
}
