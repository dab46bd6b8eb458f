//! `xtask testbed`: a machine with a KVM of its own, in which any command may be run.
//!
//! QEMU emulates a processor with AMD's extensions for virtualisation, so the kernel that
//! boots there has a `/dev/kvm` like that of a real machine, whatever the host has. The
//! host's files are there under their paths; what is written to them stays in memory.

mod kernel;
mod machine;
mod monitor;
mod packed;
mod stream;
mod terminal;

/// The drivers' own measurement: a file without dependencies, unlike its crate.
#[path = "../../../crates/hypervisor/src/host/tsc.rs"]
mod tsc;

use std::env;
use std::fs;
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::machine::Late;
use self::packed::Orders;
use self::stream::Mark;
use crate::step::{cargo, output, root, target};

/// How long a command may take, in seconds.
const DEADLINE: u64 = 600;

/// How long a shell may.
const DEADLINE_OF_SHELL: u64 = 24 * 3600;

/// How long the tests may. They take half a minute on an idle machine with two cores.
const DEADLINE_OF_TESTS: u64 = 400;

/// How often they are begun. Now and then the emulated processor goes on, after its guest's
/// turn, with its guest's page tables, and the machine stands still. A test that fails says so
/// at once, and is not tried again.
const ATTEMPTS: u32 = 3;

/// The tests that need a KVM: `tests/tests/testbed.rs`.
const TESTS: &str = "testbed";

/// `xtask testbed [--deadline=SECONDS] [COMMAND...]`: runs the command, or a shell, and
/// gives its exit status.
pub fn run(arguments: &[&str]) -> Result<u8> {
    let (deadline, command) = match arguments.split_first() {
        Some((first, rest)) if first.starts_with("--deadline=") => {
            let seconds = first.trim_start_matches("--deadline=");
            let parsed = seconds.parse();
            let parsed = parsed.with_context(|| format!("{first}: not a number of seconds"))?;
            (Some(parsed), rest)
        }
        Some((first, _)) if first.starts_with('-') => {
            bail!("{first}: the only option is --deadline=SECONDS; a command comes after it")
        }
        _ => (None, arguments),
    };
    if !command.is_empty() {
        return start(command, Duration::from_secs(deadline.unwrap_or(DEADLINE)));
    }
    if !stdin().is_terminal() {
        bail!("without a command there is a shell, which wants a terminal");
    }
    let deadline = Duration::from_secs(deadline.unwrap_or(DEADLINE_OF_SHELL));
    let _raw = terminal::Raw::begin()?;
    start(&[], deadline)
}

