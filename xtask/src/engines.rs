//! Engines that the tests drive: Debian's own is installed (see `packages`), those of newer
//! suites are unpacked into the cache and touch nothing of the system.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{Apt, Source};
use crate::cache;
use crate::step::{run, step};

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
        let scratch = folder.join("apt");
        let apt = Apt::new(&scratch, &[Source::debian(self.suite)])?;
        let packages = apt.download(self.packages)?;
        for package in &packages {
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .args([package, &folder.to_owned()]))?;
        }
        if packages.len() != self.packages.len() {
            bail!(
                "{} packages came for {}",
                packages.len(),
                self.packages.join(", ")
            );
        }
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
    }
}
