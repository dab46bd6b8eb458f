//! `caisson port`.

use std::net::IpAddr;

use anyhow::{Result, bail};
use caisson_network::{PortMapping, Protocol};
use clap::Args;

use crate::container::ContainerStore;

/// `caisson port`.
#[derive(Debug, Args)]
pub struct PortFlags {
    /// Name or id of a container
    container: String,
    /// Only what leads to this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = wanted)]
    port: Option<(u16, Protocol)>,
}

fn wanted(text: &str) -> Result<(u16, Protocol), String> {
    match caisson_network::parse_ports(text)?.as_slice() {
        [port] if port.host == 0 && port.address.is_none() => Ok((port.container, port.protocol)),
        _ => Err("expected a port of the container, such as 80 or 53/udp".to_owned()),
    }
}

/// Prints where the ports of a container are on the host.
pub fn port(flags: &PortFlags, store: &ContainerStore) -> Result<()> {
    let container = store.find(&flags.container)?;
    let ports = container.state()?.network.unwrap_or_default().ports;
    let Some(wanted) = flags.port else {
        for port in &ports {
            for host in hosts(port) {
                println!("{}/{} -> {host}", port.container, port.protocol);
            }
        }
        return Ok(());
    };
    let mut found = false;
    for port in ports
        .iter()
        .filter(|port| (port.container, port.protocol) == wanted)
    {
        found = true;
        for host in hosts(port) {
            println!("{host}");
        }
    }
    if !found {
        bail!(
            "port {}/{} of container {} is not published",
            wanted.0,
            wanted.1,
            container.record.name
        );
    }
    Ok(())
}

/// Where a port is on the host, with both families if it is everywhere.
pub fn hosts(port: &PortMapping) -> Vec<String> {
    match port.address {
        None => vec![
            format!("0.0.0.0:{}", port.host),
            format!("[::]:{}", port.host),
        ],
        Some(IpAddr::V6(address)) => vec![format!("[{address}]:{}", port.host)],
        Some(IpAddr::V4(address)) => vec![format!("{address}:{}", port.host)],
    }
}
