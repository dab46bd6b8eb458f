//! Refuses what a virtual machine cannot honour, by the name of the field.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::{Error, Result};

/// Checks an OCI runtime specification before anything is made for it.
pub(crate) fn specification(spec: &Spec) -> Result<()> {
    let refuse = |field: &str, reason: &str| {
        Err(Error::Specification {
            field: field.to_owned(),
            reason: reason.to_owned(),
        })
    };
    let Some(process) = spec.process() else {
        return refuse("process", "there is no program to run");
    };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return refuse("process.args", "there is no program to run");
    }
    if !process.cwd().is_absolute() {
        return refuse("process.cwd", "it must be an absolute path");
    }
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    for namespace in linux.namespaces().iter().flatten() {
        // A path names a namespace of the host's kernel; the container has another kernel.
        let joins_host = namespace.path().is_some();
        let kind = namespace.typ();
        if joins_host && !matches!(kind, LinuxNamespaceType::Network) {
            return refuse(
                "linux.namespaces",
                &format!(
                    "a {kind} namespace of the host's kernel cannot be joined from the guest's kernel"
                ),
            );
        }
    }
    if linux.intel_rdt().is_some() {
        return refuse(
            "linux.intelRdt",
            "cache allocation belongs to the host; set it on the sandbox's cgroup",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<()> {
        specification(&serde_json::from_str(json).expect("a specification"))
    }

    #[test]
    fn a_program_is_needed() {
        let error = check(r#"{"ociVersion":"1.0.2"}"#).expect_err("refused");
        assert!(error.to_string().starts_with("process cannot"), "{error}");
    }

    #[test]
    fn host_namespaces_are_named() {
        let error = check(
            r#"{"ociVersion":"1.0.2","process":{"args":["true"],"cwd":"/","user":{"uid":0,"gid":0}},
                "linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
        )
        .expect_err("refused");
        assert!(error.to_string().contains("linux.namespaces"), "{error}");
    }
}
