//! A new volume begins with what the image has in its place, as with Docker.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

/// Copies what is in `image` into `volume`, unless there is something in it. Nobody
/// changes the image's files meanwhile: the container has not begun.
pub(super) fn fill(volume: &Path, image: &Path) -> io::Result<()> {
    if fs::read_dir(volume)?.next().is_some() {
        return Ok(());
    }
    copy_attributes(image, volume)?;
    let mut folders = vec![(image.to_owned(), volume.to_owned())];
    while let Some((from, to)) = folders.pop() {
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                let metadata = fs::symlink_metadata(&from)?;
                symlink(fs::read_link(&from)?, &to)?;
                lchown(&to, Some(metadata.uid()), Some(metadata.gid()))?;
            } else if kind.is_dir() {
                fs::create_dir(&to)?;
                copy_attributes(&from, &to)?;
                folders.push((from, to));
            } else if kind.is_file() {
                fs::copy(&from, &to)?;
                copy_attributes(&from, &to)?;
            } else if kind.is_fifo() {
                rustix::fs::mkfifoat(rustix::fs::CWD, &to, rustix::fs::Mode::from_raw_mode(0o600))?;
                copy_attributes(&from, &to)?;
            }
            // Devices and sockets mean nothing in a folder of the host.
        }
    }
    Ok(())
}

/// Owner before mode: a change of owner takes set-user-ID away.
pub(super) fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::metadata(from)?;
    chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_volume_is_filled() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (image, volume) = (folder.path().join("image"), folder.path().join("volume"));
        fs::create_dir_all(image.join("deep/er")).expect("made");
        fs::create_dir(&volume).expect("made");
        fs::write(image.join("deep/er/file"), "text").expect("written");
        fs::set_permissions(image.join("deep"), fs::Permissions::from_mode(0o711)).expect("set");
        symlink("deep/er/file", image.join("link")).expect("linked");

        fill(&volume, &image).expect("filled");
        assert_eq!(fs::read(volume.join("link")).expect("read"), b"text");
        let mode = fs::metadata(volume.join("deep")).expect("there").mode();
        assert_eq!(mode & 0o777, 0o711);

        fs::write(image.join("later"), "").expect("written");
        fill(&volume, &image).expect("left alone");
        assert!(!volume.join("later").exists());
    }
}
