//! Engines that the tests drive: Debian's own is installed (see `packages`), those of newer
//! suites are unpacked into the cache and touch nothing of the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::step::{run, step};

/// Where Debian's packages are.
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// What its indexes are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An engine of a newer suite.
struct Engine {
    /// Name of its folder in the cache, below `engines`.
    name: &'static str,
    suite: &'static str,
    packages: &'static [&'static str],
}

const ENGINES: [Engine; 3] = [
    Engine {
        name: "containerd-1.7",
        suite: "trixie",
        packages: &["containerd"],
    },
    Engine {
        name: "containerd-2",
        suite: "sid",
        packages: &["containerd"],
    },
    Engine {
        name: "docker",
        suite: "trixie",
        packages: &["docker.io", "docker-cli"],
    },
];

/// Unpacks the engines that are not in the cache.
pub fn install() -> Result<()> {
    step("engines", || {
        for engine in &ENGINES {
            cache::entry("engines", engine.name, |folder| engine.unpack(folder)).with_context(
                || format!("cannot get {} from Debian {}", engine.name, engine.suite),
            )?;
        }
        Ok(())
    })
}

impl Engine {
    fn unpack(&self, folder: &Path) -> Result<()> {
        eprintln!(
            "    {} from Debian {}",
            self.packages.join(", "),
            self.suite
        );
        let apt = folder.join("apt");
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = apt.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let sources = apt.join("sources.list");
        let line = format!("deb [signed-by={KEYRING}] {ARCHIVE} {} main\n", self.suite);
        fs::write(&sources, line).with_context(|| format!("cannot write {}", sources.display()))?;
        let packages = apt.join("packages");
        run(self.apt(&apt).arg("update").stdout(Stdio::null()))?;
        run(self
            .apt(&apt)
            .arg("download")
            .args(self.packages)
            .current_dir(&packages)
            .stdout(Stdio::null()))?;
        let mut unpacked = 0;
        for entry in fs::read_dir(&packages).context("cannot list the packages")? {
            let package = entry.context("cannot list the packages")?.path();
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .args([&package, &folder.to_owned()]))?;
            unpacked += 1;
        }
        if unpacked != self.packages.len() {
            bail!("{unpacked} packages came for {}", self.packages.join(", "));
        }
        fs::remove_dir_all(&apt).with_context(|| format!("cannot remove {}", apt.display()))
    }

    /// apt with folders of its own: the system's lists stay as they are.
    fn apt(&self, folder: &Path) -> Command {
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet=2", "-o", "APT::Sandbox::User="]);
        let set = |key: &str, value: PathBuf| format!("{key}={}", value.display());
        for option in [
            set("Dir::Etc::sourcelist", folder.join("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            set("Dir::State::lists", folder.join("lists")),
            set("Dir::Cache", folder.join("cache")),
            // What is installed has no say in what is downloaded.
            "Dir::State::status=/dev/null".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }
}
