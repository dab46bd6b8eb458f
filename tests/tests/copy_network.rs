//! Networks of copies of snapshots: each has what it asks for, whatever the first one had. A
//! network namespace stands for the host.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::TcpListener;

use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{Caisson, eventually, programs};

const SCRIPT: &str = "echo ready; sleep 1000";

fn installation(host: &Netns) -> Caisson {
    let caisson = Caisson::inside(host);
    let image = programs::demo_image();
    caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
    caisson
}

/// A snapshot of a container in a network.
fn snapshot(caisson: &Caisson, network: &str) {
    let run = ["run", "-d", "--name", "first", "--network", network];
    caisson.ok(run.iter().chain(&["busybox", "sh", "-c", SCRIPT]));
    eventually("the first one is ready", || {
        caisson.ok(["logs", "first"]).contains("ready")
    });
    caisson.ok(["snapshot", "first", "s"]);
}

/// Hardware address and IPv4 address of a container as the host has them, which must be
/// those in its guest.
fn address(caisson: &Caisson, name: &str) -> (String, String) {
    let settings = caisson.inspect(name)["NetworkSettings"].take();
    let field = |name: &str| settings[name].as_str().expect(name).to_owned();
    let (mac, ip) = (field("MacAddress"), field("IPAddress"));
    let script = "ip addr show eth0; ip route; cat /etc/hosts";
    let seen = caisson.ok(["exec", name, "sh", "-c", script]);
    assert!(seen.contains(&format!("link/ether {mac}")), "{seen}");
    assert_eq!(seen.matches("inet ").count(), 1, "{seen}");
    assert!(seen.contains(&format!("inet {ip}/")), "{seen}");
    assert_eq!(seen.matches("default via").count(), 1, "{seen}");
    assert!(seen.contains(&format!("{ip}\t")), "{seen}");
    (mac, ip)
}

fn copy(caisson: &Caisson, network: &str) {
    let run = ["run", "-d", "--name", network, "--network", network];
    caisson.ok(run.iter().chain(&["--from", "s"]));
}

/// Bytes that take many frames, and that a guest would leave to others to divide.
const MANY: u64 = 4 << 20;

/// A container sends more to the host's end of the bridge than fits into a frame.
fn sends(host: &Netns, caisson: &Caisson, name: &str) {
    let listener = host.inside(|| TcpListener::bind("10.87.0.1:0").expect("a listener"));
    listener.set_nonblocking(true).expect("set");
    let port = listener.local_addr().expect("an address").port();
    let script = format!("head -c {MANY} /dev/zero | nc -w 60 10.87.0.1 {port}");
    std::thread::scope(|scope| {
        scope.spawn(|| caisson.run(["exec", name, "sh", "-c", &script]));
        let mut accepted = None;
        eventually("it connects", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.expect("a connection");
        stream.set_nonblocking(false).expect("set");
        let received = io::copy(&mut stream.take(MANY), &mut io::sink()).expect("read");
        assert_eq!(received, MANY, "{name}");
    });
}

fn has_none(caisson: &Caisson) {
    let seen = caisson.ok([
        "exec",
        "none",
        "sh",
        "-c",
        "ip addr; ip route; cat /etc/hosts",
    ]);
    assert!(!seen.contains("link/ether"), "{seen}");
    assert_eq!(
        seen.matches("inet ").count(),
        1,
        "the loopback only: {seen}"
    );
    assert!(!seen.contains("default"), "{seen}");
}

#[test]
fn copies_of_a_user_network_have_any() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    snapshot(&caisson, "user");
    let (first, _) = address(&caisson, "first");
    for network in ["user", "bridge", "none"] {
        copy(&caisson, network);
    }
    has_none(&caisson);
    let (user, ip) = address(&caisson, "user");
    assert_eq!(ip, "10.0.2.15");
    let (bridge, ip) = address(&caisson, "bridge");
    assert!(ip.starts_with("10.87."), "{ip}");
    assert_eq!(BTreeSet::from([first, user, bridge]).len(), 3);
    caisson.ok(["exec", "bridge", "ping", "-c", "1", "10.87.0.1"]);
}

#[test]
fn copies_without_a_network_have_any() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    snapshot(&caisson, "none");
    for network in ["user", "bridge", "none"] {
        copy(&caisson, network);
    }
    has_none(&caisson);
    address(&caisson, "user");
    address(&caisson, "bridge");
}

#[test]
fn copies_of_a_bridge_have_any() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    snapshot(&caisson, "bridge");
    copy(&caisson, "bridge");
    let ((mac, ip), (first_mac, first)) = (address(&caisson, "bridge"), address(&caisson, "first"));
    assert!(mac != first_mac && ip != first, "{mac} {ip}");
    caisson.ok(["exec", "bridge", "ping", "-c", "1", &first]);
    for network in ["user", "none"] {
        copy(&caisson, network);
    }
    has_none(&caisson);
    let (_, ip) = address(&caisson, "user");
    assert_eq!(ip, "10.0.2.15");
    sends(&host, &caisson, "user");
    // What such a copy was given is what its own copies have.
    for (name, network) in [("user", "bridge"), ("none", "user"), ("bridge", "none")] {
        let (snapshot, again) = (format!("of-{name}"), format!("{network}-again"));
        caisson.ok(["snapshot", name, &snapshot]);
        let run = ["run", "-d", "--name", &again, "--network", network];
        caisson.ok(run.iter().chain(&["--from", &snapshot]));
    }
    assert_eq!(address(&caisson, "user-again").1, "10.0.2.15");
    sends(&host, &caisson, "user-again");
    let (_, again) = address(&caisson, "bridge-again");
    caisson.ok(["exec", "bridge", "ping", "-c", "1", &again]);
}
