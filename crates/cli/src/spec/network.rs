//! Networks: which one, published ports, name resolution, places that may be reached.

use std::net::IpAddr;

use caisson_network::{PortMapping, parse_ports};

use super::{Error, Result};
use crate::config::Settings;
use crate::container::{Dns, Network, NetworkMode};
use crate::flags::CreateFlags;

/// Ports of one `--publish`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<PortMapping>);

/// Most ports that a container can publish: each is a socket.
const MOST_PORTS: usize = 4096;

/// Reads `--network`.
pub fn mode(text: &str) -> std::result::Result<NetworkMode, String> {
    match text {
        "none" => Ok(NetworkMode::None),
        // Docker's name for whatever is there without being asked for.
        "user" | "default" => Ok(NetworkMode::User),
        "host" => Err(
            "the container has a kernel of its own, so it cannot use the host's network stack; \
             publish its ports with --publish"
                .to_owned(),
        ),
        _ if text.starts_with("container:") => Err(
            "the other container is in a virtual machine of its own, whose network stack cannot \
             be joined; give both a common network with --network bridge"
                .to_owned(),
        ),
        _ if text.starts_with("ns:") => Err(
            "a namespace of the host's kernel cannot be joined by name; name a CNI network"
                .to_owned(),
        ),
        _ => super::identity::container_name(text)
            .map(NetworkMode::Named)
            .map_err(|_| "expected user, bridge, none or the name of a CNI network".to_owned()),
    }
}

/// Reads `--publish`.
pub fn publish(text: &str) -> std::result::Result<Ports, String> {
    parse_ports(text).map(Ports)
}

/// Reads `--dns-search`: a domain, or `.` for none.
pub fn search(text: &str) -> std::result::Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.len() <= 253 && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err("expected a domain".to_owned())
}

/// Reads `--dns-option`, such as `ndots:2`.
pub fn option(text: &str) -> std::result::Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_:".contains(c);
    if !text.is_empty() && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err("expected an option of resolv.conf(5), such as ndots:2".to_owned())
}

/// The network of a new container.
pub fn network(flags: &CreateFlags, settings: &Settings) -> Result<Network> {
    let mode = flags
        .network
        .clone()
        .unwrap_or_else(|| match settings.network.as_str() {
            "none" => NetworkMode::None,
            "bridge" => NetworkMode::Named("bridge".to_owned()),
            _ => NetworkMode::User,
        });
    let ports: Vec<PortMapping> = flags
        .publish
        .iter()
        .flat_map(|ports| ports.0.iter().copied())
        .collect();
    let refuse = |reason: &str| {
        Err(Error::Flag {
            flag: "--publish",
            value: ports.first().map(ToString::to_string).unwrap_or_default(),
            reason: reason.to_owned(),
        })
    };
    if !ports.is_empty() && mode == NetworkMode::None {
        return refuse("the container has no network (`--network none`)");
    }
    if ports.len() > MOST_PORTS {
        return refuse("a container can publish at most 4096 ports");
    }
    let place = flags.allow.first().map(|place| ("--allow", place));
    let place = place.or(flags.deny.first().map(|place| ("--deny", place)));
    if let Some((flag, place)) = place
        && mode != NetworkMode::User
    {
        return Err(Error::Flag {
            flag,
            value: place.to_string(),
            reason: format!("only --network user enforces it, not --network {mode}"),
        });
    }
    Ok(Network {
        mode,
        ports,
        allow: flags.allow.clone(),
        deny: flags.deny.clone(),
        dns: Dns {
            servers: flags.dns.clone(),
            search: flags.dns_search.clone(),
            options: flags.dns_option.clone(),
        },
    })
}

/// `/etc/resolv.conf` of a container, made from the host's and from what was asked for.
///
/// Resolvers on the host itself cannot be reached from the container; with `stand_in`,
/// that address is asked instead of the first of them.
pub fn resolv_conf(host: &str, dns: &Dns, stand_in: Option<IpAddr>) -> String {
    let value = |keyword: &'static str| {
        host.lines().filter_map(move |line| {
            let rest = line.trim().strip_prefix(keyword)?;
            rest.starts_with([' ', '\t'])
                .then(|| rest.trim().to_owned())
        })
    };
    let changed = *dns != Dns::default() || (stand_in.is_some() && forwards(host));
    if !changed {
        return host.to_owned();
    }
    let mut servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
    if servers.is_empty() {
        let mut stand_in = stand_in.filter(|_| forwards(host));
        for server in value("nameserver") {
            match server.parse::<IpAddr>() {
                Ok(address) if address.is_loopback() => {
                    servers.extend(stand_in.take().map(|address| address.to_string()));
                }
                _ => servers.push(server),
            }
        }
    }
    let search = match dns.search.as_slice() {
        [] => value("search").next_back().unwrap_or_default(),
        [none] if none == "." => String::new(),
        domains => domains.join(" "),
    };
    let options = if dns.options.is_empty() {
        value("options").collect::<Vec<_>>().join(" ")
    } else {
        dns.options.join(" ")
    };
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (keyword, value) in [("search", search), ("options", options)] {
        if !value.is_empty() {
            text.push_str(&format!("{keyword} {value}\n"));
        }
    }
    text
}

/// Whether the host's first resolver is on the host itself.
pub fn forwards(host: &str) -> bool {
    host.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|server| server.trim().parse::<IpAddr>().ok())
        .find(IpAddr::is_ipv4)
        .is_some_and(|server| server.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::{flags, settings};

    #[test]
    fn the_users_network_is_the_default() {
        let network = |line: &str| network(&flags(line), &settings());
        assert_eq!(
            network("busybox").expect("a network").mode,
            NetworkMode::User
        );
        let none = network("--network none busybox").expect("a network");
        assert_eq!((none.mode, none.ports.len()), (NetworkMode::None, 0));
        let published = network("-p 8080:80 -p 90-91:90-91/udp busybox").expect("a network");
        assert_eq!(published.ports.len(), 3);
        let error = network("--network none -p 80:80 busybox").expect_err("refused");
        assert!(error.to_string().contains("no network"), "{error}");
    }

    #[test]
    fn foreign_stacks_are_refused_with_the_reason() {
        for (name, words) in [
            ("host", "kernel of its own"),
            ("container:web", "virtual machine of its own"),
            ("ns:/run/netns/a", "CNI"),
            ("", "CNI network"),
        ] {
            let error = mode(name).expect_err(name);
            assert!(error.contains(words), "{name}: {error}");
        }
        assert_eq!(mode("my-net"), Ok(NetworkMode::Named("my-net".to_owned())));
    }

    #[test]
    fn resolvers_on_the_host_are_replaced() {
        let stand_in = Some("10.0.2.3".parse().expect("an address"));
        let host = "# x\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a.org\noptions edns0\n";
        assert_eq!(
            resolv_conf(host, &Dns::default(), stand_in),
            "nameserver 10.0.2.3\nnameserver 9.9.9.9\nsearch a.org\noptions edns0\n"
        );
        let plain = "nameserver 9.9.9.9\n";
        assert_eq!(resolv_conf(plain, &Dns::default(), stand_in), plain);
        assert_eq!(resolv_conf(host, &Dns::default(), None), host);
    }

    #[test]
    fn flags_go_over_the_host() {
        let dns = Dns {
            servers: vec!["::1".parse().expect("an address")],
            search: vec![".".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        let host = "nameserver 9.9.9.9\nsearch a.org\noptions edns0\n";
        let text = resolv_conf(host, &dns, None);
        assert_eq!(text, "nameserver ::1\noptions ndots:2\n");
    }
}
