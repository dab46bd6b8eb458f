//! Which hypervisor makes the machines of this host, and why.

use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::qemu::{Accelerator, Qemu};
use crate::{Error, Hypervisor, Result};

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Selection<'a> {
    /// `auto` or the name of a driver.
    pub hypervisor: &'a str,
    /// `auto`, `kvm` or `tcg`, for a driver that has the choice.
    pub accelerator: &'a str,
    /// `qemu-system-x86_64`.
    pub qemu_program: &'a Path,
    /// `caisson-devices`.
    pub devices_program: &'a Path,
    /// Whether forks begin as copies of the process that runs their template, where they can.
    pub process_copies: bool,
    /// Where the host's figures are kept until the next boot; see [`Host::load`].
    pub host_cache: &'a Path,
}

/// What was chosen.
pub struct Selected {
    /// The driver.
    pub hypervisor: Box<dyn Hypervisor>,
    /// Its name, its accelerator and why, in one line.
    pub reason: String,
    /// What was measured for it.
    pub host: Host,
}

/// Chooses a driver.
///
/// # Errors
/// [`Error::UnknownChoice`] for a name that means nothing, [`Error::Host`] when
/// the host cannot be measured, [`Error::KvmUnusable`] when KVM is asked for and
/// cannot run a kernel.
pub fn select(wanted: &Selection<'_>) -> Result<Selected> {
    let known = |key: &'static str, value: &str, values: &[&str]| {
        if values.contains(&value) {
            return Ok(());
        }
        Err(Error::UnknownChoice {
            key,
            value: value.to_owned(),
            known: values.join(", "),
        })
    };
    known("hypervisor", wanted.hypervisor, &["auto", "qemu"])?;
    known("accelerator", wanted.accelerator, &["auto", "kvm", "tcg"])?;

    let host = Host::load(wanted.host_cache).map_err(|source| Error::Host {
        doing: "cannot measure this host".to_owned(),
        source,
    })?;
    let (accelerator, why) = match wanted.accelerator {
        "kvm" if !host.kvm.usable() => return Err(Error::KvmUnusable(host.kvm)),
        "kvm" => (Accelerator::Kvm, "as configured".to_owned()),
        "tcg" => (Accelerator::Tcg, "as configured".to_owned()),
        _ if host.kvm.usable() => (Accelerator::Kvm, host.kvm.to_string()),
        _ => (Accelerator::Tcg, host.kvm.to_string()),
    };
    let qemu = Qemu {
        program: program(wanted.qemu_program),
        devices_program: wanted.devices_program.to_owned(),
        accelerator,
        tsc_khz: host.tsc_khz,
        processor: host.processor.clone(),
        process_copies: wanted.process_copies,
    };
    Ok(Selected {
        hypervisor: Box::new(qemu),
        reason: format!("qemu with {accelerator}: {why}"),
        host,
    })
}

/// A bare name is looked up in `PATH`, as a shell would.
fn program(name: &Path) -> PathBuf {
    if name.components().count() > 1 {
        return name.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.exists())
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(cache: &'a Path, hypervisor: &'a str, accelerator: &'a str) -> Selection<'a> {
        Selection {
            hypervisor,
            accelerator,
            qemu_program: Path::new("qemu-system-x86_64"),
            devices_program: Path::new("/nowhere/caisson-devices"),
            process_copies: true,
            host_cache: cache,
        }
    }

    #[test]
    fn the_reason_names_driver_accelerator_and_figure() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = folder.path().join("host.json");
        let selected = select(&wanted(&cache, "auto", "auto")).expect("selected");
        let expected = if selected.host.kvm.usable() {
            "qemu with KVM: /dev/kvm "
        } else {
            "qemu with TCG: /dev/kvm "
        };
        assert!(selected.reason.starts_with(expected), "{}", selected.reason);
        assert_eq!(selected.hypervisor.name(), "qemu");
    }

    #[test]
    fn kvm_that_cannot_run_a_kernel_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = folder.path().join("host.json");
        match select(&wanted(&cache, "qemu", "kvm")) {
            Ok(selected) => assert!(selected.host.kvm.usable()),
            Err(error) => assert!(error.to_string().contains("/dev/kvm "), "{error}"),
        }
    }

    #[test]
    fn a_name_that_means_nothing_is_refused_with_those_that_do() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = folder.path().join("host.json");
        let error = select(&wanted(&cache, "xen", "auto"))
            .err()
            .expect("refused");
        assert_eq!(
            error.to_string(),
            "hypervisor cannot be \"xen\"; it is one of: auto, qemu"
        );
    }
}
