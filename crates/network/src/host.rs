//! What the host's network is like.

use std::fs;

/// The interface whose link-local IPv6 address the user-mode stack borrows: the one of
/// the default route, or any other. None if the host has no IPv6 but its loopback's.
pub(crate) fn ipv6_interface() -> Option<String> {
    let addresses = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    choose(&addresses, &routes)
}

/// Reads `if_inet6` (address, number, prefix, scope, flags, name) and `ipv6_route`
/// (destination, prefix, ..., name).
fn choose(addresses: &str, routes: &str) -> Option<String> {
    const LINK_LOCAL: &str = "20";
    let link_local: Vec<&str> = addresses
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() == 6 && fields[3] == LINK_LOCAL)
        .map(|fields| fields[5])
        .collect();
    let default = routes.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let everything = fields.len() == 10 && fields[1] == "00" && fields[9] != "lo";
        everything.then(|| fields[9])
    });
    default
        .filter(|name| link_local.contains(name))
        .or_else(|| link_local.first().copied())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000fcf0fffe000001 03 40 20 80   other
fd000000000000000000000000000002 04 40 00 82     eth0
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
";

    #[test]
    fn the_default_route_decides() {
        let zero = "0".repeat(32);
        let route = |name: &str| {
            format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003 {name}\n")
        };
        let choice = |routes: &str| choose(ADDRESSES, routes);
        assert_eq!(choice(&route("eth0")).as_deref(), Some("eth0"));
        // The kernel lists a default route of the loopback that refuses everything.
        assert_eq!(choice(&route("lo")).as_deref(), Some("other"));
        assert_eq!(choice("").as_deref(), Some("other"));
        let loopback = ADDRESSES.lines().next().expect("a line");
        assert_eq!(choose(loopback, &route("lo")), None);
    }
}
