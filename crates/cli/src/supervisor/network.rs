//! The container's network, from its record to descriptors.

use std::net::IpAddr;

use anyhow::Result;
use caisson_network::{Attachment, Guest, Mac, PortMapping, Spoofing, passt, reserve};
use caisson_sandbox::timing::Timing;

use crate::config::Settings;
use crate::container::{Container, NetworkInterface, NetworkMode, NetworkState, lease};
use crate::spec::{egress, network};

/// A container's network, made.
pub struct Network {
    /// For the sandbox; none has the loopback only.
    pub attachment: Option<Attachment>,
    /// For `inspect`.
    pub state: NetworkState,
    /// Lines for `/etc/hosts` of the container.
    pub hosts: Vec<String>,
    /// `/etc/resolv.conf` of the container.
    pub resolv_conf: String,
}

/// Makes the network of a container that is being started.
pub fn attach(container: &Container, settings: &Settings, timing: &Timing) -> Result<Network> {
    let wanted = &container.record.network;
    // A missing file is an empty one.
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut hosts = Vec::new();
    let stage = timing.stage("network");
    let (attachment, ports, stand_in) = match &wanted.mode {
        NetworkMode::None => (None, Vec::new(), None),
        NetworkMode::User => {
            let ports = reserve(&wanted.ports)?;
            let resolved = egress::resolve(&wanted.allow, &wanted.deny)?;
            hosts = resolved.hosts;
            let forward_dns = wanted.dns.servers.is_empty() && network::forwards(&host);
            let attachment = passt::start(&passt::Config {
                program: settings.passt.clone(),
                mac: mac(container),
                ports: ports.clone(),
                forward_dns,
                egress: resolved.egress,
            })?;
            (Some(attachment), ports, Some(IpAddr::V4(passt::RESOLVER)))
        }
        NetworkMode::Named(name) => {
            let ports = reserve(&wanted.ports)?;
            let attachment = lease::obtain(container, name, &ports, spoofing(settings))?;
            (Some(attachment), ports, None)
        }
    };
    drop(stage);
    let guest = attachment.as_ref().map(Attachment::guest);
    Ok(Network {
        state: state(&wanted.mode, guest.as_ref(), ports),
        resolv_conf: network::resolv_conf(&host, &wanted.dns, stand_in),
        attachment,
        hosts,
    })
}

/// Nobody but the guest decides what is sent here, so that it is kept honest by default.
fn spoofing(settings: &Settings) -> Spoofing {
    match settings.anti_spoof.as_str() {
        "off" => Spoofing::Allowed,
        "strict" => Spoofing::Strict,
        _ => Spoofing::Refused,
    }
}

/// Nobody's hardware address (locally administered), different for each container.
fn mac(container: &Container) -> Mac {
    let mut mac = [2; 6];
    let digits = container.record.id.as_bytes();
    for (byte, pair) in mac[1..].iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    mac
}

fn state(mode: &NetworkMode, guest: Option<&Guest>, ports: Vec<PortMapping>) -> NetworkState {
    let gateway = |guest: &Guest, name: &str, ipv6: bool| {
        let route = guest.routes.iter().find(|route| {
            route.interface == name
                && route.destination.prefix == 0
                && route.destination.address.is_ipv6() == ipv6
        });
        route.and_then(|route| route.gateway)
    };
    let interfaces = guest.into_iter().flat_map(|guest| {
        guest.interfaces.iter().map(|interface| NetworkInterface {
            name: interface.name.clone(),
            mac: interface.mac.map(|byte| format!("{byte:02x}")).join(":"),
            mtu: interface.mtu,
            addresses: interface
                .addresses
                .iter()
                .filter(|cidr| !is_link_local(cidr.address))
                .map(ToString::to_string)
                .collect(),
            gateway: gateway(guest, &interface.name, false),
            gateway_v6: gateway(guest, &interface.name, true),
        })
    });
    NetworkState {
        mode: mode.to_string(),
        interfaces: interfaces.collect(),
        ports,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
