//! The network of a machine: the guest takes the place that the engine has made for the
//! container in a network namespace.
//!
//! Engines either name a namespace that they have furnished, or want a new one, which they
//! look for by the process that stands for the container, and furnish before its start:
//! Docker does, and hooks do. Hence the machine's process lives in that namespace.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use caisson_config::Settings;
use caisson_network::{Attachment, Namespace, Spoofing};
use caisson_sandbox::Sandbox;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::namespace::Host;

/// File in the bundle with the path of the namespace that was joined.
const RECORD: &str = "network-namespace";

/// Where programs look for resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Most bytes of it that are read.
const RESOLV_CONF_LIMIT: u64 = 64 << 10;

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
    spoofing: Spoofing,
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
    Ok(namespace.join(spoofing)?)
}

/// The engine has made the network, and what may be sent there is its policy unless the
/// configuration says more.
pub fn spoofing(settings: &Settings) -> Spoofing {
    match settings.anti_spoof.as_str() {
        "on" => Spoofing::Refused,
        "strict" => Spoofing::Strict,
        _ => Spoofing::Allowed,
    }
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

/// Resolvers on the loopback of the namespace that the guest can use.
#[derive(Debug, Default)]
pub struct Resolvers(tokio::sync::Mutex<Vec<IpAddr>>);

impl Resolvers {
    /// Adds those that a container is to use.
    pub async fn offer(&self, sandbox: &Sandbox, spec: &Spec, host: &Host) -> Result<()> {
        let mut offered = self.0.lock().await;
        for address in resolvers(spec, host)? {
            if offered.contains(&address) {
                continue;
            }
            match sandbox.forward_resolver(address).await {
                Ok(()) => offered.push(address),
                // Another container of the pod may be a name server.
                Err(error) => tracing::warn!(%error, %address, "a resolver is out of reach"),
            }
        }
        Ok(())
    }
}

/// Resolvers on the loopback of the namespace, which are not on the guest's: Docker's is
/// at 127.0.0.11. They are in the file that the engine binds into the container.
fn resolvers(spec: &Spec, host: &Host) -> Result<Vec<IpAddr>> {
    let mounts = spec.mounts().iter().flatten();
    let sources = mounts
        .filter(|mount| mount.destination() == Path::new(RESOLV_CONF))
        .filter_map(|mount| mount.source().clone());
    let mut resolvers = Vec::new();
    for source in sources {
        let read = host.with(|| {
            let mut text = Vec::new();
            let file = fs::File::open(&source)?;
            file.take(RESOLV_CONF_LIMIT).read_to_end(&mut text)?;
            Ok::<_, std::io::Error>(text)
        })?;
        match read {
            Ok(text) => resolvers.extend(loopbacks(&String::from_utf8_lossy(&text))),
            // containerd makes a folder where there should have been a file: its sandbox
            // service writes none in release 1.7.
            Err(error) if error.kind() == ErrorKind::IsADirectory => {}
            Err(error) => return Err(Error::path("read", &source)(error)),
        }
    }
    Ok(resolvers)
}

/// Name servers on the loopback (resolv.conf(5)).
fn loopbacks(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(str::split_ascii_whitespace);
    let servers = lines.filter_map(|mut words| match words.next() {
        Some("nameserver") => words.next()?.parse().ok(),
        _ => None,
    });
    servers.filter(IpAddr::is_loopback).collect()
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

pub fn host_network() -> Error {
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
    fn resolvers_on_the_loopback_are_found() {
        let text = "# nameserver 127.0.0.9\nsearch a\nnameserver 127.0.0.11\n\
                    nameserver 192.0.2.1\nnameserver ::1\nnameserver\noptions ndots:0\n";
        let found: Vec<_> = loopbacks(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.11", "::1"]);
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
