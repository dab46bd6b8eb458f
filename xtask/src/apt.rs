//! apt with folders of its own: what it downloads touches nothing of the system, and what is
//! installed has no say in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::step::run;

/// What Debian's indexes are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where the packages of a suite are.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Address of the archive.
    pub archive: &'static str,
    /// Suite or codename.
    pub suite: &'static str,
}

impl Source {
    /// A suite of Debian's main archive.
    pub const fn debian(suite: &'static str) -> Self {
        Self {
            archive: "http://deb.debian.org/debian",
            suite,
        }
    }

    /// The same with the fixes of its security team.
    pub const fn security(suite: &'static str) -> Self {
        Self {
            archive: "http://deb.debian.org/debian-security",
            suite,
        }
    }
}

/// apt in a folder.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Makes the folder's parts and reads the indexes of `sources`.
    pub fn new(folder: &Path, sources: &[Source]) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = folder.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let list = folder.join("sources.list");
        let lines: String = sources
            .iter()
            .map(|Source { archive, suite }| {
                format!("deb [signed-by={KEYRING}] {archive} {suite} main\n")
            })
            .collect();
        fs::write(&list, lines).with_context(|| format!("cannot write {}", list.display()))?;
        let apt = Self {
            folder: folder.to_owned(),
        };
        run(apt.command().arg("update").stdout(Stdio::null()))?;
        Ok(apt)
    }

    /// Downloads these packages and gives their files, in order of their names.
    pub fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join("packages");
        run(self
            .command()
            .arg("download")
            .args(packages)
            .current_dir(&folder)
            .stdout(Stdio::null()))?;
        packages_in(&folder)
    }

    /// The same with all that they depend on, down to the C library.
    pub fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        run(self
            .command()
            .args([
                "install",
                "--download-only",
                "--no-install-recommends",
                "--yes",
            ])
            // Nothing is installed, so nobody else's installing is in the way.
            .args(["-o", "Debug::NoLocking=1"])
            .args(packages)
            .stdout(Stdio::null()))?;
        packages_in(&self.folder.join("cache/archives"))
    }

    fn command(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet=2", "-o", "APT::Sandbox::User="]);
        let set = |key: &str, value: PathBuf| format!("{key}={}", value.display());
        for option in [
            set("Dir::Etc::sourcelist", self.folder.join("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            set("Dir::State::lists", self.folder.join("lists")),
            set("Dir::Cache", self.folder.join("cache")),
            // What is installed has no say in what is downloaded.
            "Dir::State::status=/dev/null".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}
