//! The sandbox's networks: descriptors for its machine, and words for its guest.

use caisson_hypervisor::{NetworkBackend, NetworkInterface};
use caisson_network::{Attachment, Link};
use caisson_protocol::agent::{self as api, ConfigureRequest};

use crate::{Error, Result};

/// The machine's interfaces.
pub(crate) fn interfaces(attachment: Option<&Attachment>) -> Vec<NetworkInterface> {
    let Some(attachment) = attachment else {
        return Vec::new();
    };
    let interfaces = attachment.guest.interfaces.iter().zip(&attachment.links);
    interfaces
        .map(|(interface, link)| NetworkInterface {
            mac: interface.mac,
            backend: match link {
                Link::Stream(fd) => NetworkBackend::Stream(fd.clone()),
                Link::Tap(fd) => NetworkBackend::Tap(fd.clone()),
            },
        })
        .collect()
}

/// Tells the guest what to set up.
pub(crate) fn describe(attachment: &Attachment, request: &mut ConfigureRequest) {
    let guest = &attachment.guest;
    request.interfaces = guest
        .interfaces
        .iter()
        .map(|interface| api::Interface {
            name: interface.name.clone(),
            mac: interface.mac.to_vec(),
            mtu: interface.mtu,
            addresses: interface
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
            ..Default::default()
        })
        .collect();
    let optional = |address: Option<std::net::IpAddr>| {
        address.map_or_else(String::new, |address| address.to_string())
    };
    request.routes = guest
        .routes
        .iter()
        .map(|route| api::Route {
            destination: route.destination.to_string(),
            gateway: optional(route.gateway),
            interface: route.interface.clone(),
            metric: route.metric,
            on_link: route.on_link,
            source: optional(route.source),
            ..Default::default()
        })
        .collect();
    request.neighbours = guest
        .neighbours
        .iter()
        .map(|neighbour| api::Neighbour {
            interface: neighbour.interface.clone(),
            address: neighbour.address.to_string(),
            mac: neighbour.mac.to_vec(),
            ..Default::default()
        })
        .collect();
}

/// Waits until the host's side of the networks works.
pub(crate) async fn ready(attachment: &Attachment) -> Result<()> {
    let attachment = attachment.clone();
    tokio::task::spawn_blocking(move || attachment.ready())
        .await
        .map_err(|error| Error::Host {
            doing: "waiting for the network",
            source: error.into(),
        })??;
    Ok(())
}
