//! What is measured, and the clients that do so.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use caisson_end_to_end::http::Client;
use caisson_end_to_end::netns::Netns;
use caisson_end_to_end::{eventually, output, text};

/// Requests whose latency is measured each time, and those before them.
const REQUESTS: usize = 50;
const WARM_UP: usize = 10;

/// Where a container's servers are reached from a network namespace.
#[derive(Clone, Copy)]
pub struct Servers {
    pub web: SocketAddr,
    pub iperf: SocketAddr,
}

/// Something to measure.
#[derive(Clone, Copy)]
pub enum Measure {
    /// Milliseconds of a request, with its own connection or on one that is there.
    Latency { keep: bool },
    /// Requests per second.
    Requests { connections: u32, seconds: u32 },
    /// Gbit/s to the container, or from it.
    Bulk {
        connections: u32,
        seconds: u32,
        from: bool,
    },
}

impl Measure {
    pub fn all(connections: &[u32], seconds: u32) -> Vec<Self> {
        let latencies = [false, true].map(|keep| Self::Latency { keep });
        let requests = connections.iter().map(|&connections| Self::Requests {
            connections,
            seconds,
        });
        let bulk = Self::bulk(connections, seconds);
        latencies.into_iter().chain(requests).chain(bulk).collect()
    }

    pub fn bulk(connections: &[u32], seconds: u32) -> Vec<Self> {
        let ways = [false, true].into_iter();
        ways.flat_map(|from| {
            connections.iter().map(move |&connections| Self::Bulk {
                connections,
                seconds,
                from,
            })
        })
        .collect()
    }

    /// Measures once; a latency gives as many samples as there are requests.
    pub fn take(self, client: &Netns, servers: Servers) -> Vec<f64> {
        match self {
            Self::Latency { keep } => client.inside(|| latencies(servers.web, keep)),
            Self::Requests {
                connections,
                seconds,
            } => vec![requests(client, servers.web, connections, seconds)],
            Self::Bulk {
                connections,
                seconds,
                from,
            } => vec![bulk(client, servers.iperf, connections, seconds, from)],
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency { keep: false } => write!(to, "ms to answer, new connection"),
            Self::Latency { keep: true } => write!(to, "ms to answer, kept connection"),
            Self::Requests { connections, .. } => write!(to, "requests/s, {connections} at once"),
            Self::Bulk {
                connections, from, ..
            } => {
                let way = if *from { "from" } else { "to" };
                write!(to, "Gbit/s {way} the container, {connections} at once")
            }
        }
    }
}

fn latencies(server: SocketAddr, keep: bool) -> Vec<f64> {
    let mut kept = None;
    let mut times = Vec::new();
    for number in 0..WARM_UP + REQUESTS {
        let begin = Instant::now();
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(server).expect("a connection"),
        };
        let (status, _) = client.get().expect("an answer");
        let time = begin.elapsed().as_secs_f64() * 1e3;
        assert_eq!(status, "HTTP/1.1 200 OK");
        if number >= WARM_UP {
            times.push(time);
        }
        kept = keep.then_some(client);
    }
    times
}

/// wrk(1) says how many there were.
fn requests(client: &Netns, server: SocketAddr, connections: u32, seconds: u32) -> f64 {
    let shown = client.run(
        "wrk",
        &format!("-t 1 -c {connections} -d {seconds} --timeout 30 http://{server}/"),
    );
    for failure in ["Socket errors", "Non-2xx"] {
        assert!(!shown.contains(failure), "{server}: {shown}");
    }
    let rate = shown
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate = rate.and_then(|rate| rate.trim().parse().ok());
    rate.unwrap_or_else(|| panic!("no rate: {shown}"))
}

/// iperf3(1), what arrived.
fn bulk(client: &Netns, server: SocketAddr, connections: u32, seconds: u32, from: bool) -> f64 {
    let mut rate = None;
    let mut shown = String::new();
    // Its server does not listen for a moment after each client.
    eventually(&format!("iperf3 measures {server}"), || {
        let mut command = client.command("iperf3");
        command
            .args(["--json", "--client", &server.ip().to_string()])
            .args(["--port", &server.port().to_string()])
            .args(["--parallel", &connections.to_string()])
            .args(["--time", &seconds.to_string()])
            .args(from.then_some("--reverse"));
        shown = text(&output(command, b"").stdout);
        let report: serde_json::Value = serde_json::from_str(&shown).unwrap_or_default();
        rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        rate.is_some_and(|rate| rate > 0.0)
    });
    rate.unwrap_or_else(|| panic!("no rate: {shown}")) / 1e9
}
