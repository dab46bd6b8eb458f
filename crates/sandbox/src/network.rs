//! The sandbox's networks: descriptors for its machine, and words for its guest.

use std::sync::Arc;
use std::time::Duration;

use caisson_hypervisor::Error::Ended;
use caisson_hypervisor::{NetworkBackend, NetworkInterface};
use caisson_network::{Attachment, Change, Guest, Interface, Link};
use caisson_protocol::NETWORK_PARAMETER;
use caisson_protocol::agent::{self as api, UpdateNetworkRequest};
use protobuf::{Message, MessageField};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::{Error, Result, Sandbox, agent};

/// How long a change waits for others that come with it.
const SEVERAL_CHANGES: Duration = Duration::from_millis(20);

/// The machine's interfaces.
pub(crate) fn interfaces(attachment: &Attachment) -> Vec<NetworkInterface> {
    let (guest, links) = (attachment.guest(), attachment.links());
    let interfaces = guest.interfaces.iter().zip(&links);
    interfaces
        .map(|(interface, link)| device(interface, link))
        .collect()
}

fn device(interface: &Interface, link: &Link) -> NetworkInterface {
    NetworkInterface {
        mac: interface.mac,
        backend: match link {
            Link::Stream(fd) => NetworkBackend::Stream(fd.clone()),
            Link::Tap(fd) => NetworkBackend::Tap(fd.clone()),
        },
    }
}

/// Tells a guest what to set up.
pub(crate) fn describe(guest: &Guest) -> api::Network {
    let interfaces = guest.interfaces.iter().map(|interface| api::Interface {
        name: interface.name.clone(),
        mac: interface.mac.to_vec(),
        mtu: interface.mtu,
        addresses: interface
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect(),
        ..Default::default()
    });
    let optional = |address: Option<std::net::IpAddr>| {
        address.map_or_else(String::new, |address| address.to_string())
    };
    let routes = guest.routes.iter().map(|route| api::Route {
        destination: route.destination.to_string(),
        gateway: optional(route.gateway),
        interface: route.interface.clone(),
        metric: route.metric,
        on_link: route.on_link,
        source: optional(route.source),
        ..Default::default()
    });
    let neighbours = guest.neighbours.iter().map(|neighbour| api::Neighbour {
        interface: neighbour.interface.clone(),
        address: neighbour.address.to_string(),
        mac: neighbour.mac.to_vec(),
        ..Default::default()
    });
    api::Network {
        interfaces: interfaces.collect(),
        routes: routes.collect(),
        neighbours: neighbours.collect(),
        ..Default::default()
    }
}

/// What a template is to set up for guests that are told this, if it has an interface: see
/// [`VmConfig::template_parameters`](caisson_hypervisor::VmConfig::template_parameters).
pub fn template_parameter(guest: &Guest) -> Result<String> {
    let mut network = describe(guest);
    for interface in &mut network.interfaces {
        // Each fork's own.
        interface.mac.clear();
    }
    let bytes = network.write_to_bytes().map_err(|error| Error::Host {
        doing: "describing a network",
        source: error.into(),
    })?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{NETWORK_PARAMETER}={digits}"))
}

impl Sandbox {
    /// Brings what has changed in the host's network namespace into the guest. While the
    /// sandbox runs, this is done whenever something changes; whoever has to know that it
    /// is done, asks for it.
    pub async fn update_network(&self) -> Result<()> {
        match &self.inner.network {
            Some(attachment) => self.follow(attachment).await,
            None => Ok(()),
        }
    }

    /// Tells of each change that has been brought into the guest, until the sandbox ends.
    pub fn network_changes(&self) -> watch::Receiver<()> {
        self.inner.followed.subscribe()
    }

    async fn follow(&self, attachment: &Attachment) -> Result<()> {
        let _turn = self.inner.following.lock().await;
        let looking = attachment.clone();
        let change = tokio::task::spawn_blocking(move || looking.update())
            .await
            .map_err(|error| Error::Host {
                doing: "looking for changes of the network",
                source: error.into(),
            })??;
        if !change.is_empty() {
            tracing::debug!(?change, "the network has changed");
            self.take_away(&change).await?;
            self.give(&change).await?;
            self.inner.followed.send_replace(());
        }
        match change.refused.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    async fn take_away(&self, change: &Change) -> Result<()> {
        if change.removed.interfaces.is_empty() && change.unplugged.is_empty() {
            return Ok(());
        }
        let macs = change.unplugged.iter().map(|interface| interface.mac);
        self.tell(UpdateNetworkRequest {
            removed: MessageField::some(describe(&change.removed)),
            unplugged: macs.clone().map(Vec::from).collect(),
            ..Default::default()
        })
        .await?;
        for mac in macs {
            self.inner.vm.unplug(mac).await?;
        }
        Ok(())
    }

    async fn give(&self, change: &Change) -> Result<()> {
        if change.added.interfaces.is_empty() {
            return Ok(());
        }
        let mut plugged = Vec::new();
        for (interface, link) in &change.plugged {
            plugged.push(self.inner.vm.plug(&device(interface, link)).await?);
        }
        self.tell(UpdateNetworkRequest {
            plugged,
            added: MessageField::some(describe(&change.added)),
            ..Default::default()
        })
        .await
    }

    async fn tell(&self, request: UpdateNetworkRequest) -> Result<()> {
        self.call("following a change of the network", async |agent| {
            agent.update_network(agent::bounded(), &request).await
        })
        .await
        .map(drop)
    }

    /// Follows changes until the sandbox ends.
    pub(crate) fn follow_network(&self) -> Result<()> {
        let changes = self.inner.network.as_ref().and_then(Attachment::changes);
        let Some(changes) = changes else {
            return Ok(());
        };
        let watching = |source| Error::Host {
            doing: "watching the network namespace",
            source,
        };
        let changes = changes.try_clone_to_owned().map_err(watching)?;
        // SAFETY: the descriptor belongs to the `OwnedFd`, never changes its number and
        // is closed only when it is dropped with the `AsyncFd`.
        let changes = unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) }
            .map_err(|error| watching(error.into()))?;
        let sandbox = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while let Ok(mut ready) = changes.readable().await {
                // An engine makes several changes, one after the other.
                tokio::time::sleep(SEVERAL_CHANGES).await;
                ready.clear_ready();
                let Some(inner) = sandbox.upgrade() else {
                    return;
                };
                match (Self { inner }).update_network().await {
                    // Engines take their interfaces away after the end.
                    Err(Error::GuestEnded { .. } | Error::Hypervisor(Ended)) => return,
                    Err(error) => {
                        tracing::warn!(%error, "a change of the network is not in the guest");
                    }
                    Ok(()) => {}
                }
            }
        });
        Ok(())
    }
}
