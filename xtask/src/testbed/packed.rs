//! What the test bed's machine starts with: its init, and the files that are used most.
//!
//! All files of the host are there through virtio-fs, but a file read that way is read
//! again whenever it is opened, which takes an emulated machine seconds for a program
//! such as QEMU. Those that every test needs are packed into memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use crate::cpio::Archive;

/// Init of the machine.
const INIT: &[u8] = include_bytes!("init.sh");

/// Programs that Caisson runs, and the shells of scripts.
const PROGRAMS: [&str; 6] = [
    "/bin/sh",
    "/bin/busybox",
    "/usr/bin/env",
    "/usr/bin/passt",
    "/usr/bin/qemu-system-x86_64",
    "/usr/sbin/mkfs.ext4",
];

/// Files that these read.
const FILES: [&str; 4] = [
    "/etc/ld.so.cache",
    "/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];

/// The folder of the machine's first root in which init looks for packed files.
const PACKED: &str = "packed";

/// The files of the host that are packed.
pub fn files(own_programs: &[PathBuf], own_files: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let programs: Vec<_> = PROGRAMS
        .iter()
        .map(PathBuf::from)
        .chain(own_programs.iter().cloned())
        .filter(|program| program.exists())
        .collect();
    let libraries = libraries(&programs)?;
    let others = FILES.iter().map(PathBuf::from);
    // Links are in the host's own files: what they lead to is what is read.
    Ok(programs
        .into_iter()
        .chain(libraries)
        .chain(others)
        .chain(own_files.iter().cloned())
        .filter_map(|path| path.canonicalize().ok())
        .collect())
}

/// The libraries of programs. What is no program, or a static one, has none.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let listed = Command::new("ldd")
        .args(programs)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("cannot start ldd")?;
    Ok(named(&String::from_utf8_lossy(&listed.stdout)))
}

/// Paths in the words of ldd(1): `libc.so.6 => /lib/libc.so.6 (0x1)`.
fn named(listed: &str) -> BTreeSet<PathBuf> {
    listed
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect()
}

/// Small files that init reads.
pub struct Orders<'a> {
    /// Shell script that executes the command.
    pub command: &'a str,
    /// How streams end.
    pub end: &'a str,
    /// Names and paths of shared folders, one in a line.
    pub shares: &'a str,
    /// Whether the command has a terminal.
    pub interactive: bool,
}

/// Packs all of it, not compressed: an emulated machine takes longer to unpack it.
pub fn initramfs(
    kernel: &Kernel,
    orders: &Orders<'_>,
    files: &BTreeSet<PathBuf>,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", PACKED] {
        archive.directory(folder, 0o755);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, INIT);
    archive.file("bin/busybox", 0o755, &read(Path::new("/bin/busybox"))?);
    archive.file("command", 0o644, orders.command.as_bytes());
    archive.file("end", 0o644, format!("{}\n", orders.end).as_bytes());
    archive.file("shares", 0o644, orders.shares.as_bytes());
    if orders.interactive {
        archive.file("interactive", 0o644, b"");
    }
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &read(module)?);
        order.push_str(&format!("{name}\n"));
    }
    archive.file("modules/order", 0o644, order.as_bytes());

    let mut folders = BTreeSet::new();
    for path in files {
        let mut parents: Vec<_> = path.ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            if folders.insert(parent.to_owned()) {
                archive.directory(&format!("{PACKED}{}", parent.display()), 0o755);
            }
        }
        let mode = path
            .metadata()
            .with_context(|| format!("cannot read {}", path.display()))?
            .mode();
        let name = format!("{PACKED}{}", path.display());
        archive.file(&name, mode & 0o7777, &read(path)?);
    }
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let listed = "/bin/sh:\n\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\
                      \t/lib64/ld.so (0x3)\n/bin/busybox:\n\tnot a dynamic executable\n";
        let expected = ["/lib/libc.so.6", "/lib64/ld.so"].map(PathBuf::from);
        assert_eq!(named(listed), BTreeSet::from(expected));
    }
}
