//! Engine networks: the guest takes the place that an engine has made for its container.

use std::net::Ipv4Addr;

use caisson_end_to_end::docker::Docker;
use caisson_end_to_end::engine::{self, Containerd, IMAGE, RUNTIME, Release};
use caisson_end_to_end::frames::{self, Listener, Mac};
use caisson_end_to_end::netns::{Cni, Netns};
use caisson_end_to_end::{eventually, kill, output, programs, text};

/// Row of the table of features.
const LATER: &str = "interfaces and addresses that come later";

/// Port of the host that leads to a container's port 80.
const PORT: u16 = 8055;

/// A web server in the guest that says who it is.
fn serve(word: &str) -> String {
    format!("echo {word} >/tmp/index.html; exec httpd -f -p 80 -h /tmp")
}

/// Starts a container in a network namespace.
fn start(engine: &Containerd, netns: &Netns, name: &str, script: &str) {
    let flags = ["-d", "--with-ns", &netns.flag()];
    let started = engine.container(&flags, name, &["sh", "-c", script], b"");
    assert!(started.status.success(), "{started:?}");
}

/// Runs a command in a container.
fn exec(engine: &Containerd, name: &str, script: &str) -> String {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let id = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let id = format!("exec-{id}");
    engine.ok(&["task", "exec", "--exec-id", &id, name, "sh", "-c", script])
}

/// Taps and redirections in a container's namespace.
fn joined(netns: &Netns) -> Vec<String> {
    let taps = netns.interfaces().into_iter();
    let redirections = netns.run("tc", "qdisc show");
    let redirections = redirections.lines().filter(|line| line.contains("ingress"));
    taps.filter(|name| name.starts_with("caisson"))
        .chain(redirections.map(str::to_owned))
        .collect()
}

fn a_server_behind_a_bridge(release: Release) {
    let (host, pod) = (Netns::new("host"), Netns::new("pod"));
    let cni = Cni::new(&host);
    let [ipv4, ipv6] = cni.add(&pod, PORT);
    let engine = Containerd::start(release);
    start(&engine, &pod, "web", &serve("here"));

    let address = |cidr: &str| cidr.split('/').next().expect("an address").to_owned();
    let over_ipv4 = format!("{}:80", address(&ipv4));
    eventually("the guest serves", || host.fetch(&over_ipv4).is_some());
    for place in [
        over_ipv4,
        format!("[{}]:80", address(&ipv6)),
        format!("{}:{PORT}", Cni::GATEWAYS[0]),
        format!("[{}]:{PORT}", Cni::GATEWAYS[1]),
    ] {
        assert_eq!(host.fetch(&place).as_deref(), Some("here"), "{place}");
    }

    let shown = exec(&engine, "web", "ip addr show eth0");
    for line in [
        format!("link/ether {}", pod.mac("eth0")),
        format!("inet {ipv4} "),
        format!("inet6 {ipv6} "),
        "mtu 1500".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line}: {shown}");
    }
    let routes = exec(&engine, "web", "ip route; ip -6 route");
    for gateway in Cni::GATEWAYS {
        assert!(
            routes.contains(&format!("default via {gateway} dev eth0")),
            "{routes}"
        );
    }

    engine.remove("web");
    assert!(joined(&pod).is_empty(), "{:?}", joined(&pod));
    cni.remove(&pod, PORT);
    engine.shows("a CNI bridge, both families, port mapping");
}

#[test]
fn a_server_behind_a_bridge_of_containerd_1_6() {
    a_server_behind_a_bridge(Release::Installed);
}

#[test]
fn a_server_behind_a_bridge_of_containerd_1_7() {
    a_server_behind_a_bridge(Release::Previous);
}

#[test]
fn a_server_behind_a_bridge_of_containerd_2() {
    a_server_behind_a_bridge(Release::Newest);
}

