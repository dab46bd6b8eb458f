//! A real server under load, by every way that leads to it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use caisson_end_to_end::{Caisson, eventually, programs};

/// Requests by each way to the server.
const REQUESTS: usize = 2_500;

/// Clients at once.
const CLIENTS: usize = 10;

/// Requests on one connection; then there is a new one.
const PER_CONNECTION: usize = 25;

/// How long a single exchange may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection and what comes over it.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The status line and the body of the page.
    fn get(&mut self) -> std::io::Result<(String, String)> {
        self.0
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n")?;
        let mut status = String::new();
        self.0.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().map_err(std::io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let body = String::from_utf8(body).map_err(std::io::Error::other)?;
        Ok((status.trim_end().to_owned(), body))
    }
}

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
