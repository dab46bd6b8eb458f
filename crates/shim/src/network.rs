//! The network of a machine: the guest takes the place that the engine has made for the
//! container in a network namespace.
//!
//! Engines either name a namespace that they have furnished, or want a new one, which they
//! look for by the process that stands for the container, and furnish before its start:
//! Docker does, and hooks do. Hence the machine's process lives in that namespace.

use std::fs;
use std::path::{Path, PathBuf};

use caisson_network::{Attachment, Namespace};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::namespace::Host;

/// File in the bundle with the path of the namespace that was joined.
const RECORD: &str = "network-namespace";

/// Field of the specification that says where the network is.
const FIELD: &str = "linux.namespaces (network)";

/// Which namespace a specification asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// A new one.
    New,
    /// One that there is.
    Named(PathBuf),
}

/// Joins the namespace of a machine's first container, or the one that was `named` for a
/// pod without one. What must be undone if the shim is killed is noted in `folder`.
pub fn attach(
    bundle: Option<&Bundle>,
    named: Option<&Path>,
    folder: &Path,
    host: &Host,
) -> Result<Attachment> {
    let wanted = match (named, bundle) {
        (Some(path), _) => Wanted::Named(path.to_owned()),
        (None, Some(bundle)) => wanted(&bundle.spec)?,
        (None, None) => Wanted::New,
    };
    let namespace = match &wanted {
        Wanted::New => Namespace::new()?,
        Wanted::Named(path) => {
            // It may have been mounted after the shim left the host's mounts.
            let namespace = host.with(|| Namespace::open(path))??;
            if namespace.is_own()? {
                return Err(host_network());
            }
            // By then, another process may have that number.
            if !path.starts_with("/proc") {
                let record = folder.join(RECORD);
                fs::write(&record, path.as_os_str().as_encoded_bytes())
                    .map_err(Error::path("write", &record))?;
            }
            namespace
        }
    };
    Ok(namespace.join()?)
}

/// Gives a namespace back whose shim was killed. One that the engine has removed by now
/// needs nothing.
pub fn part_recorded(folder: &Path) {
    let Ok(path) = fs::read_to_string(folder.join(RECORD)) else {
        return;
    };
    let path = Path::new(&path);
    if path.exists()
        && let Err(error) = Namespace::open(path).and_then(|namespace| namespace.part())
    {
        eprintln!("{}: {error}", crate::RUNTIME);
    }
}

fn wanted(spec: &Spec) -> Result<Wanted> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    match network.map(|namespace| namespace.path()) {
        Some(Some(path)) => Ok(Wanted::Named(path.clone())),
        Some(None) => Ok(Wanted::New),
        None => Err(host_network()),
    }
}

fn host_network() -> Error {
    Error::field(
        FIELD,
        "the host's network cannot be that of another kernel; give the container a network \
         of its own (a CNI network, Docker's bridge, a pod without hostNetwork) and publish \
         the ports that others are to reach",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespaces: &str) -> Result<Wanted> {
        let json = format!(r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":{namespaces}}}}}"#);
        wanted(&serde_json::from_str(&json).expect("a specification"))
    }

    #[test]
    fn a_specification_says_which_network() {
        assert_eq!(
            of(r#"[{"type":"pid"},{"type":"network"}]"#).expect("a new one"),
            Wanted::New
        );
        assert_eq!(
            of(r#"[{"type":"network","path":"/run/netns/n"}]"#).expect("that one"),
            Wanted::Named("/run/netns/n".into())
        );
        let refused = of(r#"[{"type":"pid"}]"#).expect_err("the host's");
        assert!(
            refused.to_string().contains("linux.namespaces"),
            "{refused}"
        );
    }
}
