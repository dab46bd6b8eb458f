//! `caisson setup`: makes engines know the runtime. Only their configuration is changed,
//! with a copy of what it was; nothing is restarted or installed.

mod containerd;
mod docker;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

/// Name of the runtime in engines' configurations.
const NAME: &str = "caisson";

/// What engines call the shim by: it is looked for as `containerd-shim-caisson-v2`.
const RUNTIME: &str = "io.containerd.caisson.v2";

/// The shim's program.
const SHIM: &str = "containerd-shim-caisson-v2";

/// Where engines look for shims when a service manager has started them.
const SHIM_FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Which engine.
#[derive(Debug, Subcommand)]
pub enum SetupCommand {
    /// Make the runtime known to containerd's CRI plugin, for Kubernetes
    Containerd(SetupFlags),
    /// Make the runtime known to Docker as `--runtime caisson`
    Docker(SetupFlags),
}

/// Flags of either.
#[derive(Debug, Args)]
pub struct SetupFlags {
    /// The engine's configuration, if it is not where it usually is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// A configuration with the runtime in it.
struct Changed {
    text: String,
    /// What else the user should know.
    note: Option<String>,
}

/// Changes an engine's configuration.
pub fn setup(command: &SetupCommand) -> Result<()> {
    let (flags, usual, engine, change): (_, _, _, fn(&str) -> Result<Changed>) = match command {
        SetupCommand::Containerd(flags) => (
            flags,
            "/etc/containerd/config.toml",
            "containerd",
            containerd::add,
        ),
        SetupCommand::Docker(flags) => (flags, "/etc/docker/daemon.json", "docker", docker::add),
    };
    let file = flags.config.clone().unwrap_or_else(|| usual.into());
    let before = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let changed = change(&before).with_context(|| format!("cannot change {}", file.display()))?;
    if changed.text == before {
        println!(
            "{} knows the runtime already: nothing to do",
            file.display()
        );
    } else if flags.dry_run {
        println!("{} would be changed:", file.display());
        for line in added(&before, &changed.text) {
            println!("+ {line}");
        }
    } else {
        if let Some(backup) = back_up(&file)? {
            println!("{} is what it was before", backup.display());
        }
        replace(&file, &changed.text)?;
        println!("{} knows the runtime now", file.display());
        println!("restart the engine: systemctl restart {engine}");
    }
    for note in changed.note.into_iter().chain(shim_note()) {
        println!("note: {note}");
    }
    Ok(())
}

/// Lines of `after` that `before` does not have.
fn added<'a>(before: &str, after: &'a str) -> Vec<&'a str> {
    let mut old = before.lines().peekable();
    after
        .lines()
        .filter(|line| old.next_if(|old| old == line).is_none())
        .collect()
}

/// Copies a file to a name beside it that nothing has yet.
fn back_up(file: &Path) -> Result<Option<PathBuf>> {
    if !file.exists() {
        return Ok(None);
    }
    let mut number = 0;
    loop {
        let mut name = file.as_os_str().to_owned();
        name.push(".before-caisson");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let backup = PathBuf::from(name);
        if !backup.exists() {
            fs::copy(file, &backup).with_context(|| {
                format!("cannot copy {} to {}", file.display(), backup.display())
            })?;
            return Ok(Some(backup));
        }
        number += 1;
    }
}

/// Replaces a file as a whole, with the permissions it has.
fn replace(file: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).with_context(failed)?;
    let permissions = match file.metadata() {
        Ok(metadata) => metadata.permissions(),
        Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
    };
    let mut new = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    new.write_all(text.as_bytes()).with_context(failed)?;
    new.as_file()
        .set_permissions(permissions)
        .with_context(failed)?;
    new.as_file().sync_all().with_context(failed)?;
    new.persist(file).with_context(failed)?;
    Ok(())
}

/// What is to be done if engines would not find the shim.
fn shim_note() -> Option<String> {
    if SHIM_FOLDERS
        .iter()
        .any(|folder| Path::new(folder).join(SHIM).exists())
    {
        return None;
    }
    let beside = std::env::current_exe()
        .ok()
        .map(|program| program.with_file_name(SHIM))
        .filter(|shim| shim.exists());
    let shim = beside.map_or_else(|| SHIM.to_owned(), |shim| shim.display().to_string());
    Some(format!(
        "engines look for {SHIM} in their PATH, and it is in none of the usual folders: \
         ln -s {shim} /usr/local/bin/"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_what_was_there_and_happens_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.toml");
        fs::write(&file, "# mine\nversion = 2\n").expect("written");
        let command = SetupCommand::Containerd(SetupFlags {
            config: Some(file.clone()),
            dry_run: false,
        });
        setup(&command).expect("changed");
        let once = fs::read_to_string(&file).expect("read");
        assert!(once.starts_with("# mine\nversion = 2\n"), "{once}");
        assert!(once.contains(RUNTIME), "{once}");
        setup(&command).expect("nothing to do");
        assert_eq!(fs::read_to_string(&file).expect("read"), once);
        let backup = folder.path().join("config.toml.before-caisson");
        assert_eq!(
            fs::read_to_string(backup).expect("read"),
            "# mine\nversion = 2\n"
        );
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
    }

    #[test]
    fn a_dry_run_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("daemon.json");
        let command = SetupCommand::Docker(SetupFlags {
            config: Some(file.clone()),
            dry_run: true,
        });
        setup(&command).expect("shown");
        assert!(!file.exists());
    }

    #[test]
    fn only_new_lines_are_shown() {
        assert_eq!(added("a\nc\n", "a\nb\nc\nd\n"), ["b", "d"]);
    }
}
