//! A network namespace with one interface that the host reaches: what engines without a network
//! of their own put a server into.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::interrupt::Interrupt;
use super::process;
use crate::error::{Error, Result};

const DEADLINE: Duration = Duration::from_secs(30);

/// A network namespace; it is removed when this value is dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The container's address.
    pub address: Ipv4Addr,
}

impl Network {
    /// Makes one, with a pair of interfaces between it and the host.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // 198.18.0.0/15 is for measurements (RFC 2544): no real network uses it. Four addresses
        // for each pair.
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        let first = base + (pid.wrapping_mul(61).wrapping_add(number) % 32768) * 4;
        let (host, address) = (Ipv4Addr::from(first + 1), Ipv4Addr::from(first + 2));
        let network = Self {
            name: format!("caisson-compare-{pid}-{number}"),
            address,
        };
        // Names of interfaces have at most 15 characters.
        let outer = format!("cmp{pid}.{number}");
        let name = &network.name;
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", name,
        ])?;
        ip(&["address", "add", &format!("{host}/30"), "dev", &outer])?;
        ip(&["link", "set", &outer, "up"])?;
        let inner = format!("{address}/30");
        ip(&["-n", name, "address", "add", &inner, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(network)
    }

    /// The namespace as a file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // With it go both interfaces.
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            tracing::warn!(%error, "a network namespace is left behind");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments);
    // Also while the comparison is taken down.
    let outcome = process::output(command, DEADLINE, &Interrupt::default())?;
    if outcome.success() {
        Ok(())
    } else {
        Err(Error::Command(Box::new(outcome)))
    }
}

/// The networks of an engine's containers, by their ids.
#[derive(Debug, Default)]
pub struct Networks(Mutex<HashMap<String, Network>>);

impl Networks {
    /// Makes the network of a container and returns its file.
    pub fn add(&self, id: &str) -> Result<PathBuf> {
        let network = Network::new()?;
        let path = network.path();
        self.lock().insert(id.to_owned(), network);
        Ok(path)
    }

    /// The address of a container.
    pub fn address(&self, id: &str) -> Option<Ipv4Addr> {
        self.lock().get(id).map(|network| network.address)
    }

    /// Removes the network of a container, if it has one.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Network>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
