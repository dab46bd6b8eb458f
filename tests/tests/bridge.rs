//! Guests on a bridge, and what they can do to their neighbours. A network namespace stands
//! for the host, so that all that is found there is these tests' own.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};

use caisson_end_to_end::frames::{self, Listener, Mac};
use caisson_end_to_end::image::{Image, Layer};
use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{Caisson, eventually, output, programs, text};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xca15, 0x87, 0, 0, 0, 0, 1);

/// Addresses of a neighbour that is no container; plugins hand out low ones first.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 87, 255, 250);
const NEIGHBOUR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xca15, 0x87, 0, 0, 0, 0xff, 250);

/// `busybox` with the program that sends frames.
fn load(caisson: &Caisson) {
    let probe = std::fs::read(programs::probe()).expect("the probe");
    let path = caisson.folder("image").join("image.tar");
    Image::on_busybox("attacker:1")
        .layer(Layer::new().bytes("probe", 0o755, &probe))
        .save_as_docker(&path);
    caisson.ok(["load", "-q", "-i", &path.to_string_lossy()]);
}

/// A container on the bridge.
struct Guest {
    name: &'static str,
    mac: Mac,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl Guest {
    fn start(caisson: &Caisson, name: &'static str, anti_spoof: &str, script: &str) -> Self {
        let begin = ["run", "-d", "--name", name, "--network", "bridge"];
        let command = ["attacker:1", "sh", "-c", script];
        let mut command = caisson.command(begin.iter().chain(&command));
        command.env("CAISSON_ANTI_SPOOF", anti_spoof);
        let started = output(command, b"");
        assert!(started.status.success(), "{}", text(&started.stderr));
        let settings = caisson.inspect(name)["NetworkSettings"].take();
        let field = |name: &str| settings[name].as_str().expect(name).to_owned();
        Self {
            name,
            mac: frames::mac(&field("MacAddress")),
            ipv4: field("IPAddress").parse().expect("an address"),
            ipv6: field("GlobalIPv6Address").parse().expect("an address"),
        }
    }

    /// Sends frames out of the guest, all of them some times over.
    fn send(&self, caisson: &Caisson, frames: &[Vec<u8>], times: u32) {
        let lines: Vec<_> = frames.iter().map(|frame| frames::digits(frame)).collect();
        let times = times.to_string();
        let command = ["exec", "-i", self.name, "/probe", "send", "eth0", &times];
        let sent = caisson.run_with_input(command, lines.join("\n").as_bytes());
        let said = text(&sent.stdout);
        assert!(
            said.starts_with("done sent "),
            "{said}{}",
            text(&sent.stderr)
        );
    }
}

/// A namespace on the bridge of the host, with addresses of its own.
fn neighbour(host: &Netns) -> Netns {
    let neighbour = Netns::new("neighbour");
    let name = neighbour.path();
    let name = name.file_name().expect("a name").to_string_lossy();
    host.ip(&format!(
        "link add outer type veth peer name eth0 netns {name}"
    ));
    host.ip("link set outer master caisson0");
    host.ip("link set outer up");
    neighbour.ip(&format!("addr add {NEIGHBOUR}/16 dev eth0"));
    neighbour.ip(&format!("addr add {NEIGHBOUR_V6}/64 dev eth0 nodad"));
    neighbour.ip("link set eth0 up");
    neighbour
}

/// The hardware address that a namespace has learnt for another's address.
fn learnt(place: &Netns, address: IpAddr) -> Option<Mac> {
    let shown = place.ip(&format!("neigh show {address}"));
    let (_, after) = shown.split_once(" lladdr ")?;
    after.split(' ').next().map(frames::mac)
}

/// Lets a namespace find out where an address is.
fn learn(place: &Netns, address: IpAddr) {
    eventually(&format!("{address} is found"), || {
        // Whether anybody listens there does not matter.
        let _ = place.fetch(&std::net::SocketAddr::new(address, 9).to_string());
        learnt(place, address).is_some()
    });
}

/// What a guest may say of itself.
fn honest(guest: &Guest) -> Vec<(&'static str, Vec<u8>)> {
    let Guest {
        mac, ipv4, ipv6, ..
    } = *guest;
    vec![
        ("own-ipv4", frames::ipv4(mac, ipv4, NEIGHBOUR, "own-ipv4")),
        ("own-arp", frames::arp(mac, 1, (mac, ipv4), ipv4, "own-arp")),
        (
            "own-advert",
            frames::discovery(mac, 136, ipv6, ipv6, mac, "own-advert"),
        ),
        (
            "own-question",
            frames::discovery(mac, 135, ipv6, NEIGHBOUR_V6, mac, "own-question"),
        ),
    ]
}

/// What it must not say: it pretends to be the gateway, or somebody else.
fn forged(guest: &Guest) -> Vec<(&'static str, Vec<u8>)> {
    let Guest {
        mac, ipv4, ipv6, ..
    } = *guest;
    let foreign = [2, 0, 0, 0, 0, 0x99];
    let other = Ipv4Addr::new(10, 87, 99, 99);
    let other_v6 = Ipv6Addr::new(0xfd00, 0xca15, 0x87, 0, 0, 0, 0x99, 0x99);
    let tagged = frames::ipv4(mac, ipv4, NEIGHBOUR, "a-tag");
    vec![
        ("no-mac", frames::ipv4(foreign, ipv4, NEIGHBOUR, "no-mac")),
        ("no-ipv4", frames::ipv4(mac, other, NEIGHBOUR, "no-ipv4")),
        (
            "no-ipv6",
            frames::discovery(mac, 135, other_v6, NEIGHBOUR_V6, mac, "no-ipv6"),
        ),
        (
            "gateway-arp",
            frames::arp(mac, 2, (mac, GATEWAY), GATEWAY, "gateway-arp"),
        ),
        (
            "foreign-arp",
            frames::arp(mac, 1, (foreign, ipv4), NEIGHBOUR, "foreign-arp"),
        ),
        (
            "gateway-advert",
            frames::discovery(mac, 136, ipv6, GATEWAY_V6, mac, "gateway-advert"),
        ),
        (
            "a-router",
            frames::discovery(mac, 134, ipv6, ipv6, mac, "a-router"),
        ),
        (
            "a-tag",
            frames::frame(mac, 0x8100, &[&[0, 5], &tagged[12..]].concat(), ""),
        ),
        ("a-bridge", frames::frame(mac, 0x88cc, &[0; 20], "a-bridge")),
    ]
}

fn bytes(frames: &[(&'static str, Vec<u8>)]) -> Vec<Vec<u8>> {
    frames.iter().map(|(_, frame)| frame.clone()).collect()
}

#[test]
fn a_guest_is_nobody_but_itself() {
    let host = Netns::new("host");
    let caisson = Caisson::inside(&host);
    load(&caisson);
    let guest = Guest::start(&caisson, "honest", "auto", "sleep 1000");
    let free = Guest::start(&caisson, "free", "off", "sleep 1000");
    let neighbour = neighbour(&host);
    let gateways = [IpAddr::V4(GATEWAY), IpAddr::V6(GATEWAY_V6)];
    for gateway in gateways {
        learn(&neighbour, gateway);
    }
    let bridge = frames::mac(&host.mac("caisson0"));
    let listener = Listener::start(&neighbour, "eth0");

    guest.send(&caisson, &bytes(&forged(&guest)), 1);
    guest.send(&caisson, &bytes(&honest(&guest)), 1);
    // Frames do not overtake each other.
    for (word, _) in honest(&guest) {
        eventually(&format!("{word} arrives"), || listener.saw(word));
    }
    for (word, _) in forged(&guest) {
        assert!(!listener.saw(word), "{word} has arrived");
    }
    for gateway in gateways {
        assert_eq!(learnt(&neighbour, gateway), Some(bridge), "{gateway}");
    }

    // Without the guard, all of it works.
    eventually("what is forged arrives", || {
        free.send(&caisson, &bytes(&forged(&free)), 1);
        let arrived = forged(&free).iter().all(|(word, _)| listener.saw(word));
        let mut learnt = gateways.iter().map(|gateway| learnt(&neighbour, *gateway));
        arrived && learnt.all(|mac| mac == Some(free.mac))
    });
    caisson.ok(["rm", "-f", "honest", "free"]);
}

#[test]
fn the_hosts_loopback_is_out_of_reach() {
    let host = Netns::new("host");
    let caisson = Caisson::inside(&host);
    load(&caisson);
    let say = |address: &str, word: &'static str| {
        let listener = host.inside(|| TcpListener::bind(address).expect("a port"));
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // The other end may be gone.
                let _ = stream.and_then(|mut stream| stream.write_all(word.as_bytes()));
            }
        });
        port
    };
    let hidden = say("127.0.0.1:0", "secret\n");
    let hidden_v6 = say("[::1]:0", "secret\n");
    let (open, open_v6) = (say("0.0.0.0:0", "ipv4\n"), say("[::]:0", "ipv6\n"));
    // With a published port, portmap lets packets for 127.0.0.0/8 into the host's stack.
    let flags = [
        "run",
        "-d",
        "--name",
        "box",
        "--privileged",
        "-p",
        "8080:80",
    ];
    let command = ["--network", "bridge", "attacker:1", "sleep", "1000"];
    caisson.ok(flags.iter().chain(&command));
    let routed = "/proc/sys/net/ipv4/conf/caisson0/route_localnet";
    assert_eq!(host.run("cat", routed), "1\n");

    // Whoever is root in the guest says what its own loopback is.
    caisson.ok([
        "exec",
        "box",
        "sh",
        "-ec",
        "ip addr del 127.0.0.1/8 dev lo\n\
         ip addr del ::1/128 dev lo\n\
         ip route add 127.0.0.0/8 via 10.87.0.1\n\
         ip -6 route add ::1/128 via fd00:ca15:87::1",
    ]);
    let connect = |address: &str, port: u16| {
        // Standard input stays open: with its end, the client would end the connection.
        let script = format!("sleep 2 | timeout -s KILL 3 nc {address} {port} 2>/dev/null || true");
        caisson.ok(["exec", "box", "sh", "-c", &script])
    };
    eventually("the host is reached", || {
        connect("10.87.0.1", open) == "ipv4\n"
    });
    eventually("the host is reached over IPv6", || {
        connect("fd00:ca15:87::1", open_v6) == "ipv6\n"
    });
    for (address, port) in [
        ("127.0.0.1", hidden),
        ("127.0.0.1", open),
        ("10.87.0.1", hidden),
        ("::1", hidden_v6),
        ("::1", open_v6),
        ("fd00:ca15:87::1", hidden_v6),
    ] {
        assert_eq!(connect(address, port), "", "{address}, port {port}");
    }
    caisson.ok(["rm", "-f", "box"]);
}

