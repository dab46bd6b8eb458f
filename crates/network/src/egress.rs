//! Where a guest may connect to.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use caisson_netlink::Cidr;

/// What connections a guest may begin. Answers to what others begin always pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// The only places that may be connected to; none is every place.
    pub allowed: Option<Vec<Rule>>,
    /// Places that may not be connected to, though they may be allowed above.
    pub denied: Vec<Rule>,
}

/// Places to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Their addresses.
    pub network: Cidr,
    /// Their ports; none is every port, and whatever has no ports.
    pub ports: Option<RangeInclusive<u16>>,
}

impl Rule {
    fn covers(&self, address: IpAddr, port: Option<u16>) -> bool {
        let port_fits = match (&self.ports, port) {
            (None, _) => true,
            (Some(ports), Some(port)) => ports.contains(&port),
            (Some(_), None) => false,
        };
        port_fits && self.network.contains(address)
    }
}

impl Egress {
    /// Whether a connection to a place may begin. What has no ports has none.
    pub(crate) fn permits(&self, address: IpAddr, port: Option<u16>) -> bool {
        let covered = |rules: &[Rule]| rules.iter().any(|rule| rule.covers(address, port));
        self.allowed.as_deref().is_none_or(covered) && !covered(&self.denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(network: &str, ports: Option<RangeInclusive<u16>>) -> Rule {
        Rule {
            network: network.parse().expect(network),
            ports,
        }
    }

    #[test]
    fn denial_goes_over_permission() {
        let egress = Egress {
            allowed: Some(vec![rule("10.0.0.0/8", Some(80..=443))]),
            denied: vec![rule("10.1.0.0/16", None)],
        };
        let permits = |address: &str, port| egress.permits(address.parse().expect(address), port);
        assert!(permits("10.0.0.1", Some(80)));
        assert!(!permits("10.0.0.1", Some(22)));
        assert!(
            !permits("10.0.0.1", None),
            "a rule with ports is about ports"
        );
        assert!(!permits("10.1.0.1", Some(80)));
        assert!(!permits("1.1.1.1", Some(80)));
        assert!(!permits("::1", Some(80)));
        assert!(Egress::default().permits("::1".parse().expect("one"), None));
    }
}
