//! Places that a container may connect to: `--allow` and `--deny`.

use std::fmt;
use std::net::{IpAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Context, Result};
use caisson_network::{Cidr, Egress, Rule};
use serde::{Deserialize, Serialize};

/// A place: what has that name or address, and is on one of the ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    host: Host,
    ports: Option<RangeInclusive<u16>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// Every address.
    All,
    Network(Cidr),
    /// Looked up at a start.
    Name(String),
}

/// Where a container may connect to, with every name looked up.
#[derive(Debug, Default)]
pub struct Resolved {
    /// For the network.
    pub egress: Egress,
    /// Names that are allowed, with their addresses: lines of `/etc/hosts`. The
    /// container needs no resolver for them, and has none unless one is allowed.
    pub hosts: Vec<String>,
}

/// Looks up every name, on the host.
pub fn resolve(allow: &[Place], deny: &[Place]) -> Result<Resolved> {
    let mut resolved = Resolved::default();
    if !allow.is_empty() {
        let mut rules = Vec::new();
        for place in allow {
            let networks = place.networks()?;
            if let Host::Name(name) = &place.host {
                let lines = networks
                    .iter()
                    .map(|cidr| format!("{}\t{name}", cidr.address));
                resolved.hosts.extend(lines);
            }
            rules.extend(place.rules(networks));
        }
        resolved.egress.allowed = Some(rules);
    }
    for place in deny {
        resolved
            .egress
            .denied
            .extend(place.rules(place.networks()?));
    }
    Ok(resolved)
}

impl Place {
    fn rules(&self, networks: Vec<Cidr>) -> impl Iterator<Item = Rule> {
        networks.into_iter().map(|network| Rule {
            network,
            ports: self.ports.clone(),
        })
    }

    fn networks(&self) -> Result<Vec<Cidr>> {
        match &self.host {
            Host::All => Ok(vec![Cidr::everything(false), Cidr::everything(true)]),
            Host::Network(cidr) => Ok(vec![*cidr]),
            Host::Name(name) => {
                let found = (name.as_str(), 0)
                    .to_socket_addrs()
                    .with_context(|| format!("cannot look up {name}"))?;
                let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                addresses.sort_unstable();
                addresses.dedup();
                Ok(addresses.into_iter().map(Cidr::from).collect())
            }
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (host, ports) = split(text)?;
        let host = match host {
            "all" => Host::All,
            host => match host.parse::<Cidr>() {
                Ok(network) => Host::Network(network),
                Err(_) => Host::Name(super::identity::host_name(host).map_err(|_| {
                    format!("{host:?} is neither a name nor an address nor a network")
                })?),
            },
        };
        let ports = ports.map(range).transpose()?;
        Ok(Self { host, ports })
    }
}

/// `HOST[:PORTS]`, where an IPv6 address with ports is in brackets.
fn split(text: &str) -> std::result::Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((host, Some(ports))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("{rest:?} after the bracket means nothing")),
        };
    }
    Ok(match text.split_once(':') {
        Some((host, ports)) if !ports.contains(':') => (host, Some(ports)),
        _ => (text, None),
    })
}

fn range(text: &str) -> std::result::Result<RangeInclusive<u16>, String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("{text:?} is no port")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = port(first)?..=port(last)?;
    if range.is_empty() {
        return Err(format!("the range {text} ends before it begins"));
    }
    Ok(range)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::All => f.write_str("all")?,
            Host::Network(cidr) if cidr.address.is_ipv6() => write!(f, "[{cidr}]")?,
            Host::Network(cidr) => write!(f, "{cidr}")?,
            Host::Name(name) => f.write_str(name)?,
        }
        match &self.ports {
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end()),
            None => Ok(()),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_they_are_written() {
        for (text, shown) in [
            ("example.org", "example.org"),
            ("example.org:443", "example.org:443-443"),
            ("10.0.0.0/8:80-90", "10.0.0.0/8:80-90"),
            ("1.2.3.4", "1.2.3.4/32"),
            ("fd00::1", "[fd00::1/128]"),
            ("[fd00::/8]:443", "[fd00::/8]:443-443"),
            ("all", "all"),
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!(place.to_string(), shown);
            assert_eq!(shown.parse::<Place>().as_ref(), Ok(&place), "{shown}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a:0",
            "a:9-8",
            "[::1",
            "[::1]x",
            "10.0.0.0/33",
            "a:x",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_looked_up_and_noted() {
        let place = |text: &str| text.parse::<Place>().expect(text);
        let resolved = resolve(&[place("localhost:80")], &[place("all:25")]).expect("known");
        let allowed = resolved.egress.allowed.expect("a list");
        assert_eq!(allowed[0].ports, Some(80..=80));
        assert!(resolved.hosts.contains(&"127.0.0.1\tlocalhost".to_owned()));
        assert_eq!(resolved.egress.denied.len(), 2);
        assert!(resolve(&[], &[]).expect("nothing").egress.allowed.is_none());
    }
}
