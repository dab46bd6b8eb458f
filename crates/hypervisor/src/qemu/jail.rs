//! What QEMU sees of the host.
//!
//! `caisson-devices vmm` executes it in a root of its own. Everything that a machine
//! works on is passed as a descriptor; the paths here are what QEMU itself is made of.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::MemfdFlags;

use super::{Accelerator, Qemu, open};
use crate::process::{Descriptors, Process};
use crate::{Error, Result};

/// Group of every QEMU, which has no other right than to open the memory of templates.
/// The user is another one for each process.
const GROUP: u32 = 2_000_000_000;

/// Libraries and firmware, where distributions have them. Those that are missing are
/// left out.
const VISIBLE: [&str; 9] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/urandom",
];

/// How QEMU begins.
pub(super) enum Beginning {
    /// It is executed with these arguments.
    Executed(Vec<OsString>),
    /// Likewise, and others begin as copies of it.
    Template(Vec<OsString>),
    /// It is a copy of another one.
    Copied {
        /// Arguments that tell its jailer of the other one.
        of: Vec<OsString>,
        /// Name of its machine, as it is shown.
        name: String,
    },
}

/// Starts QEMU in its jail: without a network, or in a namespace that is the guest's.
pub(super) fn spawn(
    qemu: &Qemu,
    beginning: Beginning,
    descriptors: Descriptors,
    network_namespace: Option<Arc<OwnedFd>>,
) -> Result<Process> {
    let mut line: Vec<OsString> = vec!["vmm".into(), format!("--group={GROUP}").into()];
    if network_namespace.is_some() {
        line.push("--keep-network".into());
    }
    for path in VISIBLE {
        let flag = if path.starts_with("/dev/") {
            "--device"
        } else {
            "--visible"
        };
        line.push(format!("{flag}={path}").into());
    }
    if qemu.accelerator == Accelerator::Kvm {
        line.push("--device=/dev/kvm".into());
    }
    let mut environment = vec![("GLIBC_TUNABLES", caisson_checkpoint::TUNABLES)];
    let arguments = match beginning {
        Beginning::Executed(arguments) => {
            environment.clear();
            arguments
        }
        Beginning::Template(arguments) => arguments,
        Beginning::Copied { of, name } => {
            line.extend(of);
            vec!["-name".into(), format!("guest={name}").into()]
        }
    };
    line.push("--".into());
    line.push(qemu.program.clone().into());
    line.extend(arguments);
    let program = &qemu.devices_program;
    Process::spawn(
        "QEMU",
        program,
        line,
        descriptors,
        network_namespace,
        &environment,
    )
}

/// Opens a file that QEMU opens again by its descriptor, under a user who owns nothing.
pub(super) fn open_for_all(path: &Path) -> Result<File> {
    let file = open(path, true)?;
    readable(file).map_err(super::file(path))
}

fn readable(mut file: File) -> io::Result<File> {
    const ANYBODY: u32 = 0o004;
    if file.metadata()?.permissions().mode() & ANYBODY != 0 {
        return Ok(file);
    }
    let mut copy = File::from(rustix::fs::memfd_create("file", MemfdFlags::CLOEXEC)?);
    io::copy(&mut file, &mut copy)?;
    copy.rewind()?;
    Ok(copy)
}

/// Lets QEMU open a file of ours again for reading and writing, by a descriptor that it
/// was given. An ordinary user's QEMU is that user.
pub(super) fn share(file: &File) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fchown(file.as_fd(), None, Some(GROUP))
        .and_then(|()| file.set_permissions(PermissionsExt::from_mode(0o660)))
        .map_err(Error::host("cannot share a template's memory with QEMU"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_others_may_not_read_is_copied() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("kernel");
        std::fs::write(&path, "kernel").expect("written");
        for mode in [0o600, 0o644] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("mode");
            let mut file = open_for_all(&path).expect("opened");
            let mode = file.metadata().expect("metadata").permissions().mode();
            assert_ne!(mode & 0o004, 0);
            let mut text = String::new();
            file.read_to_string(&mut text).expect("read");
            assert_eq!(text, "kernel");
        }
    }
}