#[test]
fn what_changes_in_the_namespace_changes_in_the_guest() {
    let (host, pod) = (Netns::new("host"), Netns::new("pod"));
    let cni = Cni::new(&host);
    cni.add(&pod, PORT);
    let engine = Containerd::start(Release::Installed);
    start(&engine, &pod, "web", &serve("here"));
    let guest = |script: &str| exec(&engine, "web", script);

    pod.ip("addr add 10.55.0.77/24 dev eth0");
    pod.ip("addr add fd00:55::77/64 dev eth0 nodad");
    pod.ip("route add 192.0.2.0/24 via 10.55.0.9 metric 7");
    pod.ip("link set eth0 mtu 1400");
    eventually("addresses, a route and the size come", || {
        let shown = guest("ip addr show eth0; ip route");
        ["10.55.0.77/24", "fd00:55::77/64", "mtu 1400"]
            .iter()
            .all(|part| shown.contains(part))
            && shown.contains("192.0.2.0/24 via 10.55.0.9 dev eth0  metric 7")
    });
    eventually("the guest answers there", || {
        host.fetch("10.55.0.77:80").is_some() && host.fetch("[fd00:55::77]:80").is_some()
    });
    pod.ip("addr del 10.55.0.77/24 dev eth0");
    pod.ip("addr del fd00:55::77/64 dev eth0");
    pod.ip("route del 192.0.2.0/24");
    eventually("they go", || {
        let shown = guest("ip addr show eth0; ip route");
        !shown.contains("::77") && !shown.contains(".77/") && !shown.contains("192.0.2.0")
    });
    assert!(guest("ip route").contains("default via 10.55.0.1"));

    // Another interface comes, goes, and comes again: into the same slot.
    for round in 0..3 {
        host.ip(&format!(
            "link add outer{round} type veth peer name eth1 netns {}",
            pod.path().file_name().unwrap_or_default().to_string_lossy()
        ));
        host.ip(&format!("addr add 10.66.{round}.1/24 dev outer{round}"));
        host.ip(&format!("link set outer{round} up"));
        pod.ip(&format!("addr add 10.66.{round}.2/24 dev eth1"));
        pod.ip("link set eth1 up");
        eventually("the guest answers on the new interface", || {
            host.fetch(&format!("10.66.{round}.2:80")).as_deref() == Some("here")
        });
        let shown = guest("ip link show eth1");
        assert!(shown.contains(&pod.mac("eth1")), "{shown}");
        host.ip(&format!("link del outer{round}"));
        eventually("it goes", || !guest("ip -o link").contains("eth1"));
        eventually("its tap goes", || pod.interfaces().len() == 2);
    }
    assert!(host.fetch("10.55.0.1:8055").is_some(), "eth0 is as it was");
    engine.shows(LATER);
    engine.remove("web");
    cni.remove(&pod, PORT);
}

#[test]
fn interfaces_of_any_kind_and_number() {
    let (host, pod) = (Netns::new("host"), Netns::new("pod"));
    let name = pod.path();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    for number in 0..2 {
        host.ip(&format!(
            "link add outer{number} type veth peer name eth{number} netns {name}"
        ));
        host.ip(&format!("addr add 10.70.{number}.1/24 dev outer{number}"));
        host.ip(&format!("link set outer{number} up"));
        pod.ip(&format!("addr add 10.70.{number}.2/24 dev eth{number}"));
        pod.ip(&format!("link set eth{number} up"));
    }
    // Two interfaces of one cable, of which the container is given the second.
    host.ip("link add cable type veth peer name parent");
    host.ip("link set cable up");
    host.ip("link set parent up");
    host.ip("addr add 10.71.0.1/24 dev cable");
    host.ip("link add link parent name mac0 type macvlan mode bridge");
    host.ip(&format!("link set mac0 netns {name}"));
    pod.ip("addr add 10.71.0.2/24 dev mac0");
    pod.ip("link set mac0 up");
    pod.ip("tuntap add tap0 mode tap");
    pod.ip("addr add 10.72.0.2/24 dev tap0");
    pod.ip("link set tap0 up");

    // A kernel without ipvlan says so; one that has it must be able to join it.
    let mut ipvlan = host.command("ip");
    ipvlan.args([
        "link", "add", "link", "parent", "name", "ip0", "type", "ipvlan",
    ]);
    let ipvlan = output(ipvlan, b"");
    let has_ipvlan = ipvlan.status.success();
    if has_ipvlan {
        host.ip(&format!("link set ip0 netns {name}"));
        pod.ip("link set ip0 up");
    } else {
        let reason = text(&ipvlan.stderr);
        assert!(reason.contains("Unknown device type"), "{reason}");
        eprintln!("this kernel has no ipvlan, which is not tested here: {reason}");
    }

    let engine = Containerd::start(Release::Installed);
    start(&engine, &pod, "web", &serve("here"));
    for address in ["10.70.0.2:80", "10.70.1.2:80", "10.71.0.2:80"] {
        eventually(&format!("the guest serves on {address}"), || {
            host.fetch(address).as_deref() == Some("here")
        });
    }
    let mut names = vec!["eth0", "eth1", "mac0", "tap0"];
    names.extend(has_ipvlan.then_some("ip0"));
    let shown = exec(&engine, "web", "ip addr");
    for name in names {
        assert!(shown.contains(&pod.mac(name)), "{name}: {shown}");
        assert!(shown.contains(&format!(": {name}: ")), "{name}: {shown}");
    }
    engine.remove("web");

    pod.ip("tuntap add tun7 mode tun");
    pod.ip("link set tun7 up");
    let flag = pod.flag();
    let refused = engine.container(&["--with-ns", &flag], "refused", &["true"], b"");
    let reason = text(&refused.stderr);
    assert!(
        !refused.status.success() && reason.contains("tun7 (a tun)"),
        "{reason}"
    );
    engine.ok(&["container", "rm", "refused"]);
    assert!(joined(&pod).is_empty(), "{:?}", joined(&pod));
    engine.shows("interfaces of any kind and number");
}

