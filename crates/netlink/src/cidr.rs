//! Addresses with a prefix length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `10.0.0.2/24`: an address of an interface, or the network of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// How many of its leading bits name the network.
    pub prefix: u8,
}

impl Cidr {
    /// The whole address space of a family: what a default route leads to.
    pub fn everything(ipv6: bool) -> Self {
        let address = if ipv6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        Self { address, prefix: 0 }
    }

    /// Whether it is of a family that has `address`, and covers it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.checked_shr(32 - prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.checked_shr(128 - prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// The bytes of the address, in network order.
    pub(crate) fn octets(&self) -> Vec<u8> {
        octets(self.address)
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(crate) fn from_octets(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

pub(crate) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

impl From<IpAddr> for Cidr {
    /// This one address.
    fn from(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    /// Without a prefix length, it is one address.
    fn from_str(text: &str) -> Result<Self, String> {
        let mistake = || format!("{text:?} is no address with a prefix length");
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| mistake())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| mistake())?,
            None => longest,
        };
        if prefix > longest {
            return Err(mistake());
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "10.0.0.2/24",
            "fd00::2/64",
            "0.0.0.0/0",
            "::/0",
            "1.2.3.4/32",
        ] {
            assert_eq!(text.parse::<Cidr>().expect(text).to_string(), text);
        }
        assert_eq!("::1".parse::<Cidr>().expect("one").prefix, 128);
        for bad in ["", "10.0.0.2/33", "::/129", "10.0.0/8", "x/8", "1.2.3.4/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_contain_their_addresses() {
        let within = |network: &str, address: &str| {
            let network: Cidr = network.parse().expect(network);
            network.contains(address.parse().expect(address))
        };
        assert!(within("10.1.0.0/16", "10.1.2.3"));
        assert!(!within("10.1.0.0/16", "10.2.2.3"));
        assert!(within("0.0.0.0/0", "255.1.2.3"));
        assert!(within("1.2.3.4/32", "1.2.3.4"));
        assert!(!within("1.2.3.4/32", "1.2.3.5"));
        assert!(within("fe80::/10", "febf::1"));
        assert!(!within("fe80::/10", "fec0::1"));
        assert!(within("::/0", "::1") && !within("::/0", "127.0.0.1"));
    }
}
