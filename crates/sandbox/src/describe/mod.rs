//! From an OCI runtime specification to what the guest's agent is told of it.
//!
//! The guest is given what it uses and no more, in the kernel's numbers: whatever it had to
//! read and interpret, an emulated processor would translate first, at every start.

mod capability;
mod device;
mod limit;
mod mount;
mod process;

use std::path::Path;

use caisson_protocol::agent::{ContainerDescription, Resources};
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Spec};

use crate::{Error, Result};

pub(crate) use process::process;

/// Describes a container.
pub(crate) fn container(spec: &Spec) -> Result<ContainerDescription> {
    let mut description = ContainerDescription {
        process: spec.process().as_ref().map(process).transpose()?.into(),
        hostname: spec.hostname().clone(),
        domainname: spec.domainname().clone(),
        mounts: spec
            .mounts()
            .iter()
            .flatten()
            .map(mount::mount)
            .collect::<Result<_>>()?,
        read_only_rootfs: spec.root().as_ref().and_then(|root| root.readonly()) == Some(true),
        ..Default::default()
    };
    if let Some(linux) = spec.linux() {
        description.namespaces = namespaces(linux)?;
        description.resources = linux.resources().as_ref().map(resources).into();
        let devices = linux.devices().iter().flatten().map(device::node);
        description.devices = devices.collect::<Result<_>>()?;
        description.masked_paths = linux.masked_paths().clone().unwrap_or_default();
        description.read_only_paths = linux.readonly_paths().clone().unwrap_or_default();
        description.sysctls = linux.sysctl().clone().unwrap_or_default();
    }
    Ok(description)
}

/// Describes the limits of a container.
pub(crate) fn resources(resources: &LinuxResources) -> Resources {
    Resources {
        limits: limit::limits(resources),
        devices: resources
            .devices()
            .iter()
            .flatten()
            .map(device::rule)
            .collect(),
        ..Default::default()
    }
}

/// `CLONE_NEW*` for what a specification asks for.
fn namespaces(linux: &Linux) -> Result<u64> {
    let mut flags = 0;
    for namespace in linux.namespaces().iter().flatten() {
        flags |= match namespace.typ() {
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            // Always new; the guest's, which is there for its containers alone.
            LinuxNamespaceType::Mount | LinuxNamespaceType::Network => 0,
            kind @ (LinuxNamespaceType::User | LinuxNamespaceType::Time) => {
                return Err(refused(
                    "linux.namespaces",
                    format!("containers cannot have a {kind} namespace of their own yet"),
                ));
            }
        };
    }
    Ok(flags as u64)
}

/// A path as text, which is all that JSON has.
fn text(field: &str, path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| refused(field, format!("{} is not UTF-8", path.display())))
}

fn refused(field: &str, reason: String) -> Error {
    Error::Specification {
        field: field.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn described(json: &str) -> Result<ContainerDescription> {
        container(&serde_json::from_str(json).expect("a specification"))
    }

    #[test]
    fn every_field_is_told() {
        let description = described(
            r#"{"ociVersion": "1.0.2",
                "process": {"args": ["true"], "cwd": "/work", "user": {"uid": 1, "gid": 2}},
                "hostname": "host", "domainname": "domain",
                "root": {"path": "rootfs", "readonly": true},
                "mounts": [{"destination": "/a", "type": "tmpfs", "source": "a"},
                           {"destination": "/b", "type": "bind", "source": "/run/b"}],
                "linux": {
                    "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                                   {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
                    "resources": {"pids": {"limit": 7}, "devices": [{"allow": false}]},
                    "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
                    "maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"],
                    "sysctl": {"net.core.somaxconn": "12"}}}"#,
        )
        .expect("described");
        assert_eq!(description.process.arguments, ["true"]);
        assert_eq!(description.hostname.as_deref(), Some("host"));
        assert_eq!(description.domainname.as_deref(), Some("domain"));
        let destinations: Vec<_> = description
            .mounts
            .iter()
            .map(|mount| mount.destination.as_str())
            .collect();
        assert_eq!(destinations, ["/a", "/b"], "in their order");
        assert!(description.read_only_rootfs);
        let wanted =
            libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        assert_eq!(description.namespaces, wanted as u64);
        assert_eq!(description.resources.limits[0].file, "pids.max");
        assert_eq!(description.resources.devices.len(), 1);
        assert_eq!(description.devices[0].path, "/dev/fuse");
        assert_eq!(description.masked_paths, ["/proc/keys"]);
        assert_eq!(description.read_only_paths, ["/proc/sys"]);
        assert_eq!(description.sysctls["net.core.somaxconn"], "12");
    }

    #[test]
    fn what_is_not_said_is_not_told() {
        let description = described(r#"{"ociVersion": "1.0.2", "linux": {}}"#);
        assert_eq!(description.expect("described"), Default::default());
        let empty = described(r#"{"ociVersion": "1.0.2", "hostname": ""}"#).expect("described");
        assert_eq!(empty.hostname.as_deref(), Some(""), "said to be empty");
    }

    #[test]
    fn namespaces_that_a_container_cannot_have_are_named() {
        for kind in ["user", "time"] {
            let json = format!(
                r#"{{"ociVersion": "1.0.2", "linux": {{"namespaces": [{{"type": "{kind}"}}]}}}}"#
            );
            let error = described(&json).expect_err("refused").to_string();
            assert!(error.starts_with("linux.namespaces"), "{error}");
            let words = format!("containers cannot have a {kind} namespace of their own yet");
            assert!(error.ends_with(&words), "{error}");
        }
    }

    #[test]
    fn a_path_is_text() {
        let mut spec = Spec::default();
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts[0].set_destination(Path::new(OsStr::from_bytes(b"/\xff")).to_owned());
        spec.set_mounts(Some(mounts));
        let error = container(&spec).expect_err("refused").to_string();
        assert!(error.starts_with("mounts"), "{error}");
        assert!(error.ends_with("is not UTF-8"), "{error}");
    }
}
