//! Published ports.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The host's address; none is every one.
    pub address: Option<IpAddr>,
    /// The host's port; 0 until one is found.
    pub host: u16,
    /// The container's port.
    pub container: u16,
    /// What both belong to.
    pub protocol: Protocol,
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(address) => write!(f, "{address}:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host, self.container, self.protocol)
    }
}

/// Reads `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, where both ports may be ranges of
/// the same length and the host's may be left out.
pub fn parse_ports(text: &str) -> std::result::Result<Vec<PortMapping>, String> {
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
    };
    let (rest, container) = match ports.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, ports),
    };
    let (address, host) = match rest {
        None => (None, ""),
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, host)) => (Some(parse_address(address)?), host),
            None => (None, rest),
        },
    };
    let container = range(container)?;
    let count = container.clone().count();
    let hosts: Vec<u16> = if host.is_empty() {
        vec![0; count]
    } else {
        range(host)?.collect()
    };
    if hosts.len() != count {
        return Err(format!(
            "{} ports of the host cannot lead to {count} of the container; give ranges of the same length",
            hosts.len()
        ));
    }
    Ok(hosts
        .into_iter()
        .zip(container)
        .map(|(host, container)| PortMapping {
            address,
            host,
            container,
            protocol,
        })
        .collect())
}

fn parse_address(text: &str) -> std::result::Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = match bare {
        Some(text) => text.parse().map(IpAddr::V6).ok(),
        None if text == "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        None => text.parse().map(IpAddr::V4).ok(),
    };
    address.ok_or_else(|| format!("{text:?} is no address; write IPv6 in brackets"))
}

fn range(text: &str) -> std::result::Result<RangeInclusive<u16>, String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!(
            "{text:?} is no port; it is a number from 1 to 65535"
        )),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("the range {text} ends before it begins"));
    }
    Ok(first..=last)
}

/// Checks that the ports can be listened on, and finds those that were left open.
///
/// Nothing is held: somebody may take a port before it is listened on. Whoever does
/// that then fails too, but cannot always say which port it was.
pub fn reserve(ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
    let mut found: Vec<PortMapping> = Vec::with_capacity(ports.len());
    for port in ports {
        let same = |other: &&PortMapping| {
            port.host != 0 && (other.host, other.protocol) == (port.host, port.protocol)
        };
        if found.iter().any(|other| same(&other)) {
            return Err(refused(port, "it is published twice".to_owned()));
        }
        found.push(reserve_one(port, &found)?);
    }
    Ok(found)
}

fn reserve_one(port: &PortMapping, taken: &[PortMapping]) -> Result<PortMapping> {
    // A port that the host chooses may be one that was asked for by number.
    for _ in 0..16 {
        let host = bind_all(port).map_err(|error| refused(port, reason(port, &error)))?;
        let again = |other: &PortMapping| (other.host, other.protocol) == (host, port.protocol);
        if port.host != 0 || !taken.iter().any(again) {
            return Ok(PortMapping { host, ..*port });
        }
    }
    Err(refused(port, "the host has no free port".to_owned()))
}

fn refused(port: &PortMapping, reason: String) -> Error {
    Error::Port {
        port: *port,
        reason,
    }
}

fn reason(port: &PortMapping, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "somebody else listens on it; `ss -ltunp` and `caisson ps` say who".to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "ports below 1024 need root, or `sysctl net.ipv4.ip_unprivileged_port_start={}`",
            port.host
        ),
        io::ErrorKind::AddrNotAvailable => "the host does not have that address".to_owned(),
        _ => error.to_string(),
    }
}

/// Binds the port on each address that it is published on and returns its number.
fn bind_all(port: &PortMapping) -> io::Result<u16> {
    if let Some(address) = port.address {
        return bind(SocketAddr::new(address, port.host), port.protocol).map(|(_, port)| port);
    }
    let (held, number) = bind((Ipv4Addr::UNSPECIFIED, port.host).into(), port.protocol)?;
    match bind((Ipv6Addr::UNSPECIFIED, number).into(), port.protocol) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
        Err(error) => return Err(error),
    }
    drop(held);
    Ok(number)
}

fn bind(address: SocketAddr, protocol: Protocol) -> io::Result<(OwnedFd, u16)> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that have ended are no hindrance.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, 1)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let ports = parse_ports(text).expect(text);
        ports.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_as_docker_writes_them() {
        assert_eq!(shown("8080:80"), ["8080:80/tcp"]);
        assert_eq!(shown("80"), ["0:80/tcp"]);
        assert_eq!(shown("53:53/udp"), ["53:53/udp"]);
        assert_eq!(shown("127.0.0.1:8080:80"), ["127.0.0.1:8080:80/tcp"]);
        assert_eq!(shown("127.0.0.1::80"), ["127.0.0.1:0:80/tcp"]);
        assert_eq!(shown("[::1]:8080:80"), ["[::1]:8080:80/tcp"]);
        assert_eq!(
            shown("10-12:20-22/tcp"),
            ["10:20/tcp", "11:21/tcp", "12:22/tcp"]
        );
        for bad in [
            "",
            ":",
            "0:80",
            "80:0",
            "x:80",
            "80:65536",
            "::1:80:80",
            "80:80/sctp",
            "1-2:80",
            "2-1:4-3",
            "nowhere:80:80",
            "1:2:3:4",
            "80:80/",
        ] {
            assert!(parse_ports(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        // On an address that nobody else uses: once free again, the port must stay so.
        let listener = std::net::TcpListener::bind("127.83.0.1:0").expect("a port");
        let taken = listener.local_addr().expect("an address").port();
        let ports = parse_ports(&format!("127.83.0.1:{taken}:80")).expect("a port");
        let error = reserve(&ports).expect_err("taken").to_string();
        assert!(
            error.contains(&format!("127.83.0.1:{taken}:80/tcp")),
            "{error}"
        );
        assert!(error.contains("somebody else"), "{error}");
        drop(listener);
        assert_eq!(reserve(&ports).expect("free"), ports);
    }

    #[test]
    fn ports_are_found_and_not_published_twice() {
        let ports = parse_ports("127.0.0.1::1-20").expect("ports");
        let found = reserve(&ports).expect("free ports");
        let numbers: std::collections::BTreeSet<_> = found.iter().map(|port| port.host).collect();
        assert_eq!(numbers.len(), 20);
        assert!(!numbers.contains(&0));
        let twice = [found[0], found[0]];
        let error = reserve(&twice).expect_err("twice").to_string();
        assert!(error.contains("twice"), "{error}");
    }
}