/// Runs the tests that need a KVM.
pub fn test() -> Result<()> {
    let program = test_program()?;
    let program = program.to_string_lossy();
    let command = [&*program, "--ignored", "--nocapture", "--test-threads=1"];
    for attempt in 1.. {
        match start(&command, Duration::from_secs(DEADLINE_OF_TESTS)) {
            Ok(0) => break,
            Ok(status) => bail!("the tests on KVM ended with {status}"),
            Err(error) if attempt < ATTEMPTS && error.chain().any(|cause| cause.is::<Late>()) => {
                eprintln!("==> the test bed stands still, and is started again: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Builds the tests, and finds out what cargo calls them.
fn test_program() -> Result<PathBuf> {
    let messages = output(&mut cargo(&[
        "test",
        "--quiet",
        "--package=caisson-end-to-end",
        &format!("--test={TESTS}"),
        "--no-run",
        "--message-format=json",
    ]))?;
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == TESTS;
        let path = message["executable"].as_str().filter(|_| ours);
        path.map(PathBuf::from)
    });
    program.with_context(|| format!("cargo did not say where it left the tests {TESTS}"))
}

/// Runs a command in a new machine.
fn start(command: &[&str], deadline: Duration) -> Result<u8> {
    let programs = programs()?;
    let kernel = kernel::kernel()?;
    let mark = Mark::draw()?;
    let shares = [
        ("root", PathBuf::from("/")),
        ("source", root().to_owned()),
        ("target", target()),
    ];
    let lines = shares[1..]
        .iter()
        .map(|(name, path)| format!("{name} {}\n", path.display()));
    let shares_list: String = lines.collect();

    let mut own_programs = vec![programs.join("caisson"), programs.join("caisson-devices")];
    own_programs.extend(command.first().map(|program| found(program, &programs)));
    let own_files = ["guest/vmlinux", "guest/initramfs", "demo/busybox.tar"];
    let own_files = own_files.map(|name| target().join(name));
    let files = packed::files(&own_programs, &own_files)?;
    let orders = Orders {
        command: &script(command, &programs)?,
        end: mark.text(),
        shares: &shares_list,
        interactive: command.is_empty(),
    };
    let initramfs = packed::initramfs(&kernel, &orders, &files)?;
    let parts = machine::Parts {
        kernel: &kernel.image,
        initramfs: &initramfs,
        devices: &programs.join("caisson-devices"),
        shares: &shares,
        scratch: &target(),
        mark: &mark,
        interactive: orders.interactive,
    };
    machine::run(&parts, deadline)
}

/// Folder of the programs that are tested, chosen as the end-to-end tests choose it.
fn programs() -> Result<PathBuf> {
    let folder = match env::var_os("CAISSON_TEST_PROGRAMS") {
        Some(folder) => root().join(folder),
        None => target().join("release"),
    };
    for program in ["caisson", "caisson-devices"] {
        let path = folder.join(program);
        if !path.exists() {
            bail!("{} is missing: run `make build`", path.display());
        }
    }
    Ok(folder)
}

/// Where a program will be found.
fn found(program: &str, programs: &Path) -> PathBuf {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    }
    let search = env::var_os("PATH").unwrap_or_default();
    std::iter::once(programs.to_owned())
        .chain(env::split_paths(&search))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| path.to_owned())
}

/// A shell script that executes the command where and as we were called.
fn script(command: &[&str], programs: &Path) -> Result<String> {
    let path = env::var("PATH").unwrap_or_default();
    let ours = [
        ("PATH", format!("{}:{path}", programs.display())),
        ("HOME", "/root".to_owned()),
        (
            "TERM",
            env::var("TERM").unwrap_or_else(|_| "linux".to_owned()),
        ),
        ("CAISSON_CONFIG", "/dev/null".to_owned()),
        // Not a minute: an emulator below another is slow, and the host may be busy.
        ("CAISSON_BOOT_DEADLINE", "300".to_owned()),
        ("CAISSON_TEST_PROGRAMS", programs.display().to_string()),
        (
            "CAISSON_DEVICES",
            programs.join("caisson-devices").display().to_string(),
        ),
        (
            "CAISSON_KERNEL",
            target().join("guest/vmlinux").display().to_string(),
        ),
        (
            "CAISSON_INITRAMFS",
            target().join("guest/initramfs").display().to_string(),
        ),
    ];
    let theirs = env::vars().filter(|(name, _)| {
        let told = name.starts_with("CAISSON_") || name.starts_with("RUST_");
        told && name != "CAISSON_TEST_PROGRAMS"
    });
    let variables = ours
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(theirs);
    let mut script: String = variables
        .map(|(name, value)| format!("export {name}={}\n", quoted(&value)))
        .collect();
    let folder = env::current_dir().context("the working directory is gone")?;
    let folder = quoted(&folder.to_string_lossy());
    script.push_str(&format!("cd {folder} || exit\nexec"));
    let shell = ["/bin/sh"];
    for word in if command.is_empty() { &shell } else { command } {
        script.push(' ');
        script.push_str(&quoted(word));
    }
    script.push('\n');
    Ok(script)
}

/// A word of a shell script.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        let script = script(&["echo", "a b", "$x"], Path::new("/p")).expect("a script");
        assert!(script.ends_with("\nexec 'echo' 'a b' '$x'\n"), "{script}");
        assert!(script.starts_with("export PATH='/p:"), "{script}");
    }
}
