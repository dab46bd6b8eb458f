//! A container's folder and the specification in it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{Error, Result};

/// Names of the annotation that tells a sandbox's own container from its others, and of
/// the one that names the sandbox: those of containerd's CRI plugin and of CRI-O.
const KINDS: [(&str, &str); 2] = [
    (
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
    ),
    (
        "io.kubernetes.cri-o.ContainerType",
        "io.kubernetes.cri-o.SandboxID",
    ),
];

/// The annotation of a container that stands for a pod.
pub const SANDBOX: (&str, &str) = (KINDS[0].0, "sandbox");

/// Which sandbox a container belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A sandbox of its own.
    Alone,
    /// The container that stands for a pod.
    Sandbox,
    /// A container of a pod, with the pod's id.
    Member(String),
}

/// A container's folder and what it is to be.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The folder.
    pub path: PathBuf,
    /// OCI runtime specification.
    pub spec: Spec,
}

impl Bundle {
    /// Reads the specification of a bundle.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.join("config.json");
        let text = std::fs::read(&file).map_err(Error::path("read", &file))?;
        let spec = serde_json::from_slice(&text)
            .map_err(|error| Error::Invalid(format!("{}: {error}", file.display())))?;
        Ok(Self {
            path: path.to_owned(),
            spec,
        })
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        annotation(&self.spec, name)
    }

    /// Which sandbox the container belongs to.
    pub fn role(&self) -> Role {
        role(&self.spec)
    }
}

fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    let annotations = spec.annotations().as_ref()?;
    annotations.get(name).map(String::as_str)
}

fn role(spec: &Spec) -> Role {
    for (kind, sandbox) in KINDS {
        match annotation(spec, kind) {
            Some("sandbox") => return Role::Sandbox,
            Some("container") => {
                if let Some(id) = annotation(spec, sandbox) {
                    return Role::Member(id.to_owned());
                }
            }
            _ => {}
        }
    }
    Role::Alone
}

/// Whether a group's name can be part of a path.
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(annotations: &str) -> Role {
        let json = format!(r#"{{"ociVersion":"1.0.2","annotations":{annotations}}}"#);
        role(&serde_json::from_str(&json).expect("a specification"))
    }

    #[test]
    fn pods_are_told_by_annotations() {
        assert_eq!(of("{}"), Role::Alone);
        assert_eq!(
            of(
                r#"{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"p"}"#
            ),
            Role::Sandbox
        );
        assert_eq!(
            of(
                r#"{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"p"}"#
            ),
            Role::Member("p".to_owned())
        );
        assert_eq!(
            of(
                r#"{"io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.SandboxID":"q"}"#
            ),
            Role::Member("q".to_owned())
        );
        assert_eq!(
            of(r#"{"io.kubernetes.cri.container-type":"container"}"#),
            Role::Alone
        );
    }
}
