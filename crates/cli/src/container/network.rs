//! A container's network: what was asked for, and what came of it.

use std::fmt;
use std::net::IpAddr;

use caisson_network::PortMapping;
use serde::{Deserialize, Serialize};

use crate::spec::egress::Place;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// Which network.
    pub mode: NetworkMode,
    /// Published ports; the host's may be open until a start.
    pub ports: Vec<PortMapping>,
    /// Name resolution.
    pub dns: Dns,
    /// The only places that may be connected to; empty for every place.
    pub allow: Vec<Place>,
    /// Places that may not be connected to.
    pub deny: Vec<Place>,
}

/// Which network a container is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The loopback only.
    #[default]
    None,
    /// A network of its own that needs no privileges.
    User,
    /// A CNI network.
    Named(String),
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::User => "user",
            Self::Named(name) => name,
        })
    }
}

/// `--dns` and its like; what is empty is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dns {
    /// Resolvers.
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked up.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// What came of it, while the container is live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkState {
    /// Name of the network.
    pub mode: String,
    /// Interfaces of the guest.
    pub interfaces: Vec<NetworkInterface>,
    /// Published ports, none of them open.
    pub ports: Vec<PortMapping>,
}

/// An interface of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkInterface {
    /// Its name.
    pub name: String,
    /// Hardware address.
    pub mac: String,
    /// Largest packet.
    pub mtu: u32,
    /// Addresses with the length of their prefix.
    pub addresses: Vec<String>,
    /// Next hop of the default route.
    pub gateway: Option<IpAddr>,
    /// Next hop of the default route of IPv6.
    pub gateway_v6: Option<IpAddr>,
}
