//! The file system device of a machine that is snapshotted, and of its copies.
//!
//! QEMU neither saves nor loads the state of a device that another process serves, and the
//! guest cannot let go of it as of the vsock device: what is mounted would be lost. So the
//! guest does not learn of it: its [driver](super::driver) goes on with the rings that it
//! has. The file server opens its files anew; see [`crate::device::State`].

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::arguments::{SHARE, share_device};
use super::driver::Driver;
use super::machine::Machine;
use super::monitor::Monitor;
use super::snapshot::Forked;
use super::{file, fork, make, slot};
use crate::device::{self, State};
use crate::{Error, Result, Share};

/// Name of the file with what the file server knew of its guest, of a snapshot.
pub(super) const FILES: &str = "files";

/// Most bytes of it: some hundred for each file that the guest remembers.
const FILES_LIMIT: u64 = 256 << 20;

/// What a machine has of its share.
pub(super) struct Attached {
    pub(super) share: Share,
    /// None while it is being replaced.
    pub(super) state: tokio::sync::Mutex<Option<State>>,
}

/// A share between two devices.
pub(super) struct Detached<'a> {
    attached: &'a Attached,
    pub(super) driver: Driver,
    files: File,
}

/// Takes the device away from a machine that stands still.
pub(super) async fn detach<'a>(
    machine: &Machine,
    attached: &'a Attached,
    monitor: &mut Monitor,
    directory: &Path,
) -> Result<Detached<'a>> {
    let failed = |error: io::Error| Error::Process {
        program: "QEMU".to_owned(),
        doing: "unplugging the file system device",
        detail: error.to_string(),
    };
    let driver = Driver::of(monitor, SHARE).await.map_err(failed)?;
    let mut state = attached.state.lock().await;
    // A second copy of what is in a file of its own: the device is about to end.
    let noted = state.as_mut().ok_or(Error::Ended)?.save().await?;
    let files = keep(noted, &directory.join(FILES))?;
    *state = None;
    let retired = machine.retire(device::FS).await?;
    fork::unplug(monitor, slot::SHARE, SHARE)
        .await
        .map_err(failed)?;
    if let Some(mut retired) = retired {
        retired.kill().await;
    }
    Ok(Detached {
        attached,
        driver,
        files,
    })
}

impl Detached<'_> {
    /// Gives a machine that stands still another device in place of the one it had.
    pub(super) async fn attach(
        self,
        machine: &Machine,
        forked: &Forked,
        monitor: &mut Monitor,
    ) -> Result<()> {
        let (device, mut state) = device::fs(
            &forked.qemu.devices_program,
            &forked.run_directory,
            &self.attached.share,
            self.files,
        )?;
        state.loaded().await?;
        let plugged = async {
            monitor.connect(SHARE, device.connection.as_fd()).await?;
            let arguments = share_device(&self.attached.share);
            fork::plug(monitor, slot::SHARE, arguments).await?;
            self.driver.tell(monitor, slot::SHARE).await
        };
        plugged.await.map_err(|error| Error::Process {
            program: "QEMU".to_owned(),
            doing: "plugging the file system device in again",
            detail: error.to_string(),
        })?;
        *self.attached.state.lock().await = Some(state);
        machine.adopt(device.process).await
    }
}

/// Writes what a file server has noted to a new file, and returns a copy for another.
fn keep(noted: &File, path: &Path) -> Result<File> {
    let mut kept = make(path, false)?;
    let copy = copy(noted).map_err(file(path))?;
    io::copy(&mut whole(&copy), &mut kept).map_err(file(path))?;
    Ok(copy)
}

/// What the file server of a snapshot knew, for that of a copy. The file stays as it is.
pub(super) fn files(directory: &Path) -> Result<File> {
    let path = directory.join(FILES);
    let files = File::open(&path).map_err(file(&path))?;
    copy(&files).map_err(file(&path))
}

fn copy(from: &File) -> io::Result<File> {
    let length = from.metadata()?.len();
    if length == 0 || length > FILES_LIMIT {
        return Err(io::Error::other(format!(
            "{length} bytes are no list of files"
        )));
    }
    let mut to = File::from(rustix::fs::memfd_create("files", MemfdFlags::CLOEXEC)?);
    io::copy(&mut whole(from), &mut to)?;
    Ok(to)
}

/// Reads a file from its beginning, whoever else has it open.
fn whole(file: &File) -> impl io::Read {
    struct Whole<'a>(&'a File, u64);
    impl io::Read for Whole<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = std::os::unix::fs::FileExt::read_at(self.0, buffer, self.1)?;
            self.1 += read as u64;
            Ok(read)
        }
    }
    Whole(file, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_files_is_kept_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let noted = tempfile::tempfile().expect("a file");
        let path = folder.path().join(FILES);
        assert!(keep(&noted, &path).is_err(), "an empty one is none");
        std::fs::remove_file(&path).expect("there");
        io::Write::write_all(&mut &noted, b"files").expect("written");
        keep(&noted, &path).expect("kept");
        let mut found = String::new();
        let copy = files(folder.path()).expect("read");
        io::Read::read_to_string(&mut whole(&copy), &mut found).expect("read");
        assert_eq!(found, "files");
    }
}
