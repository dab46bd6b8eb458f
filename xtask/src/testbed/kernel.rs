//! The kernel of the test bed: Debian's for virtual machines, which is a `/dev/kvm` on
//! top of the processor that QEMU emulates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{Apt, Source};
use crate::cache;
use crate::step::{output, run};

/// Depends on the package with the newest kernel of the suite.
const PACKAGE: &str = "linux-image-cloud-amd64";

const SUITE: &str = "bookworm";

/// Changes when the entry in the cache is made in another way, or of other modules.
const FORM: u32 = 1;

/// Modules that are loaded, after those that they need.
const MODULES: [&str; 14] = [
    // The machine itself: its devices are on PCI, its streams are ports of a console.
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    // The host's files, and a layer over them.
    "virtiofs",
    "overlay",
    // What is tested.
    "kvm_amd",
    "vhost_vsock",
    "loop",
    "tun",
    // Networks of containers.
    "veth",
    "bridge",
    "sch_ingress",
    "cls_u32",
    "act_mirred",
];

/// A kernel in the cache.
pub struct Kernel {
    /// Its image.
    pub image: PathBuf,
    /// Its modules, in the order in which they can be loaded.
    pub modules: Vec<PathBuf>,
}

/// Gives the kernel, from the cache or from Debian.
pub fn kernel() -> Result<Kernel> {
    let entry = cache::entry("testbed", &format!("{SUITE}-{FORM}"), unpack)
        .with_context(|| format!("cannot get {PACKAGE} from Debian {SUITE}"))?;
    let order = entry.join("order");
    let order = fs::read_to_string(&order)
        .with_context(|| format!("cannot read {}: remove its folder", order.display()))?;
    Ok(Kernel {
        image: entry.join("vmlinuz"),
        modules: order.lines().map(|name| entry.join(name)).collect(),
    })
}

/// Leaves the kernel, the modules and the list of these in `folder`.
fn unpack(folder: &Path) -> Result<()> {
    let scratch = folder.join("scratch");
    let sources = [Source::debian(SUITE), Source::security("bookworm-security")];
    let apt = Apt::new(&scratch, &sources)?;
    let named = package(&apt.download(&[PACKAGE])?, PACKAGE)?;
    let depends = output(
        Command::new("dpkg-deb")
            .arg("--field")
            .args([named.as_os_str(), "Depends".as_ref()]),
    )?;
    let real = depends
        .split([' ', ','])
        .next()
        .filter(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{PACKAGE} depends on no kernel but on {depends:?}"))?;
    eprintln!("    {real} from Debian {SUITE}");
    let unpacked = scratch.join("unpacked");
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .args([package(&apt.download(&[real])?, real)?, unpacked.clone()]))?;

    let version = real.trim_start_matches("linux-image-");
    copy(
        &unpacked.join(format!("boot/vmlinuz-{version}")),
        &folder.join("vmlinuz"),
    )?;
    let mut all = BTreeMap::new();
    find(&unpacked.join("lib/modules"), &mut all)?;
    let mut order = Vec::new();
    for name in MODULES {
        add(name, &all, &mut BTreeSet::new(), &mut order)?;
    }
    for name in &order {
        copy(&all[name], &folder.join(format!("{name}.ko")))?;
    }
    let lines: String = order.iter().map(|name| format!("{name}.ko\n")).collect();
    fs::write(folder.join("order"), lines).context("cannot write the list of modules")?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The one file of a package among those that were downloaded.
fn package(files: &[PathBuf], name: &str) -> Result<PathBuf> {
    let begin = format!("{name}_");
    let is = |path: &&PathBuf| {
        path.file_name()
            .is_some_and(|file| file.to_string_lossy().starts_with(&begin))
    };
    let found = files.iter().find(is).cloned();
    found.with_context(|| format!("apt has not left {name}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {}", from.display()))
}

/// Finds modules by their names, as the kernel spells them.
fn find(folder: &Path, modules: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let failed = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let path = entry.path();
        if entry.file_type().with_context(failed)?.is_dir() {
            find(&path, modules)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            modules.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Adds a module to `order`, after those that it needs.
fn add(
    name: &str,
    all: &BTreeMap<String, PathBuf>,
    above: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<()> {
    let name = name.replace('-', "_");
    if order.contains(&name) {
        return Ok(());
    }
    let path = all
        .get(&name)
        .with_context(|| format!("the kernel has no module {name}"))?;
    if !above.insert(name.clone()) {
        bail!("the module {name} needs itself");
    }
    let module = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    for needed in needs(&module) {
        add(&needed, all, above, order)?;
    }
    above.remove(&name);
    order.push(name);
    Ok(())
}

/// Names of the modules that one needs: `depends=` in its `.modinfo`, whose strings end
/// with a NUL each.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_those_that_it_needs() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut all = BTreeMap::new();
        for (name, needs) in [
            ("kvm-amd", "kvm,ccp"),
            ("kvm", "irqbypass"),
            ("ccp", ""),
            ("irqbypass", ""),
        ] {
            let path = folder.path().join(format!("{name}.ko"));
            fs::write(
                &path,
                format!("ELF\0license=GPL\0depends={needs}\0name=x\0"),
            )
            .expect("written");
        }
        find(folder.path(), &mut all).expect("found");
        let mut order = Vec::new();
        for name in ["kvm_amd", "kvm"] {
            add(name, &all, &mut BTreeSet::new(), &mut order).expect("added");
        }
        assert_eq!(order, ["irqbypass", "kvm", "ccp", "kvm_amd"]);
        assert!(add("none", &all, &mut BTreeSet::new(), &mut order).is_err());
    }
}