#[test]
fn what_cannot_be_the_guests_is_refused() {
    let pod = Netns::new("pod");
    let engine = Containerd::start(Release::Installed);
    let refused = engine.container(&["--net-host"], "host", &["true"], b"");
    let reason = text(&refused.stderr);
    assert!(reason.contains("linux.namespaces (network)"), "{reason}");
    assert!(reason.contains("publish"), "what to do instead: {reason}");
    let flags = ["--with-ns", "network:/proc/self/ns/net"];
    let refused = engine.container(&flags, "disguised", &["true"], b"");
    assert_eq!(
        text(&refused.stderr).replace("disguised", "host"),
        reason,
        "the host's by another name"
    );

    start(&engine, &pod, "first", "sleep 1000");
    let flag = pod.flag();
    let second = engine.container(&["--with-ns", &flag], "second", &["true"], b"");
    // A namespace without interfaces is nobody's.
    assert!(second.status.success(), "{second:?}");
    pod.ip("link add eth0 type veth peer name other");
    pod.ip("link set eth0 up");
    eventually("the first has it", || !joined(&pod).is_empty());
    let third = engine.container(&["--with-ns", &flag], "third", &["true"], b"");
    let reason = text(&third.stderr);
    assert!(reason.contains("another virtual machine"), "{reason}");
    engine.remove("first");
    for name in ["host", "disguised", "second", "third"] {
        engine.ok(&["container", "rm", name]);
    }
}

#[test]
fn a_namespace_outlives_its_machines() {
    let (host, pod) = (Netns::new("host"), Netns::new("pod"));
    let cni = Cni::new(&host);
    let [address, _] = cni.add(&pod, PORT);
    let address = address.replace("/24", ":80");
    let engine = Containerd::start(Release::Installed);
    let flag = pod.flag();
    let before = pod.ip("-o addr show");
    for number in 0..20 {
        let name = format!("cycle-{number}");
        let ran = engine.container(
            &["--rm", "--with-ns", &flag],
            &name,
            &["ping", "-c", "1", "10.55.0.1"],
            b"",
        );
        assert!(ran.status.success(), "{ran:?}");
        assert!(joined(&pod).is_empty(), "{:?}", joined(&pod));
    }
    for victim in ["qemu-system", "containerd-shim"] {
        start(&engine, &pod, "victim", &serve("here"));
        eventually("it serves", || host.fetch(&address).is_some());
        let found = engine.processes(&[victim]);
        assert_eq!(found.len(), 1, "{victim}: {found:?}");
        kill(found[0], "KILL");
        eventually("the engine notices", || {
            engine
                .status("victim")
                .is_none_or(|status| status != "RUNNING")
        });
        engine.remove("victim");
        eventually("neither tap nor redirection is left", || {
            joined(&pod).is_empty()
        });
    }
    start(&engine, &pod, "again", &serve("again"));
    eventually("another serves in its place", || {
        host.fetch(&address).as_deref() == Some("again")
    });
    engine.remove("again");
    // The namespace is as the engine made it.
    assert_eq!(pod.ip("-o addr show"), before);
    cni.remove(&pod, PORT);
}

