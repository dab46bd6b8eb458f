//! Copies in and out of a container, as tar archives (what `docker cp` speaks).

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::Reporter;
use crate::error::{Error, Result};

/// Bytes collected before they are written to the stream.
const BUFFER: usize = 256 << 10;

/// A path that is to be read into a stream. The child is in the container's files.
#[derive(Debug)]
pub struct CopyOut {
    /// In the container.
    pub path: PathBuf,
    /// If the path's end is a link, what it leads to is meant.
    pub follow_link: bool,
    /// Takes the archive. In blocking mode.
    pub stream: OwnedFd,
}

/// An archive that is to be unpacked from a stream.
#[derive(Debug)]
pub struct CopyIn {
    /// An existing folder of the container.
    pub folder: PathBuf,
    /// Give files the owners that the archive names, else root.
    pub keep_owner: bool,
    /// Gives the archive. In blocking mode.
    pub stream: OwnedFd,
}

impl CopyOut {
    /// Writes the archive, reports whether the path is a folder, and ends.
    pub fn execute(self, reporter: &Reporter) -> Result<Infallible> {
        let failed = || Error::path("copy", &self.path);
        let path = if self.follow_link {
            fs::canonicalize(&self.path).map_err(failed())?
        } else {
            self.path.clone()
        };
        let metadata = fs::symlink_metadata(&path).map_err(failed())?;
        let mut archive = tar::Builder::new(BufWriter::with_capacity(
            BUFFER,
            File::from(self.stream.try_clone().map_err(failed())?),
        ));
        archive.follow_symlinks(false);
        let name = path.file_name().unwrap_or(std::ffi::OsStr::new("."));
        let added = if metadata.is_dir() {
            archive.append_dir_all(name, &path)
        } else {
            archive.append_path_with_name(&path, name)
        };
        added
            .and_then(|()| archive.into_inner())
            .and_then(|mut stream| stream.flush())
            .map_err(failed())?;
        reporter.done(if metadata.is_dir() { "folder" } else { "" })?;
        end()
    }
}

impl CopyIn {
    /// Unpacks the archive, reports, and ends.
    pub fn execute(self, reporter: &Reporter) -> Result<Infallible> {
        let failed = || Error::path("copy to", &self.folder);
        if !fs::metadata(&self.folder).map_err(failed())?.is_dir() {
            return Err(failed()(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let mut stream = File::from(self.stream.try_clone().map_err(failed())?);
        unpack(&mut stream, &self.folder, self.keep_owner).map_err(failed())?;
        // What follows the archive's end, padding, is taken so that its writer can end.
        io::copy(&mut stream, &mut io::sink()).map_err(failed())?;
        reporter.done("")?;
        end()
    }
}

fn unpack(stream: &mut impl Read, folder: &Path, keep_owner: bool) -> io::Result<()> {
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(keep_owner);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(false);
    archive.unpack(folder)
}

/// All is reported: the agent's memory is left without running its destructors.
fn end() -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(0) }
}
