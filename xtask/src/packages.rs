//! `xtask setup`, first half: Debian packages.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::step::{output, run, step};

/// Package, and what needs it.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "machines without KVM"),
    ("linux-source-6.12", "guest kernel"),
    ("gcc", "guest kernel, C parts of Rust crates"),
    ("libc6-dev", "static agent"),
    ("make", "guest kernel"),
    ("patch", "guest kernel"),
    ("flex", "guest kernel: Kconfig"),
    ("bison", "guest kernel: Kconfig"),
    ("bc", "guest kernel: time constants"),
    ("perl", "guest kernel"),
    ("xz-utils", "guest kernel: source archive"),
    ("libelf-dev", "guest kernel: objtool"),
    ("pkg-config", "C libraries of Rust crates"),
    ("libcap-ng-dev", "virtio-fs device"),
    ("libseccomp-dev", "virtio-fs device"),
    ("e2fsprogs", "writable layer of a container"),
    ("passt", "network of a container"),
    ("containernetworking-plugins", "--network bridge"),
    ("iptables", "--network bridge: port mappings"),
    ("iproute2", "tests: networks"),
    ("busybox-static", "demo image"),
    ("erofs-utils", "tests: images we write, layers of an engine"),
    ("docker-registry", "tests: pull"),
    ("skopeo", "tests: fill the registry"),
    ("containerd", "tests: engine"),
    ("runc", "tests: engine's other runtime"),
    ("wrk", "tests: requests"),
    ("iperf3", "tests: bulk data"),
    ("procps", "tests: processes"),
    ("protobuf-compiler", "tests: CRI client"),
    ("chromium", "tests: report of a comparison"),
    ("fonts-dejavu-core", "tests: letters for the browser"),
];

/// Installs what is missing; says so before it changes the machine.
pub fn install() -> Result<()> {
    step("packages", || {
        let missing = missing()?;
        if missing.is_empty() {
            eprintln!("    all {} packages are there", PACKAGES.len());
            return Ok(());
        }
        eprintln!("    apt will now install:");
        for (name, purpose) in &missing {
            eprintln!("      {name} ({purpose})");
        }
        run(apt()?.arg("update"))?;
        run(apt()?
            .args(["install", "--yes", "--no-install-recommends"])
            .args(missing.iter().map(|(name, _)| name)))
    })
}

fn missing() -> Result<Vec<(&'static str, &'static str)>> {
    let output = Command::new("dpkg-query")
        .args([
            "--show",
            "--showformat",
            "${db:Status-Status} ${Package}\\n",
        ])
        .args(PACKAGES.iter().map(|(name, _)| name))
        // It complains about each package that it has never heard of.
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query: the set-up knows Debian 12 and its relatives only")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    let missing: Vec<_> = PACKAGES
        .iter()
        .copied()
        .filter(|(name, _)| !installed.contains(name))
        .collect();
    Ok(missing)
}

/// Whether apt may be called as it is.
fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))? == "0")
}

/// apt-get, through sudo where we are not root.
fn apt() -> Result<Command> {
    let mut apt = if is_root()? {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    };
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["-o", "DPkg::Lock::Timeout=300"]);
    Ok(apt)
}
