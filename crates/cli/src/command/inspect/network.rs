//! Networks in the words of `docker inspect`.

use std::net::IpAddr;

use caisson_network::PortMapping;
use serde_json::{Map, Value, json};

use crate::container::{NetworkInterface, State};

/// `NetworkSettings`: that of the first interface, then that of each.
pub fn settings(state: &State) -> Value {
    let network = state.network.clone().unwrap_or_default();
    let mut settings = network
        .interfaces
        .first()
        .map_or_else(|| interface(&NetworkInterface::default()), interface);
    let all: Map<_, _> = network
        .interfaces
        .iter()
        .enumerate()
        .map(|(index, one)| {
            let name = if index == 0 { &network.mode } else { &one.name };
            (name.clone(), interface(one))
        })
        .collect();
    settings["Ports"] = bindings(&network.ports);
    settings["Networks"] = all.into();
    settings
}

/// Ports of the container with where they are on the host.
pub fn bindings(ports: &[PortMapping]) -> Value {
    let mut bindings = Map::new();
    for port in ports {
        let everywhere: &[&str] = &["0.0.0.0", "::"];
        let addresses = port.address.map_or_else(
            || {
                everywhere
                    .iter()
                    .map(|&address| address.to_owned())
                    .collect()
            },
            |address| vec![address.to_string()],
        );
        let key = format!("{}/{}", port.container, port.protocol);
        let places = bindings.entry(key).or_insert_with(|| json!([]));
        if let Value::Array(places) = places {
            places.extend(
                addresses
                    .into_iter()
                    .map(|address| json!({"HostIp": address, "HostPort": port.host.to_string()})),
            );
        }
    }
    bindings.into()
}

fn interface(interface: &NetworkInterface) -> Value {
    let first = |ipv6: bool| {
        let fitting = interface.addresses.iter().find_map(|cidr| {
            let (address, prefix) = cidr.split_once('/')?;
            (address.contains(':') == ipv6).then_some((address, prefix.parse::<u8>().ok()?))
        });
        fitting.unwrap_or_default()
    };
    let gateway = |gateway: Option<IpAddr>| gateway.map(|gateway| gateway.to_string());
    let (ipv4, ipv6) = (first(false), first(true));
    json!({
        "Interface": interface.name,
        "MacAddress": interface.mac,
        "Mtu": interface.mtu,
        "IPAddress": ipv4.0,
        "IPPrefixLen": ipv4.1,
        "Gateway": gateway(interface.gateway).unwrap_or_default(),
        "GlobalIPv6Address": ipv6.0,
        "GlobalIPv6PrefixLen": ipv6.1,
        "IPv6Gateway": gateway(interface.gateway_v6).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_listed_by_the_containers() {
        let ports = caisson_network::parse_ports("127.0.0.1:80-81:90-91").expect("ports");
        let bindings = bindings(&ports);
        assert_eq!(bindings["90/tcp"][0]["HostPort"], "80");
        assert_eq!(bindings["91/tcp"][0]["HostIp"], "127.0.0.1");
    }
}
