//! runc and Caisson, through an engine and alone.

use std::net::SocketAddr;

use caisson_end_to_end::engine::{Containerd, RUNTIME, Release};
use caisson_end_to_end::http::Client;
use caisson_end_to_end::netns::{Cni, Netns};
use caisson_end_to_end::{Caisson, eventually, programs};

use crate::measure::{Measure, Servers};
use crate::table::{self, Column};

/// runc's runtime.
const RUNC: &str = "io.containerd.runc.v2";

/// Name of the image with the servers, in `caisson`.
pub const IMAGE: &str = "network";

/// Ports of the servers.
const WEB: u16 = 80;
const IPERF: u16 = 5201;

/// Measures them side by side.
pub fn compare(measures: &[Measure], rounds: usize) {
    let image = programs::packed_image(IMAGE);
    // Stands for the host: the clients are in it, and what leads to the containers.
    let host = Netns::new("host");
    let pods = [Netns::new("runc"), Netns::new("caisson")];
    let cni = Cni::new(&host);
    let engine = Containerd::start(Release::Installed);
    engine.ok(&["image", "import", &image.to_string_lossy()]);
    let mut by_engine = Vec::new();
    for ((pod, runtime), port) in pods.iter().zip([RUNC, RUNTIME]).zip(8055..) {
        let [address, _] = cni.add(pod, port);
        let flags = ["run", "--detach", "--with-ns", &pod.flag()];
        let image = format!("docker.io/library/{IMAGE}:latest");
        engine.ok(&[&flags[..], &["--runtime", runtime, &image, runtime]].concat());
        by_engine.push(servers(address.split('/').next().unwrap_or_default()));
    }
    let caisson = caisson();
    let bridge = bridge(&caisson, &host, "bridge", &[]);
    let user = user(&caisson, &host);

    let column = |name, servers| Column {
        name,
        servers,
        switch: Box::new(|_| ()),
    };
    let columns = [
        column("ctr, runc", by_engine[0]),
        column("ctr, caisson", by_engine[1]),
        column("caisson, bridge", bridge),
        column("caisson, user", user),
    ];
    for column in &columns {
        ready(&host, column.servers);
    }
    table::measure(&host, &columns, measures, rounds);

    host.inside(|| caisson.ok(["rm", "-f", "bridge", "user"]));
    for ((pod, runtime), port) in pods.iter().zip([RUNC, RUNTIME]).zip(8055..) {
        engine.run(&["task", "rm", "-f", runtime], b"");
        engine.ok(&["container", "rm", runtime]);
        cni.remove(pod, port);
    }
}

/// An installation with the image of the servers.
pub fn caisson() -> Caisson {
    let caisson = Caisson::without_images();
    let image = programs::packed_image(IMAGE);
    caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
    caisson
}

/// Starts the servers in a container on a bridge of the host's.
pub fn bridge(caisson: &Caisson, host: &Netns, name: &str, flags: &[&str]) -> Servers {
    let begin = ["run", "-d", "--name", name, "--network", "bridge"];
    host.inside(|| caisson.ok([&begin, flags, &[IMAGE]].concat()));
    let settings = &caisson.inspect(name)["NetworkSettings"];
    servers(settings["IPAddress"].as_str().expect("an address"))
}

/// Starts the servers in a container with ports of the host's.
fn user(caisson: &Caisson, host: &Netns) -> Servers {
    let (web, iperf) = (8080, 5201);
    let ports = [format!("{web}:{WEB}"), format!("{iperf}:{IPERF}")];
    let begin = ["run", "-d", "--name", "user", "--network", "user"];
    let flags = ["-p", &ports[0], "-p", &ports[1], IMAGE];
    host.inside(|| caisson.ok(begin.iter().chain(&flags)));
    Servers {
        web: ([127, 0, 0, 1], web).into(),
        iperf: ([127, 0, 0, 1], iperf).into(),
    }
}

fn servers(address: &str) -> Servers {
    let at = |port| SocketAddr::new(address.parse().expect("an address"), port);
    Servers {
        web: at(WEB),
        iperf: at(IPERF),
    }
}

/// Waits until the web server answers: it is started last.
pub fn ready(client: &Netns, servers: Servers) {
    let answers = || Client::connect(servers.web)?.get();
    client.inside(|| {
        eventually(&format!("{} answers", servers.web), || answers().is_ok());
    });
}
