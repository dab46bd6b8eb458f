//! A container's place in a CNI network, noted in its folder for as long as there is
//! anything to be given back.

use std::fs::{self, File};
use std::io;

use anyhow::{Context, Result, bail};
use caisson_network::cni::Lease;
use caisson_network::{Attachment, Namespace, PortMapping, Spoofing};

use super::Container;

/// Joins a container to a CNI network.
pub fn obtain(
    container: &Container,
    network: &str,
    ports: &[PortMapping],
    spoofing: Spoofing,
) -> Result<Attachment> {
    if !rustix::process::geteuid().is_root() {
        bail!("--network {network} needs root; --network user does not");
    }
    // Of a supervisor that was killed.
    release(container)?;
    let mut lease = Lease::new(network, &container.record.id, ports)?;
    let namespace = Namespace::new()?;
    let plugins = plugins(container)?;
    plugins.lock_shared()?;
    store(container, &lease)?;
    let added = lease.add(&namespace, &plugins);
    drop(plugins);
    let joined = added
        .map_err(anyhow::Error::from)
        .and_then(|()| store(container, &lease))
        .and_then(|()| Ok(namespace.join(spoofing)?));
    if joined.is_err()
        && let Err(error) = release(container)
    {
        tracing::warn!("the place in network {network} was not given back: {error:#}");
    }
    joined
}

/// Gives everything back that plugins hold for a container; nothing is no error.
pub fn release(container: &Container) -> Result<()> {
    let path = container.network_lease();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    // Those that a supervisor ran when it was killed make things until they end.
    plugins(container)?.lock()?;
    // One that is cut short belongs to a place that was never taken.
    if let Ok(lease) = serde_json::from_slice::<Lease>(&bytes) {
        lease.remove()?;
    }
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}

/// The file that plugins have open while they make something for a container.
fn plugins(container: &Container) -> Result<File> {
    let path = container.network_lease().with_extension("lock");
    let opened = File::options().create(true).append(true).open(&path);
    opened.with_context(|| format!("cannot open {}", path.display()))
}

fn store(container: &Container, lease: &Lease) -> Result<()> {
    let path = container.network_lease();
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, serde_json::to_vec(lease)?)
        .and_then(|()| fs::rename(&unfinished, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}