/// Addresses of the bridge's networks that nobody has.
fn strangers() -> impl Iterator<Item = (Ipv4Addr, Ipv6Addr)> {
    (1..=64).map(|number| {
        (
            Ipv4Addr::new(10, 87, 200, number),
            Ipv6Addr::new(0xfd00, 0xca15, 0x87, 0, 0, 0, 0x200, number.into()),
        )
    })
}

/// Questions in the name of hosts that are not there, which fill the tables of whoever is
/// asked, and frames that are none.
fn flood(guest: &Guest) -> Vec<Vec<u8>> {
    let mac = guest.mac;
    let questions = strangers().flat_map(|(ipv4, ipv6)| {
        [
            frames::arp(mac, 1, (mac, ipv4), GATEWAY, ""),
            frames::arp(mac, 2, (mac, ipv4), NEIGHBOUR, ""),
            frames::discovery(mac, 135, ipv6, GATEWAY_V6, mac, ""),
            frames::discovery(mac, 136, ipv6, ipv6, mac, ""),
        ]
    });
    let whole = [bytes(&honest(guest)), bytes(&forged(guest))].concat();
    let cut = whole.iter().flat_map(|frame| {
        let lengths = [14, 15, 21, 33, 41, 53, 60];
        let fitting = lengths.into_iter().filter(|length| *length < frame.len());
        fitting.map(|length| frame[..length].to_vec())
    });
    let damaged = whole.iter().flat_map(|frame| {
        (14..40_usize).step_by(3).map(|place| {
            let mut frame = frame.clone();
            frame[place] ^= 0xff;
            frame
        })
    });
    questions.chain(cut).chain(damaged).collect()
}

