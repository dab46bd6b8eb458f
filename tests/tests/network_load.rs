//! A real server under load, by every way that leads to it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use caisson_end_to_end::http::Client;
use caisson_end_to_end::{COMMAND_DEADLINE, Caisson, eventually, programs, text};
use sha2::{Digest, Sha256};

/// Requests by each way to the server.
const REQUESTS: usize = 2_500;

/// Clients at once.
const CLIENTS: usize = 10;

/// Requests on one connection; then there is a new one.
const PER_CONNECTION: usize = 25;

/// Sends all requests and expects the page each time.
fn ask(address: SocketAddr, page: &str) {
    let client = || {
        let mut left = REQUESTS / CLIENTS;
        while left > 0 {
            let mut connection = Client::connect(address).expect("a connection");
            for _ in 0..left.min(PER_CONNECTION) {
                let (status, body) = connection.get().expect("an answer");
                assert_eq!(status, "HTTP/1.1 200 OK", "{address}, {left} left");
                assert_eq!(body, page);
            }
            left = left.saturating_sub(PER_CONNECTION);
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for client in clients {
            client
                .join()
                .unwrap_or_else(|_| panic!("a client of {address} lost a request"));
        }
    });
}

/// Starts nginx; returns the ways to it, and the page that it has.
fn nginx(caisson: &Caisson, name: &str, flags: &[&str]) -> (Vec<SocketAddr>, String) {
    let command = ["nginx"];
    caisson.ok([&["run", "-d", "--name", name, "-p", "80"], flags, &command].concat());
    let ports = caisson.ok(["port", name, "80"]);
    let ports = ports.lines().map(|line| {
        let port = line.rsplit_once(':').expect("a port").1;
        let host = if line.starts_with('[') {
            "[::1]"
        } else {
            "127.0.0.1"
        };
        format!("{host}:{port}").parse().expect("an address")
    });
    let page = caisson.ok(["exec", name, "cat", "/var/www/html/index.html"]);
    (ports.collect(), page)
}

/// Waits until somebody answers at all.
fn wait_for(address: SocketAddr) {
    let answer = || Client::connect(address)?.get();
    eventually(&format!("{address} answers"), || answer().is_ok());
}

#[test]
fn ten_thousand_requests_lose_none() {
    let caisson = Caisson::without_images();
    let image = programs::image("nginx");
    caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);

    let (mut ways, page) = nginx(&caisson, "user", &[]);
    let (bridge, _) = nginx(&caisson, "bridge", &["--network", "bridge"]);
    ways.extend(bridge.first());
    let settings = &caisson.inspect("bridge")["NetworkSettings"];
    for (field, open, close) in [("IPAddress", "", ""), ("GlobalIPv6Address", "[", "]")] {
        let address = settings[field].as_str().expect("an address");
        ways.push(
            format!("{open}{address}{close}:80")
                .parse()
                .expect("an address"),
        );
    }
    assert!(ways.len() >= 4, "{ways:?}");
    for way in ways {
        wait_for(way);
        ask(way, &page);
    }
    caisson.ok(["rm", "-f", "user", "bridge"]);
}

/// Bytes that are sent each way.
const BULK: usize = 100 << 20;

/// No two places look alike: what is lost, doubled or out of order is seen (Marsaglia, Xorshift
/// RNGs, Journal of Statistical Software 8, 2003).
fn noise() -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(BULK);
    while bytes.len() < BULK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes
}

/// Sends everything, then reads what comes until the end.
fn exchange(address: SocketAddr, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(COMMAND_DEADLINE))?;
    stream.write_all(sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    Ok(received)
}

#[test]
fn bulk_data_arrives_as_it_was_sent() {
    let caisson = Caisson::new();
    // One server says what it was sent by its digest, the other sends a file again and again.
    let file = caisson
        .run(["run", "--rm", "busybox", "cat", "/bin/busybox"])
        .stdout;
    assert!(file.starts_with(b"\x7fELF"));
    let times = BULK.div_ceil(file.len());
    let serve = format!(
        "nc -ll -p 7001 -e sh -c 'read go; for i in $(seq {times}); do cat /bin/busybox; done' & \
         exec nc -ll -p 7000 -e sha256sum"
    );
    let start = |name: &str, flags: &[&str]| {
        let program = ["busybox", "sh", "-c", &serve];
        caisson.ok([&["run", "-d", "--name", name], flags, &program].concat());
    };
    start("user", &["-p", "127.0.0.1::7000", "-p", "127.0.0.1::7001"]);
    start("bridge", &["--network", "bridge"]);
    let published = |port: &str| caisson.ok(["port", "user", port]).trim().to_owned();
    let settings = &caisson.inspect("bridge")["NetworkSettings"];
    let bridge = settings["IPAddress"].as_str().expect("an address");
    let sent = noise();
    let digest = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
    for (to, from) in [
        (published("7000"), published("7001")),
        (format!("{bridge}:7000"), format!("{bridge}:7001")),
    ] {
        let (to, from) = (
            to.parse().expect("an address"),
            from.parse().expect("an address"),
        );
        eventually(&format!("{to} answers"), || {
            exchange(to, b"?").is_ok_and(|answer| !answer.is_empty())
        });
        let answer = exchange(to, &sent).expect("a digest");
        assert_eq!(
            text(&answer).split(' ').next(),
            Some(&*digest(&sent)),
            "{to}"
        );
        let received = exchange(from, b"go\n").expect("a file");
        assert_eq!(received.len(), times * file.len(), "{from}");
        assert!(
            received.chunks(file.len()).all(|chunk| chunk == file),
            "{from}"
        );
    }
    caisson.ok(["rm", "-f", "user", "bridge"]);
}