#[test]
fn ctr_makes_a_network_with_plugins_after_the_creation() {
    let host = Netns::new("host");
    let cni = Cni::new(&host);
    let engine = Containerd::start(Release::Installed);
    // ctr looks for plugins and networks in fixed places: in mounts of its own.
    let folder = engine.folder("cni");
    std::fs::write(folder.join("test.conflist"), cni.list().to_string()).expect("written");
    let script = format!(
        "mount -t tmpfs none /opt && mkdir /opt/cni && ln -s /usr/lib/cni /opt/cni/bin && \
         mount -t tmpfs none /etc && mkdir -p /etc/cni && ln -s {} /etc/cni/net.d && exec \"$@\"",
        folder.display()
    );
    let ctr = engine.command(&[
        "run",
        "--rm",
        "--cni",
        "--runtime",
        RUNTIME,
        IMAGE,
        "web",
        "ip",
        "addr",
        "show",
        "eth0",
    ]);
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command.arg(ctr.get_program()).args(ctr.get_args());
    let ran = output(command, b"");
    let shown = text(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(
        shown.contains("inet 10.55.0.2/24 ") && shown.contains("inet6 fd00:55::2/64 "),
        "{ran:?}"
    );
}

#[test]
fn containers_of_a_pod_share_its_network() {
    let pod = Netns::new("pod");
    pod.ip("link add eth0 type veth peer name other");
    pod.ip("addr add 10.73.0.2/24 dev eth0");
    pod.ip("link set eth0 up");
    let engine = Containerd::start(Release::Newest);
    let run = |netns: &str, kind: &str, name: &str, program: &[&str]| {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let flags = ["-d", "--with-ns", netns, "--annotation", &kind];
        let pod = ["--annotation", "io.kubernetes.cri.sandbox-id=pod"];
        let ran = engine.container(&[&flags[..], &pod].concat(), name, program, b"");
        assert!(ran.status.success(), "{ran:?}");
    };
    run(&pod.flag(), "sandbox", "pod", &["never run"]);
    // Kubernetes' way of naming it: by the process that stands for the pod.
    let list = engine.ok(&["task", "ls"]);
    let pid = list
        .lines()
        .last()
        .and_then(|line| line.split_whitespace().nth(1));
    let netns = format!("network:/proc/{}/ns/net", pid.expect("a process"));
    run(&netns, "container", "member", &["sleep", "1000"]);
    let shown = exec(&engine, "member", "ip addr show eth0");
    assert!(shown.contains("10.73.0.2/24"), "{shown}");
    assert!(shown.contains(&pod.mac("eth0")), "{shown}");
    for name in ["member", "pod"] {
        engine.remove(name);
    }
    engine.shows("containers of a pod share its network");
}

#[test]
fn a_guest_sends_as_nobody_else() {
    let engine = Containerd::start(Release::Installed);
    let probe = format!(
        "type=bind,src={},dst=/probe,options=bind:ro",
        programs::probe().display()
    );
    let (own, other) = (Ipv4Addr::new(10, 74, 0, 2), Ipv4Addr::new(10, 74, 0, 3));
    let gateway = Ipv4Addr::new(10, 74, 0, 1);
    // As a CNI plugin leaves it: one end in the pod, one in the host.
    let guest = |anti_spoof: &str| {
        engine.configure(&format!("anti_spoof = {anti_spoof:?}\n"));
        let (host, pod) = (Netns::new("host"), Netns::new("pod"));
        let path = pod.path();
        let name = path.file_name().expect("a name").to_string_lossy();
        host.ip(&format!(
            "link add outer type veth peer name eth0 netns {name}"
        ));
        host.ip("link set outer up");
        pod.ip(&format!("addr add {own}/24 dev eth0"));
        pod.ip("link set eth0 up");
        let with = pod.flag();
        let flags = ["-d", "--with-ns", &with, "--mount", &probe];
        let started = engine.container(&flags, anti_spoof, &["sleep", "1000"], b"");
        assert!(started.status.success(), "{started:?}");
        let mac = frames::mac(&pod.mac("eth0"));
        (host, pod, mac)
    };
    let send = |name: &str, frames: &[Vec<u8>]| {
        let lines: Vec<_> = frames.iter().map(|frame| frames::digits(frame)).collect();
        let command = ["task", "exec", "--exec-id", "send", name];
        let program = ["/probe", "send", "eth0", "1"];
        let sent = engine.run(
            &[&command[..], &program].concat(),
            lines.join("\n").as_bytes(),
        );
        let said = text(&sent.stdout);
        assert!(
            said.starts_with("done sent "),
            "{said}{}",
            text(&sent.stderr)
        );
    };
    let foreign: Mac = [2, 0, 0, 0, 0, 9];
    let forged = |mac: Mac| {
        [
            frames::ipv4(foreign, own, gateway, "no-mac"),
            frames::ipv4(mac, other, gateway, "no-ipv4"),
            frames::arp(mac, 2, (mac, gateway), gateway, "no-arp"),
        ]
    };
    let words = ["no-mac", "no-ipv4", "no-arp"];

    let (host, _pod, mac) = guest("on");
    let listener = Listener::start(&host, "outer");
    send("on", &forged(mac));
    send("on", &[frames::ipv4(mac, own, gateway, "honest")]);
    // Frames do not overtake each other.
    eventually("what is its own arrives", || listener.saw("honest"));
    for word in words {
        assert!(!listener.saw(word), "{word} has arrived");
    }
    engine.remove("on");

    let (host, _pod, mac) = guest("auto");
    let listener = Listener::start(&host, "outer");
    eventually("the engine's network lets all of it pass", || {
        send("auto", &forged(mac));
        words.iter().all(|word| listener.saw(word))
    });
    engine.remove("auto");
    engine.shows("`anti_spoof`: frames of others are not sent");
}

#[test]
fn hooks_find_the_network_by_the_process() {
    let host = Netns::new("host");
    host.ip("link add outer type veth peer name inner");
    let engine = Containerd::start(Release::Newest);
    let rootfs = engine.folder("rootfs");
    std::fs::create_dir(rootfs.join("bin")).expect("a folder");
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static");
    let script = format!(
        "pid=$(grep -o '\"pid\":[0-9]*' | cut -d: -f2)
         nsenter --net={} ip link set inner netns $pid &&
         nsenter --net=/proc/$pid/ns/net sh -ec '
             ip link set inner name eth0
             ip addr add 10.74.0.2/24 dev eth0
             ip link set eth0 up'",
        host.path().display()
    );
    let mut spec: serde_json::Value =
        serde_json::from_str(&engine.ok(&["oci", "spec"])).expect("JSON");
    spec["root"]["path"] = rootfs.to_string_lossy().into();
    spec["process"]["args"] = serde_json::json!(["/bin/busybox", "ip", "addr", "show", "eth0"]);
    spec["process"]["terminal"] = false.into();
    spec["hooks"]["createRuntime"] = serde_json::json!([{
        "path": "/bin/sh",
        "args": ["sh", "-c", script],
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    }]);
    let file = rootfs.with_file_name("config.json");
    std::fs::write(&file, spec.to_string()).expect("written");
    let file = file.to_string_lossy();
    let shown = engine.ok(&[
        "run",
        "--rm",
        "--runtime",
        RUNTIME,
        "--config",
        &file,
        "hooked",
    ]);
    assert!(shown.contains("inet 10.74.0.2/24 "), "{shown}");
}

#[test]
fn a_server_behind_the_bridge_of_docker() {
    let host = Netns::new("host");
    let docker = Docker::start_in(&host);
    let run = |flags: &[&str]| {
        let mut arguments = vec!["run", "-d", "--runtime", RUNTIME];
        arguments.extend(flags);
        let script = "echo here >/index.html; exec httpd -f -p 80 -h /";
        arguments.extend(["busybox:test", "sh", "-c", script]);
        docker.run(&arguments, b"")
    };
    let started = run(&["--name", "web", "-p", "8056:80"]);
    assert!(started.status.success(), "{started:?}");
    let inspect = |format: &str| docker.ok(&["inspect", "--format", format, "web"]);
    let address = inspect("{{.NetworkSettings.Networks.bridge.IPAddress}}");
    let address = format!("{}:80", address.trim());
    // The bridge may just be looking whether its IPv6 address is unique.
    for place in [
        &address,
        "10.56.0.1:8056",
        "[fd00:56::1]:8056",
        "127.0.0.1:8056",
    ] {
        eventually(&format!("the guest serves on {place}"), || {
            host.fetch(place).as_deref() == Some("here")
        });
    }
    let guest = |command: &str| docker.ok(&["exec", "web", "sh", "-c", command]);
    let shown = guest("ip addr show eth0");
    let mac = inspect("{{.NetworkSettings.Networks.bridge.MacAddress}}");
    assert!(shown.contains(mac.trim()), "{mac}: {shown}");
    // Files that the engine binds into containers.
    let hosts = guest("cat /etc/hosts");
    assert!(hosts.contains(address.trim_end_matches(":80")), "{hosts}");
    assert_eq!(guest("cat /etc/hostname"), inspect("{{.Config.Hostname}}"),);
    assert!(guest("cat /etc/resolv.conf").contains("nameserver"));

    docker.ok(&["network", "create", "--subnet", "10.57.0.0/24", "more"]);
    docker.ok(&["network", "connect", "more", "web"]);
    eventually("the guest serves there, too", || {
        host.fetch("10.57.0.2:80").as_deref() == Some("here")
    });
    eventually("so does the network's resolver", || {
        let asked = "grep nameserver /etc/resolv.conf; wget -q -O - http://web/ || true";
        guest(asked) == "nameserver 127.0.0.11\nhere\n"
    });
    docker.ok(&["network", "disconnect", "more", "web"]);
    eventually("the interface goes", || {
        !guest("ip addr").contains("10.57.")
    });
    assert!(
        host.fetch("10.56.0.1:8056").is_some(),
        "the first is as it was"
    );

    for (network, reason) in [
        ("host", "publish"),
        ("container:web", "another virtual machine"),
    ] {
        let refused = run(&["--name", "refused", "--network", network]);
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains(reason), "{said}");
        docker.ok(&["rm", "refused"]);
    }
    for feature in ["Docker's bridge and -p", LATER] {
        engine::shown("Docker 26", feature);
    }
    docker.ok(&["rm", "-f", "web"]);
    docker.ok(&["network", "rm", "more"]);
    eventually("its interfaces are gone", || {
        host.interfaces() == ["docker0"]
    });
}

#[test]
fn containers_of_a_docker_network_find_each_other_by_name() {
    let host = Netns::new("host");
    let docker = Docker::start_in(&host);
    docker.ok(&["network", "create", "--subnet", "10.58.0.0/24", "shop"]);
    let run = |flags: &[&str], script: &str| {
        let begin = ["run", "--network", "shop", "--runtime", RUNTIME];
        let program = ["busybox:test", "sh", "-c", script];
        docker.run(&[&begin[..], flags, &program].concat(), b"")
    };
    let server = "echo here >/index.html; exec httpd -f -p 80 -h /";
    let started = run(&["-d", "--name", "web"], server);
    assert!(started.status.success(), "{started:?}");
    eventually("it serves", || host.fetch("10.58.0.2:80").is_some());
    let client = "cat /etc/resolv.conf; wget -q -O - http://web/; \
                  wget -q -O - http://nobody/ || echo nobody";
    let asked = run(&["--rm"], client);
    let said = text(&asked.stdout);
    assert!(said.contains("nameserver 127.0.0.11\n"), "{asked:?}");
    assert!(said.ends_with("here\nnobody\n"), "{asked:?}");
    docker.ok(&["rm", "-f", "web"]);
    docker.ok(&["network", "rm", "shop"]);
}
