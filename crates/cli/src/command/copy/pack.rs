//! A file or folder of the host as a tar archive.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What is copied in, and the name it has by itself.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    /// None: the content of a folder, without the folder.
    name: Option<String>,
    follow_link: bool,
}

impl Source {
    /// A path that must exist. One that ends in `/.` is a folder's content.
    pub fn new(path: &Path, follow_link: bool) -> Result<Self> {
        std::fs::symlink_metadata(path)
            .with_context(|| format!("cannot copy {}", path.display()))?;
        let text = path.as_os_str().to_string_lossy();
        let content_only = text == "." || text.ends_with("/.");
        let whole = std::path::absolute(path)?;
        let name = whole
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|_| !content_only);
        Ok(Self {
            path: path.to_owned(),
            name,
            follow_link,
        })
    }

    /// Writes the archive; `rename` is the name it shall have.
    pub fn pack(&self, rename: Option<&str>, to: io::PipeWriter) -> Result<()> {
        let name = rename.or(self.name.as_deref()).unwrap_or(".");
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(128 << 10, to));
        archive.follow_symlinks(false);
        let metadata = if self.follow_link {
            self.path.metadata()
        } else {
            self.path.symlink_metadata()
        };
        let metadata = metadata.with_context(|| format!("cannot read {}", self.path.display()))?;
        let packed = if metadata.is_dir() {
            archive.append_dir_all(name, &self.path)
        } else if metadata.is_symlink() {
            archive.append_path_with_name(&self.path, name)
        } else {
            std::fs::File::open(&self.path)
                .and_then(|mut file| archive.append_file(name, &mut file))
        };
        packed
            .and_then(|()| archive.into_inner())
            .and_then(|mut written| io::Write::flush(&mut written))
            .with_context(|| format!("cannot pack {}", self.path.display()))
    }
}
