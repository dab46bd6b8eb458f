//! Networks: the user-mode one, none, and those of CNI plugins.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{Caisson, eventually, kill, programs, resolve_nothing, text};

/// How long a single exchange may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A web server in the guest that says who it is.
fn serve(word: &str) -> String {
    format!("echo {word} >/tmp/index.html; exec httpd -f -p 80 -h /tmp")
}

/// What a server answers; nothing if it does not, or not yet.
fn fetch(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 OK").then(|| body.trim().to_owned())
}

/// Starts a web server and returns the host's port that leads to it.
fn server(caisson: &Caisson, name: &str, flags: &[&str]) -> String {
    let script = serve(name);
    let command = ["busybox", "sh", "-c", &script];
    caisson.ok([&["run", "-d", "--name", name], flags, &command].concat());
    let ports = caisson.ok(["port", name, "80"]);
    let first = ports.lines().next().expect("a port");
    first
        .rsplit_once(':')
        .expect("an address and a port")
        .1
        .to_owned()
}

/// Runs a command of the host that must succeed.
fn host(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6")
        .is_ok_and(|text| text.lines().any(|line| line.contains(" 20 ")))
}

#[test]
fn published_ports_are_reached_over_both_families() {
    let caisson = Caisson::new();
    let port = server(&caisson, "web", &["-p", "80"]);
    eventually("the guest serves", || {
        fetch(&format!("127.0.0.1:{port}")).is_some()
    });
    for _ in 0..50 {
        assert_eq!(fetch(&format!("127.0.0.1:{port}")).as_deref(), Some("web"));
    }
    if has_ipv6() {
        assert_eq!(fetch(&format!("[::1]:{port}")).as_deref(), Some("web"));
    }
    let settings = &caisson.inspect("web")["NetworkSettings"];
    assert_eq!(settings["Ports"]["80/tcp"][0]["HostPort"], port.as_str());
    assert_eq!(settings["IPAddress"], "10.0.2.15");

    // A stop frees the port, and a start publishes one again.
    caisson.ok(["stop", "-t", "0", "web"]);
    let error = TcpStream::connect(format!("127.0.0.1:{port}")).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    caisson.ok(["start", "web"]);
    let ports = caisson.ok(["port", "web", "80/tcp"]);
    let again = ports
        .lines()
        .next()
        .expect("a port")
        .replace("0.0.0.0", "127.0.0.1");
    eventually("it serves again", || {
        fetch(&again).as_deref() == Some("web")
    });
}

