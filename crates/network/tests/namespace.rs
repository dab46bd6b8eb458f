//! Namespaces as an engine leaves them, joined to a machine. Needs root and ip(8).

mod inside;

use caisson_network::{Error, Link, Namespace, Spoofing};

use inside::run;

fn ip(namespace: &Namespace, arguments: &str) -> String {
    run(namespace, &format!("ip {arguments}"))
}

fn tc(namespace: &Namespace, device: &str) -> String {
    run(namespace, &format!("tc qdisc show dev {device}"))
}

/// A namespace with a pair of interfaces, one of which is an engine's.
fn made() -> Namespace {
    let namespace = Namespace::new().expect("root");
    ip(
        &namespace,
        "link add eth0 address 02:00:00:00:00:07 mtu 1400 type veth peer name other",
    );
    ip(&namespace, "link set eth0 up");
    ip(&namespace, "addr add 10.9.0.2/24 dev eth0");
    ip(&namespace, "addr add fd00:9::2/64 dev eth0 nodad");
    namespace
}

#[test]
fn the_guest_is_told_what_the_namespace_has() {
    let namespace = made();
    ip(&namespace, "route add default via 10.9.0.1 metric 50");
    ip(
        &namespace,
        "route add 10.77.0.0/16 dev eth0 scope link src 10.9.0.2",
    );
    ip(
        &namespace,
        "route add 10.78.0.0/16 via 192.0.2.1 dev eth0 onlink",
    );
    ip(&namespace, "-6 route add default via fd00:9::1");
    ip(
        &namespace,
        "neigh add 10.9.0.9 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
    );
    let copy = Namespace::open(&namespace.path()).expect("a copy");
    let attachment = namespace.join(Spoofing::Allowed).expect("joined");

    let guest = attachment.guest();
    let [interface] = guest.interfaces.as_slice() else {
        panic!("{:?}", guest.interfaces);
    };
    assert_eq!((interface.name.as_str(), interface.mtu), ("eth0", 1400));
    assert_eq!(interface.mac, [2, 0, 0, 0, 0, 7]);
    let addresses: Vec<_> = interface
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        addresses.contains(&"10.9.0.2/24".to_owned()),
        "{addresses:?}"
    );
    assert!(
        addresses.contains(&"fd00:9::2/64".to_owned()),
        "{addresses:?}"
    );

    let route = |destination: &str| {
        let destination = destination.parse().expect("a destination");
        let mut fitting = guest
            .routes
            .iter()
            .filter(|route| route.destination == destination);
        let route = fitting.next().expect("a route").clone();
        assert!(fitting.next().is_none(), "only one");
        route
    };
    let default = route("0.0.0.0/0");
    assert_eq!(
        default.gateway,
        Some("10.9.0.1".parse().expect("an address"))
    );
    assert_eq!((default.metric, default.on_link), (50, false));
    let link = route("10.77.0.0/16");
    assert_eq!(
        (link.gateway, link.source),
        (None, Some("10.9.0.2".parse().expect("an address")))
    );
    assert!(route("10.78.0.0/16").on_link);
    assert_eq!(
        route("::/0").gateway,
        Some("fd00:9::1".parse().expect("an address"))
    );
    assert!(
        !guest
            .routes
            .iter()
            .any(|route| route.destination.to_string() == "10.9.0.0/24")
    );
    assert_eq!(guest.neighbours.len(), 1);
    assert_eq!(guest.neighbours[0].mac, [2, 0, 0, 0, 0, 0x99]);

    assert!(matches!(attachment.links().as_slice(), [Link::Tap(_)]));
    assert!(tc(&copy, "eth0").contains("ingress"));
    attachment.end();
    attachment.end();
    assert!(!tc(&copy, "eth0").contains("ingress"));
    drop(attachment);
    assert!(
        !ip(&copy, "-o link show").contains("caisson"),
        "the tap is gone"
    );
}

#[test]
fn a_namespace_can_be_joined_again_after_a_crash() {
    let namespace = made();
    let copy = Namespace::open(&namespace.path()).expect("a copy");
    // What is left of a machine that was killed: the way to a tap that has gone.
    ip(&namespace, "link add gone type veth peer name peer");
    run(&namespace, "tc qdisc add dev eth0 ingress");
    run(
        &namespace,
        "tc filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 \
         action mirred egress redirect dev gone",
    );
    ip(&namespace, "link del gone");
    let attachment = namespace.join(Spoofing::Allowed).expect("joined");
    let interfaces = attachment.guest().interfaces;
    assert!(interfaces.iter().any(|interface| interface.name == "eth0"));
    let again = copy.join(Spoofing::Allowed).expect_err("it is taken");
    assert!(matches!(again, Error::Taken), "{again}");
}

#[test]
fn what_is_left_of_a_killed_machine_can_be_parted() {
    let namespace = made();
    run(&namespace, "tc qdisc add dev eth0 ingress");
    namespace.part().expect("parted");
    assert!(!tc(&namespace, "eth0").contains("ingress"));
    namespace.part().expect("nothing to part");
}

#[test]
fn changes_are_found() {
    let namespace = made();
    let copy = Namespace::open(&namespace.path()).expect("a copy");
    let attachment = namespace.join(Spoofing::Allowed).expect("joined");
    assert!(attachment.update().expect("looked").is_empty());

    ip(&copy, "addr add 10.9.0.3/24 dev eth0");
    ip(&copy, "link set eth0 mtu 1300");
    let change = attachment.update().expect("looked");
    assert!(change.plugged.is_empty() && change.unplugged.is_empty());
    let [interface] = change.added.interfaces.as_slice() else {
        panic!("{change:?}");
    };
    assert_eq!((interface.name.as_str(), interface.mtu), ("eth0", 1300));

    ip(
        &copy,
        "link add eth1 address 02:00:00:00:00:08 type veth peer name third",
    );
    assert!(
        attachment.update().expect("looked").is_empty(),
        "it is down"
    );
    ip(&copy, "link set eth1 up");
    let change = attachment.update().expect("looked");
    let [(interface, Link::Tap(_))] = change.plugged.as_slice() else {
        panic!("{change:?}");
    };
    assert_eq!(interface.name, "eth1");
    assert!(tc(&copy, "eth1").contains("ingress"));
    assert_eq!(attachment.links().len(), 2);

    ip(&copy, "link del eth1");
    let change = attachment.update().expect("looked");
    assert_eq!(change.unplugged.len(), 1);
    assert_eq!(attachment.links().len(), 1);
}

#[test]
fn interfaces_of_one_hardware_address_are_named() {
    let namespace = made();
    ip(
        &namespace,
        "link add eth7 address 02:00:00:00:00:07 type veth peer name seventh",
    );
    ip(&namespace, "link set eth7 up");
    let message = namespace
        .join(Spoofing::Allowed)
        .expect_err("refused")
        .to_string();
    assert!(
        message.contains("eth0") && message.contains("eth7"),
        "{message}"
    );
}

#[test]
fn what_carries_no_frames_is_named() {
    let namespace = made();
    ip(&namespace, "tuntap add tun7 mode tun");
    ip(&namespace, "link set tun7 up");
    let error = namespace.join(Spoofing::Allowed).expect_err("refused");
    assert!(matches!(error, Error::Interface { .. }));
    let message = error.to_string();
    assert!(
        message.contains("tun7") && message.contains("a tun"),
        "{message}"
    );
}
