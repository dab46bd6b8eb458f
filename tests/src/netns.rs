//! Network namespaces of a test's own, and CNI plugins in them: nothing of a test is seen
//! in the host's network.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::{eventually, output, text};

/// How long a single exchange may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace under a name, as engines make them.
pub struct Netns {
    name: String,
}

impl Netns {
    /// A new one.
    ///
    /// # Panics
    /// Without root.
    pub fn new(purpose: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}-{purpose}", std::process::id());
        command("ip", &format!("netns add {name}"));
        let netns = Self { name };
        // Addresses are unique here, and can be used at once.
        netns.inside(|| {
            for interfaces in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{interfaces}/accept_dad");
                std::fs::write(&path, "0").unwrap_or_else(|error| panic!("{path}: {error}"));
            }
        });
        netns.ip("link set lo up");
        netns
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Flag of `ctr run` with which a container is in it.
    pub fn flag(&self) -> String {
        format!("network:{}", self.path().display())
    }

    /// A program in it, not started yet.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg(program);
        command
    }

    /// Runs a program in it, which must succeed.
    pub fn run(&self, program: &str, arguments: &str) -> String {
        let mut command = self.command(program);
        command.args(arguments.split_ascii_whitespace());
        let output = output(command, b"");
        assert!(
            output.status.success(),
            "{program} {arguments}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// ip(8) in it.
    pub fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// Interfaces of it, without the loopback.
    pub fn interfaces(&self) -> Vec<String> {
        let links = self.ip("-o link show");
        let names = links
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .map(|name| name.split('@').next().unwrap_or(name).to_owned());
        names.filter(|name| name != "lo").collect()
    }

    /// Hardware address of an interface.
    pub fn mac(&self, interface: &str) -> String {
        let link = self.ip(&format!("-o link show {interface}"));
        let (_, after) = link.split_once("link/ether ").expect("Ethernet");
        after.split(' ').next().expect("an address").to_owned()
    }

    /// What it has left of containers on a bridge: interfaces, and the firewall rules and leased
    /// addresses of those with these ids. Leases lie in one folder for all namespaces.
    pub fn left_on_bridge(&self, ids: &[String]) -> Vec<String> {
        let is_container = |name: &String| name.starts_with("veth");
        let links = self.interfaces().into_iter().filter(is_container);
        let rules = ["iptables-save", "ip6tables-save"].map(|program| self.run(program, ""));
        let rules = rules.iter().flat_map(|rules| rules.lines());
        let leases = std::fs::read_dir("/var/lib/cni/networks/caisson");
        let leases = leases.into_iter().flatten().flatten();
        let leases = leases.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        let of_ours = |text: &String| ids.iter().any(|id| text.contains(id));
        links
            .chain(rules.map(str::to_owned).chain(leases).filter(of_ours))
            .collect()
    }

    /// Does something in it.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).expect("the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root");
                work()
            });
            thread.join().expect("no panic")
        })
    }

    /// What a web server answers to somebody in it; nothing if it does not, or not yet.
    pub fn fetch(&self, address: &str) -> Option<String> {
        self.inside(|| {
            let address = address.parse().expect("an address and a port");
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            head.contains(" 200 OK").then(|| body.trim().to_owned())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let mut command = Command::new("ip");
        command.args(["netns", "del", &self.name]);
        let deleted = output(command, b"");
        if !std::thread::panicking() {
            assert!(deleted.status.success(), "{}", text(&deleted.stderr));
            eventually("the namespace is gone", || !self.path().exists());
        }
    }
}

/// A network of CNI plugins in a namespace that stands for the host.
pub struct Cni<'a> {
    host: &'a Netns,
    folder: tempfile::TempDir,
}

impl<'a> Cni<'a> {
    /// Addresses of the bridge.
    pub const GATEWAYS: [&'static str; 2] = ["10.55.0.1", "fd00:55::1"];

    /// A bridge `cni0` with networks of both families.
    pub fn new(host: &'a Netns) -> Self {
        Self {
            host,
            folder: tempfile::tempdir().expect("a scratch folder"),
        }
    }

    /// Configuration of the bridge, as a list of one plugin.
    pub fn list(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "test",
            "plugins": [self.bridge()],
        })
    }

    fn bridge(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "test",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.folder.path().join("leases"),
                "ranges": [
                    [{ "subnet": "10.55.0.0/24" }],
                    [{ "subnet": "fd00:55::/64" }],
                ],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        })
    }

    /// Puts a container's namespace on the bridge, with a port of the host's that leads
    /// to its port 80. Returns its IPv4 and IPv6 addresses.
    pub fn add(&self, container: &Netns, port: u16) -> [String; 2] {
        let result = self.call("ADD", container, &self.bridge());
        self.call("ADD", container, &portmap(port, &result));
        let addresses = result["ips"].as_array().expect("addresses");
        let find = |ipv6: bool| {
            let mut all = addresses.iter().filter_map(|ip| ip["address"].as_str());
            let found = all.find(|address| address.contains(':') == ipv6);
            found.expect("one of each family").to_owned()
        };
        [find(false), find(true)]
    }

    /// Undoes it.
    pub fn remove(&self, container: &Netns, port: u16) {
        self.call("DEL", container, &portmap(port, &Value::Null));
        self.call("DEL", container, &self.bridge());
    }

    fn call(&self, verb: &str, container: &Netns, configuration: &Value) -> Value {
        let plugin = configuration["type"].as_str().expect("a plugin");
        let mut command = self.host.command(format!("/usr/lib/cni/{plugin}"));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &container.name)
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni");
        let output = output(command, configuration.to_string().as_bytes());
        assert!(output.status.success(), "{plugin}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

fn portmap(port: u16, before: &Value) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "test",
        "type": "portmap",
        "snat": true,
        "runtimeConfig": {
            "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }],
        },
        "prevResult": before,
    })
}

fn command(program: &str, arguments: &str) {
    let mut command = Command::new(program);
    command.args(arguments.split_ascii_whitespace());
    let output = output(command, b"");
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        text(&output.stderr)
    );
}
