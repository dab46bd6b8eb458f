//! Networks of copies of snapshots: each has what it asks for, whatever the first one had. A
//! network namespace stands for the host.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{Caisson, eventually, output, programs, resolve_nothing, text};

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
    caisson.says("first", "ready");
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

/// Whether a guest was offered to leave checksums to its tap (virtio 1.2, 5.1.3).
fn is_offered_offloads(caisson: &Caisson, name: &str) -> bool {
    let features = "/sys/class/net/eth0/device/features";
    caisson.ok(["exec", name, "head", "-c", "1", features]) == "1"
}

#[test]
fn a_copy_may_be_kept_from_leaving_work_to_its_tap() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    snapshot(&caisson, "bridge");
    assert!(is_offered_offloads(&caisson, "first"));
    let strictly = |name: &str, snapshot: &str| {
        let run = ["run", "-d", "--name", name, "--network", "bridge"];
        let mut command = caisson.command(run.iter().chain(&["--from", snapshot]));
        command.env("CAISSON_ANTI_SPOOF", "strict");
        let started = output(command, b"");
        assert!(started.status.success(), "{started:?}");
        address(&caisson, name);
        sends(&host, &caisson, name);
        assert!(!is_offered_offloads(&caisson, name), "{name}");
    };
    strictly("strict", "s");
    caisson.ok(["snapshot", "strict", "of-strict"]);
    strictly("strict-again", "of-strict");
    let run = ["run", "-d", "--name", "lax", "--network", "bridge"];
    caisson.ok(run.iter().chain(&["--from", "of-strict"]));
    address(&caisson, "lax");
    sends(&host, &caisson, "lax");
}

#[test]
fn connections_of_a_client_on_a_bridge_are_reset_in_its_copies() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    // The bridge is there with its first container.
    let run = ["run", "-d", "--name", "other", "--network", "bridge"];
    caisson.ok(run.iter().chain(&["busybox", "sleep", "1000"]));
    let listener = host.inside(|| TcpListener::bind("10.87.0.1:0").expect("a listener"));
    listener.set_nonblocking(true).expect("set");
    let port = listener.local_addr().expect("an address").port();
    let script =
        format!("nc 10.87.0.1 {port} -e sh -c 'cat >/got 2>/error; echo ended >/end'; sleep 1000");
    let run = ["run", "-d", "--name", "first", "--network", "bridge"];
    caisson.ok(run.iter().chain(&["busybox", "sh", "-c", &script]));
    let mut accepted = None;
    eventually("it connects", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (mut stream, _) = accepted.expect("a connection");
    stream.set_nonblocking(false).expect("set");
    let got = |expected: &str| caisson.file("first", "/got").as_deref() == Some(expected);
    stream.write_all(b"before\n").expect("written");
    eventually("it reads", || got("before\n"));
    caisson.ok(["snapshot", "first", "s"]);
    for network in ["bridge", "user", "none"] {
        copy(&caisson, network);
        eventually("the connection of the copy ends", || {
            caisson.file(network, "/end").is_some()
        });
        let error = caisson.file(network, "/error").expect("its last words");
        assert!(error.contains("Connection reset by peer"), "{error}");
        assert_eq!(caisson.file(network, "/got").as_deref(), Some("before\n"));
    }
    stream.write_all(b"after\n").expect("written");
    eventually("the first one reads on", || got("before\nafter\n"));
    assert_eq!(caisson.file("first", "/end"), None);
    drop(stream);
    eventually("its connection ends as it should", || {
        caisson.file("first", "/end").is_some()
    });
    assert_eq!(caisson.file("first", "/error").as_deref(), Some(""));
}

/// A command that sees other contents of `/etc/resolv.conf`, as does what it starts.
fn with_resolvers(caisson: &Caisson, contents: &Path, arguments: &[&str]) -> String {
    let plain = caisson.command(arguments);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"")
        .arg(contents)
        .arg(plain.get_program())
        .args(plain.get_args());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = output(command, b"");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

#[test]
fn copies_have_the_resolvers_of_their_network() {
    let host = Netns::new("host");
    let caisson = installation(&host);
    resolve_nothing(host.inside(|| UdpSocket::bind("127.0.0.1:53").expect("port 53")));
    let folder = caisson.folder("resolvers");
    let (local, other) = (folder.join("local"), folder.join("other"));
    fs::write(&local, "nameserver 127.0.0.1\nsearch example.test\n").expect("written");
    fs::write(&other, "nameserver 192.0.2.7\n").expect("written");
    let seen = |name: &str| caisson.ok(["exec", name, "cat", "/etc/resolv.conf"]);
    let run = |name: &str, network: &str, file: &Path, rest: &[&str]| {
        let run = ["run", "-d", "--name", name, "--network", network];
        with_resolvers(&caisson, file, &[&run[..], rest].concat());
        seen(name)
    };
    let answered = |name: &str| {
        eventually(&format!("{name} is answered"), || {
            let asked = caisson.run(["exec", name, "nslookup", "no.example"]);
            text(&asked.stdout).contains("NXDOMAIN")
        });
    };
    let program = ["busybox", "sleep", "1000"];
    let stand_in = "nameserver 10.0.2.3\nsearch example.test\n";
    assert_eq!(run("first", "user", &local, &program), stand_in);
    answered("first");
    let others = "nameserver 192.0.2.7\n";
    assert_eq!(run("on-bridge", "bridge", &other, &program), others);
    caisson.ok(["snapshot", "first", "of-user"]);
    caisson.ok(["snapshot", "on-bridge", "of-bridge"]);

    // The host's as it is now.
    let from = ["--from", "of-user"];
    assert_eq!(run("bridge", "bridge", &other, &from), others);
    assert_eq!(run("none", "none", &other, &from), others);
    let asked = ["--from", "of-user", "--dns", "192.0.2.9"];
    let with_search = "nameserver 192.0.2.9\nsearch example.test\n";
    assert_eq!(run("asked", "user", &local, &asked), with_search);
    let from = ["--from", "of-bridge"];
    assert_eq!(run("user", "user", &local, &from), stand_in);
    answered("user");
    assert_eq!(seen("first"), stand_in, "it keeps its own");
    assert_eq!(seen("on-bridge"), others);
}