/// How many neighbours a namespace knows on an interface.
fn known(place: &Netns, interface: &str) -> usize {
    let ipv4 = place.ip(&format!("-4 neigh show dev {interface}"));
    let ipv6 = place.ip(&format!("-6 neigh show dev {interface}"));
    ipv4.lines().count() + ipv6.lines().count()
}

#[test]
fn a_flood_changes_nothing_for_the_neighbours() {
    /// Rounds of some six hundred frames.
    const ROUNDS: u32 = 30;
    let host = Netns::new("host");
    let caisson = Caisson::inside(&host);
    load(&caisson);
    let attacker = Guest::start(&caisson, "attacker", "auto", "sleep 1000");
    let free = Guest::start(&caisson, "free", "off", "sleep 1000");
    let serve = "echo web >/tmp/index.html; exec httpd -f -p 80 -h /tmp";
    let web = Guest::start(&caisson, "web", "auto", serve);
    let neighbour = neighbour(&host);
    let places = [format!("{}:80", web.ipv4), format!("[{}]:80", web.ipv6)];
    for place in &places {
        eventually("it serves", || neighbour.fetch(place).is_some());
    }

    let (mut answers, over) = (0, AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            attacker.send(&caisson, &flood(&attacker), ROUNDS);
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) || answers < 100 {
            for place in &places {
                assert_eq!(neighbour.fetch(place).as_deref(), Some("web"), "{place}");
                answers += 1;
            }
        }
    });
    for address in [IpAddr::V4(web.ipv4), IpAddr::V6(web.ipv6)] {
        assert_eq!(learnt(&neighbour, address), Some(web.mac), "{address}");
    }
    for (ipv4, ipv6) in strangers() {
        for place in [&host, &neighbour] {
            assert_eq!(learnt(place, ipv4.into()), None);
            assert_eq!(learnt(place, ipv6.into()), None);
        }
    }

    // Without the guard, the tables fill.
    eventually("strangers are known", || {
        free.send(&caisson, &flood(&free), 1);
        known(&host, "caisson0") > 64
    });
    caisson.ok(["rm", "-f", "attacker", "free", "web"]);
}