#[test]
fn nobody_waits_for_a_server_that_is_not_there() {
    let caisson = Caisson::new();
    caisson.ok([
        "run",
        "-d",
        "--name",
        "idle",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sleep",
        "1000",
    ]);
    let address = caisson.ok(["port", "idle", "80"]);
    let mut stream = TcpStream::connect(address.trim()).expect("the stack accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => {}
        Ok(_) => panic!("somebody answered"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

/// As mail, FTP and MySQL do. The client says nothing until it has read.
#[test]
fn a_server_may_speak_first() {
    let caisson = Caisson::new();
    let script = "nc -ll -p 7000 -e echo welcome & wait";
    let command = ["busybox", "sh", "-c", script];
    let flags = ["run", "-d", "--name", "host", "-p", "127.0.0.1::7000"];
    caisson.ok(flags.iter().chain(&command));
    let address = caisson.ok(["port", "host", "7000"]);
    let mut said = String::new();
    eventually("the server speaks", || {
        said.clear();
        let Ok(mut stream) = TcpStream::connect(address.trim()) else {
            return false;
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        // Until it listens, connections are reset.
        stream
            .read_to_string(&mut said)
            .is_ok_and(|length| length > 0)
    });
    assert_eq!(said, "welcome\n");
}

#[test]
fn a_port_is_published_once() {
    let caisson = Caisson::new();
    let port = server(&caisson, "first", &["-p", "127.0.0.1::80"]);
    let publish = format!("127.0.0.1:{port}:80");
    let error = caisson.fails(125, ["run", "--rm", "-p", &publish, "busybox", "true"]);
    assert!(
        error.contains(&publish) && error.contains("somebody else"),
        "{error}"
    );
    let twice = ["run", "--rm", "-p", "9:80", "-p", "9:81", "busybox", "true"];
    assert!(caisson.fails(125, twice).contains("twice"));
}

/// An address of the host besides its loopback.
struct HostAddress {
    link: String,
    address: String,
}

impl HostAddress {
    fn new() -> Self {
        /// Tests run side by side.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let link = format!("ct{}x{number}", std::process::id());
        host(
            "ip",
            &format!("link add {link} type veth peer name {link}p"),
        );
        // A network for tests (RFC 2544), with an address for each test of each process: it is
        // the host's, and others may be at it as well.
        let [_, first, second, third] = (std::process::id().wrapping_mul(8) + number).to_be_bytes();
        let made = Self {
            link,
            address: format!("198.{}.{second}.{third}", 18 + first % 2),
        };
        host(
            "ip",
            &format!("addr add {}/32 dev {}", made.address, made.link),
        );
        host("ip", &format!("link set {} up", made.link));
        made
    }
}

impl Drop for HostAddress {
    fn drop(&mut self) {
        host("ip", &format!("link del {}", self.link));
    }
}

/// What a script begins with that connects: an input without an end. With the end of its input,
/// the client would end the connection.
const OPEN_INPUT: &str = "mkfifo /tmp/open; exec 3<>/tmp/open\n";

/// A line that connects, and waits so many seconds for an answer.
fn connect(address: &str, port: u16, patience: u64) -> String {
    format!("timeout -s KILL {patience} nc {address} {port} <&3 2>/dev/null || echo refused\n")
}

/// Sends one line to whoever connects.
fn say(listener: TcpListener, line: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // The other end may be gone.
            let _ = stream.and_then(|mut stream| stream.write_all(line.as_bytes()));
        }
    });
}

#[test]
fn the_guest_reaches_others_but_not_the_hosts_loopback() {
    let caisson = Caisson::new();
    let ours = HostAddress::new();
    let reachable = TcpListener::bind((ours.address.as_str(), 0)).expect("a port");
    let hidden = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let (open, closed) = (port(&reachable), port(&hidden));
    say(reachable, "welcome\n");
    say(hidden, "secret\n");
    let script = [
        OPEN_INPUT.to_owned(),
        connect(&ours.address, open, PATIENCE.as_secs()),
        connect("127.0.0.1", closed, 3),
        connect("10.0.2.2", closed, 3),
        connect("127.0.0.2", closed, 3),
        // Routes can be changed by whoever is root in the guest.
        "ip route add 127.0.0.0/8 dev eth0 table local 2>/dev/null || true\n".to_owned(),
        connect("127.0.0.1", closed, 3),
    ];
    let printed = caisson.shell(&["--privileged"], &script.concat());
    assert_eq!(printed.replace("refused\n", ""), "welcome\n");
}

#[test]
fn datagrams_come_and_go() {
    let caisson = Caisson::new();
    let ours = HostAddress::new();
    let resolver = UdpSocket::bind((ours.address.as_str(), 53)).expect("port 53");
    resolve_nothing(resolver);
    // It waits for seconds; the network process may not have started by then.
    let ask = format!("nslookup no.example {} 2>&1", ours.address);
    let script = format!("for i in $(seq 12); do {ask} | grep NXDOMAIN && break; done");
    let printed = caisson.shell(&[], &script);
    assert!(printed.contains("NXDOMAIN"), "{printed}");
}

#[test]
fn rules_say_where_a_guest_may_connect_to() {
    let caisson = Caisson::new();
    let ours = HostAddress::new();
    let listeners =
        [(); 2].map(|()| TcpListener::bind((ours.address.as_str(), 0)).expect("a port"));
    let [first, second] = listeners.map(|listener| {
        let port = listener.local_addr().expect("an address").port();
        say(listener, "welcome\n");
        port
    });
    let reached = |flags: &[&str], patience: [u64; 2]| {
        let lines = [(first, patience[0]), (second, patience[1])]
            .map(|(port, patience)| connect(&ours.address, port, patience));
        caisson.shell(flags, &[OPEN_INPUT, &lines.concat()].concat())
    };
    let place = format!("{}:{first}", ours.address);
    let long = PATIENCE.as_secs();
    // What is refused gets no answer, however long it is waited for.
    let allowed = reached(&["--allow", &place], [long, 2]);
    assert_eq!(allowed, "welcome\nrefused\n");
    let denied = reached(&["--deny", &place], [2, long]);
    assert_eq!(denied, "refused\nwelcome\n");
    // Answers are no connections.
    let port = server(&caisson, "web", &["--deny", "all", "-p", "127.0.0.1::80"]);
    eventually("it serves", || {
        fetch(&format!("127.0.0.1:{port}")).as_deref() == Some("web")
    });
    let hosts = caisson.shell(&["--allow", "localhost:9"], "cat /etc/hosts");
    assert!(hosts.contains("127.0.0.1\tlocalhost"), "{hosts}");
    let bridge = [
        "run",
        "--network",
        "bridge",
        "--deny",
        "all",
        "busybox",
        "true",
    ];
    assert!(caisson.fails(125, bridge).contains("--network user"));
}

#[test]
fn without_a_network_there_is_the_loopback_only() {
    let caisson = Caisson::new();
    let printed = caisson.shell(&["--network", "none"], "ls /sys/class/net; ip route");
    assert_eq!(printed, "lo\n");
    let error = caisson.fails(125, ["run", "--network", "host", "busybox", "true"]);
    assert!(error.contains("kernel of its own"), "{error}");
    let error = caisson.fails(125, ["run", "--network", "container:x", "busybox", "true"]);
    assert!(error.contains("virtual machine of its own"), "{error}");
}

#[test]
fn resolvers_are_those_that_are_asked_for() {
    let caisson = Caisson::new();
    let flags = [
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "a.example",
        "--dns-option",
        "ndots:2",
    ];
    assert_eq!(
        caisson.shell(&flags, "cat /etc/resolv.conf"),
        "nameserver 192.0.2.53\nsearch a.example\noptions ndots:2\n"
    );
}

#[test]
fn traffic_is_counted() {
    let caisson = Caisson::new();
    let port = server(&caisson, "web", &["-p", "127.0.0.1::80"]);
    eventually("it serves", || {
        fetch(&format!("127.0.0.1:{port}")).is_some()
    });
    let line = caisson.ok(["stats", "--no-stream", "--format", "json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let interface = &stats["Stats"]["interfaces"][0];
    assert_eq!(interface["name"], "eth0");
    assert!(interface["receivedPackets"].as_u64() > Some(0), "{line}");
    assert!(interface["sentBytes"].as_u64() > Some(0), "{line}");
}

/// An installation whose host is a namespace: the bridge there is this test's own, and so is all
/// that a container could leave.
fn on_a_host_of_its_own(host: &Netns) -> Caisson {
    let caisson = Caisson::inside(host);
    let image = programs::demo_image();
    caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
    caisson
}

fn id(caisson: &Caisson, name: &str) -> String {
    let found = caisson.inspect(name);
    found["Id"].as_str().expect("an id").to_owned()
}

fn supervisor(caisson: &Caisson, name: &str) -> u32 {
    let pid = caisson.inspect(name)["SupervisorPid"].as_u64();
    pid.and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

#[test]
fn containers_on_a_bridge_are_neighbours() {
    let host = Netns::new("host");
    let caisson = on_a_host_of_its_own(&host);
    let port = server(&caisson, "one", &["--network", "bridge", "-p", "80"]);
    let settings = caisson.inspect("one")["NetworkSettings"].clone();
    let address = settings["IPAddress"]
        .as_str()
        .expect("an address")
        .to_owned();
    let web = format!("{address}:80");
    eventually("it serves", || host.fetch(&web).as_deref() == Some("one"));
    assert_eq!(
        host.fetch(&format!("127.0.0.1:{port}")).as_deref(),
        Some("one"),
        "a port mapping"
    );
    let ipv6 = settings["GlobalIPv6Address"].as_str().expect("an address");
    // The bridge may be new, and just be looking whether its address is unique.
    eventually("it serves over IPv6", || {
        host.fetch(&format!("[{ipv6}]:80")).as_deref() == Some("one")
    });

    // The host's bridge has learnt the guest's own hardware address.
    let mac = settings["MacAddress"].as_str().expect("a hardware address");
    let neighbours = host.ip(&format!("neigh show {address}"));
    assert!(neighbours.contains(mac), "{neighbours}");
    let guest = caisson.ok(["exec", "one", "ip", "addr", "show", "eth0"]);
    assert!(guest.contains(&format!("link/ether {mac}")), "{guest}");
    assert!(guest.contains(&format!("inet {address}/16 ")), "{guest}");
    assert!(guest.contains("mtu 1500"), "{guest}");

    let script = format!(
        "ping -c 1 {address} >/dev/null && echo pong\n\
         wget -q -O - http://{address}/"
    );
    let printed = caisson.shell(&["--network", "bridge"], &script);
    assert_eq!(printed, "pong\none\n");
    let ids = [id(&caisson, "one")];
    assert!(!host.left_on_bridge(&ids).is_empty());
    caisson.ok(["rm", "-f", "one"]);
    eventually("nothing is left", || host.left_on_bridge(&ids).is_empty());
}

#[test]
fn nothing_is_left_of_a_supervisor_that_was_killed() {
    let host = Netns::new("host");
    let caisson = on_a_host_of_its_own(&host);
    server(
        &caisson,
        "lost",
        &["--network", "bridge", "-p", "127.0.0.1::80"],
    );
    let ids = [id(&caisson, "lost")];
    assert!(!host.left_on_bridge(&ids).is_empty());
    kill(supervisor(&caisson, "lost"), "KILL");
    eventually("it is seen to be dead", || {
        caisson.inspect("lost")["State"]["Status"] == "dead"
    });
    caisson.ok(["rm", "lost"]);
    eventually("nothing is left", || host.left_on_bridge(&ids).is_empty());
}

#[test]
fn passt_ends_with_a_supervisor_that_was_killed() {
    let caisson = Caisson::new();
    server(&caisson, "user", &["-p", "127.0.0.1::80"]);
    let supervisor = supervisor(&caisson, "user");
    let passt: u32 = host("pgrep", &format!("-P {supervisor} passt"))
        .trim()
        .parse()
        .expect("one process");
    kill(supervisor, "KILL");
    eventually("passt has ended", || !caisson.processes().contains(&passt));
}

#[test]
fn networks_that_do_not_exist_are_named() {
    let caisson = Caisson::new();
    let error = caisson.fails(
        125,
        ["run", "--rm", "--network", "no-such", "busybox", "true"],
    );
    assert!(
        error.contains("no-such") && error.contains("/etc/cni/net.d"),
        "{error}"
    );
}
