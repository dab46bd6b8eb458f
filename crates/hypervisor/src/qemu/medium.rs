//! The files behind a machine's disks.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;

use super::image::{Role, Roles};
use super::{file, open};
use crate::process::Descriptors;
use crate::template::copy_file;
use crate::{Disk, Error, Result, VmConfig};

/// Makes the new disks of a machine. Of a fork whose template has one, it is a copy of
/// `template`: that is the one which the guest has mounted.
pub(super) fn make_new(config: &VmConfig, template: Option<&Path>) -> Result<()> {
    for disk in &config.disks {
        if let Some(empty) = &disk.new {
            let from = template.unwrap_or(empty);
            copy(from, &disk.path).map_err(file(&disk.path))?;
        }
    }
    Ok(())
}

/// The disk is there whole or not at all: what is left of a start that was interrupted is
/// not taken for a container's disk.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let unfinished = unfinished(to);
    let target = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    copy_file(&File::open(from)?, &target)?;
    fs::rename(unfinished, to)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

/// Opens the disks of a machine.
pub(super) fn all(config: &VmConfig, descriptors: &mut Descriptors) -> Result<Vec<i32>> {
    let open = |disk: &Disk| open(&disk.path, disk.read_only);
    config
        .disks
        .iter()
        .map(|disk| open(disk).map(|file| descriptors.add(file)))
        .collect()
}

/// Bytes of a disk of a template that has nothing in it. A fork's guest takes its disk to
/// be as large, and finds zeros or an error where it reads what is not there.
const NOTHING: u64 = 1 << 44;

/// Opens those of a template, of which each fork has a copy of the new one. In the others
/// it has nothing: images are attached to forks alone.
pub(super) fn template(
    config: &VmConfig,
    directory: &Path,
    descriptors: &mut Descriptors,
    roles: &mut Roles,
) -> Result<(Vec<i32>, Option<File>)> {
    let Some(empty) = config.new_disk().and_then(|disk| disk.new.as_ref()) else {
        return Ok((Vec::new(), None));
    };
    let path = directory.join(crate::template::DISK);
    copy(empty, &path).map_err(file(&path))?;
    let opened = open(&path, false)?;
    let mut media = Vec::new();
    for (number, disk) in config.disks.iter().enumerate() {
        let given = match disk.new {
            Some(_) => opened.try_clone().map_err(file(&path))?,
            None => nothing().map_err(Error::host("cannot make a disk for a template"))?,
        };
        roles.note(Role::Disk(number), &given)?;
        media.push(descriptors.add(given));
    }
    Ok((media, Some(opened)))
}

/// Zeros that can be read.
fn nothing() -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create("nothing", MemfdFlags::CLOEXEC)?);
    file.set_len(NOTHING)?;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_disk_takes_the_place_of_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("empty"), "empty").expect("written");
        fs::write(at("template"), "mounted").expect("written");
        fs::write(at("disk"), "left by a machine that did not come up").expect("written");
        let mut config = super::super::slot::tests::config(1, false);
        config.disks[0].path = at("disk");
        make_new(&config, None).expect("nothing to do");
        assert!(
            fs::read_to_string(at("disk"))
                .expect("read")
                .starts_with("left")
        );
        config.disks[0].new = Some(at("empty"));
        make_new(&config, None).expect("made");
        assert_eq!(fs::read_to_string(at("disk")).expect("read"), "empty");
        make_new(&config, Some(&at("template"))).expect("made");
        assert_eq!(fs::read_to_string(at("disk")).expect("read"), "mounted");
        let mode = at("disk")
            .metadata()
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 3);
    }
}
