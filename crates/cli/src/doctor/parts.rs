//! What a machine is made of: programs and files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::check::Check;
use crate::command::stats::bytes;
use crate::config::Settings;

/// The oldest QEMU whose options and devices are the ones that are used.
const LEAST_QEMU: (u32, u32) = (7, 2);

/// First bytes of an executable (`elf(5)`): the kernel is started as one.
const ELF: &[u8] = b"\x7fELF";

const INSTALL_QEMU: &str = "apt-get install qemu-system-x86";
const BUILD: &str = "`make build` in the source tree, or install Caisson again";

/// QEMU: there and new enough.
pub fn qemu(program: &Path) -> Check {
    const NAME: &str = "qemu";
    let Some(path) = look_up(program, &[]) else {
        return Check::bad(
            NAME,
            format!("{} was not found in PATH", program.display()),
            INSTALL_QEMU,
        );
    };
    let said = match version_line(&path) {
        Ok(said) => said,
        Err(reason) => {
            return Check::bad(
                NAME,
                format!("{} does not run: {reason}", path.display()),
                INSTALL_QEMU,
            );
        }
    };
    match qemu_version(&said) {
        Some(version) if version >= LEAST_QEMU => Check::good(
            NAME,
            format!("{} is version {}.{}", path.display(), version.0, version.1),
        ),
        Some(version) => {
            let (major, minor) = LEAST_QEMU;
            let found = format!(
                "{} is version {}.{}, older than {major}.{minor}",
                path.display(),
                version.0,
                version.1
            );
            Check::bad(
                NAME,
                found,
                "apt-get install qemu-system-x86, on Debian 12 or later",
            )
        }
        None => Check::bad(
            NAME,
            format!("{} is no QEMU: it says {said:?}", path.display()),
            INSTALL_QEMU,
        ),
    }
}

/// The device processes.
pub fn devices(program: &Path) -> Check {
    const NAME: &str = "devices";
    match version_line(program) {
        Ok(said) => Check::good(NAME, format!("{} ({said})", program.display())),
        Err(reason) => Check::bad(
            NAME,
            format!("{} does not run: {reason}", program.display()),
            BUILD,
        ),
    }
}

/// The guest's kernel.
pub fn kernel(path: &Path) -> Check {
    let is_kernel = |begin: &[u8]| begin == ELF;
    file(
        "kernel",
        path,
        is_kernel,
        "no uncompressed kernel (vmlinux)",
    )
}

/// The guest's initramfs.
pub fn initramfs(path: &Path) -> Check {
    file("initramfs", path, |begin| begin.len() == ELF.len(), "empty")
}

/// Makes the file system of a writable layer.
pub fn mkfs() -> Check {
    const NAME: &str = "mkfs.ext4";
    // Ordinary users do not have these folders in their PATH.
    match look_up(Path::new(NAME), &["/usr/sbin", "/sbin"]) {
        Some(path) => Check::good(NAME, format!("{} is there", path.display())),
        None => Check::bad(
            NAME,
            "it was not found in PATH".to_owned(),
            "apt-get install e2fsprogs",
        ),
    }
}

/// The user-mode network.
pub fn passt(settings: &Settings) -> Check {
    const NAME: &str = "passt";
    const INSTALL: &str = "apt-get install passt";
    if let Some(path) = look_up(&settings.passt, &[]) {
        return Check::good(NAME, format!("{} is there", path.display()));
    }
    let found = format!("{} was not found", settings.passt.display());
    if settings.network == "user" {
        return Check::bad(NAME, found, INSTALL);
    }
    Check::poor(
        NAME,
        format!("{found}: there is no `--network user`"),
        INSTALL,
    )
}

/// The machines from which others are forked.
pub fn templates(settings: &Settings) -> Check {
    const NAME: &str = "templates";
    if settings.template == "off" {
        let remedy = "set `template` to \"auto\" for machines that start faster";
        return Check::poor(NAME, "they are off: every machine boots".to_owned(), remedy);
    }
    match settings.templates().list() {
        Ok(list) => {
            let disk = list.iter().map(|template| template.disk).sum();
            let found = match list.len() {
                0 => "there is none; the first container makes one".to_owned(),
                1 => format!("1 with {} on disk", bytes(disk)),
                count => format!("{count} with {} on disk", bytes(disk)),
            };
            Check::good(NAME, found)
        }
        Err(error) => Check::poor(
            NAME,
            format!("they cannot be read: {error}"),
            "`caisson template rm --all`",
        ),
    }
}

fn file(name: &'static str, path: &Path, good: impl Fn(&[u8]) -> bool, else_it_is: &str) -> Check {
    let mut begin = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(ELF.len() as u64).read_to_end(&mut begin));
    match read {
        Ok(_) if good(&begin) => Check::good(name, format!("{} is there", path.display())),
        Ok(_) => Check::bad(name, format!("{} is {else_it_is}", path.display()), BUILD),
        Err(error) => Check::bad(
            name,
            format!("{} cannot be read: {error}", path.display()),
            BUILD,
        ),
    }
}

/// A path as it is, a name in `PATH` and then in `more`.
fn look_up(program: &Path, more: &[&str]) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.exists().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(more.iter().map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The first line that `--version` prints.
fn version_line(program: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(output.status.to_string()),
    }
}

/// From `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
fn qemu_version(line: &str) -> Option<(u32, u32)> {
    let (_, version) = line.split_once("QEMU emulator version ")?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    /// Written by a process of its own. A child that another test starts meanwhile has what we
    /// have open until it executes its program, and what is open for writing cannot be executed
    /// (ETXTBSY, execve(2)).
    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        let status = std::process::Command::new("sh")
            .args([
                "-ec",
                r#"printf '#!/bin/sh\n%s\n' "$1" > "$0"; chmod 755 "$0""#,
            ])
            .arg(&path)
            .arg(text)
            .status();
        assert!(status.expect("sh").success());
        path
    }

    #[test]
    fn qemu_must_be_new_enough() {
        assert_eq!(
            qemu_version("QEMU emulator version 10.0.2 (Debian)"),
            Some((10, 0))
        );
        assert_eq!(qemu_version("qemu 7"), None);
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text, verdict, words) in [
            (
                "new",
                "echo QEMU emulator version 7.2.22",
                Verdict::Good,
                "7.2",
            ),
            (
                "old",
                "echo QEMU emulator version 5.2.0",
                Verdict::Bad,
                "older than 7.2",
            ),
            ("odd", "echo hello", Verdict::Bad, "no QEMU"),
            ("broken", "exit 3", Verdict::Bad, "does not run"),
        ] {
            let check = qemu(&script(folder.path(), name, text));
            assert_eq!(check.verdict, verdict, "{name}");
            assert!(check.found.contains(words), "{}", check.found);
        }
        let check = qemu(Path::new("no-such-qemu"));
        assert_eq!(check.remedy.as_deref(), Some(INSTALL_QEMU));
    }

    #[test]
    fn a_kernel_is_an_executable() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("vmlinux");
        assert!(kernel(&path).found.contains("cannot be read"));
        std::fs::write(&path, "MZ bzImage").expect("written");
        assert!(kernel(&path).found.contains("uncompressed"));
        assert_eq!(initramfs(&path).verdict, Verdict::Good);
        std::fs::write(&path, b"\x7fELF...").expect("written");
        assert_eq!(kernel(&path).verdict, Verdict::Good);
        std::fs::write(&path, "").expect("written");
        assert_eq!(initramfs(&path).verdict, Verdict::Bad);
    }
}
