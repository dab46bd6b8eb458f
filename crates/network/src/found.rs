//! What there is in a network namespace.

use std::io;

use caisson_netlink::{Cidr, Link as Device, Socket};

use crate::{Error, Guest, Interface, Neighbour, Route, tap};

/// What a namespace has.
pub(crate) struct Found {
    /// Interfaces that a machine can be joined to.
    pub(crate) devices: Vec<Device>,
    addresses: Vec<caisson_netlink::Address>,
    routes: Vec<caisson_netlink::Route>,
    neighbours: Vec<caisson_netlink::Neighbour>,
}

impl Found {
    /// Looks around in the calling thread's namespace, in which `taps` are ours.
    pub(crate) fn read(taps: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::open()?;
        let mut devices = socket.links()?;
        // Tunnels that the kernel makes by itself are down.
        devices.retain(|device| device.up && !device.loopback && !taps.contains(&device.index));
        Ok(Self {
            devices,
            addresses: socket.addresses()?,
            routes: socket.routes()?,
            neighbours: socket.neighbours()?,
        })
    }

    /// Takes away what cannot be joined, and says why.
    pub(crate) fn refuse(&mut self) -> Vec<Error> {
        let mut refused = Vec::new();
        if self.devices.iter().any(tap::is_machine) {
            self.devices.clear();
            refused.push(Error::Taken);
        }
        let mut kept: Vec<Device> = Vec::new();
        for device in self.devices.drain(..) {
            let alike = |other: &&Device| other.mac == device.mac;
            if device.mac.is_none() {
                refused.push(Error::Interface {
                    name: device.name,
                    kind: device.kind,
                });
            } else if let Some(other) = kept.iter().find(alike) {
                refused.push(Error::Alike {
                    name: device.name,
                    other: other.name.clone(),
                });
            } else {
                kept.push(device);
            }
        }
        self.devices = kept;
        refused
    }

    /// Addresses of an interface.
    pub(crate) fn addresses(&self, index: u32) -> Vec<Cidr> {
        let addresses = self.addresses.iter();
        let ours = addresses.filter(|address| address.link == index);
        ours.map(|address| address.cidr).collect()
    }

    /// What the guest of a machine in their place is told.
    pub(crate) fn guest(&self) -> Guest {
        let name = |index: u32| {
            let device = self.devices.iter().find(|device| device.index == index);
            device.map(|device| device.name.clone())
        };
        // These come with the addresses.
        let given = |route: &&caisson_netlink::Route| route.protocol != libc::RTPROT_KERNEL;
        Guest {
            interfaces: self
                .devices
                .iter()
                .map(|device| Interface {
                    name: device.name.clone(),
                    mac: device.mac.unwrap_or_default(),
                    mtu: device.mtu,
                    addresses: self.addresses(device.index),
                })
                .collect(),
            routes: self
                .routes
                .iter()
                .filter(given)
                .filter_map(|route| {
                    Some(Route {
                        interface: name(route.link)?,
                        destination: route.destination,
                        gateway: route.gateway,
                        on_link: route.on_link,
                        source: route.source,
                        metric: route.metric,
                    })
                })
                .collect(),
            neighbours: self
                .neighbours
                .iter()
                .filter_map(|neighbour| {
                    Some(Neighbour {
                        interface: name(neighbour.link)?,
                        address: neighbour.address,
                        mac: neighbour.mac,
                    })
                })
                .collect(),
        }
    }
}
