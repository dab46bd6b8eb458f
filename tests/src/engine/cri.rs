//! containerd as Kubernetes has it: the CRI plugin, CNI plugins, a network of its own.

use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rustix::thread::LinkNameSpaceType;

use super::{Containerd, IMAGE, RUNTIME};

/// Where Debian has the CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// What pods are connected to: a bridge, which is made in containerd's own network namespace.
const NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge",
    "bridge": "pods0",
    "isGateway": true,
    "ipam": { "type": "host-local", "subnet": "10.88.7.0/24", "dataDir": "DATA" }
  }]
}"#;

/// Lines of the configuration; `runtime` is added to those of our runtime.
pub fn configuration(folder: &Path, runtime: &str) -> String {
    let networks = folder.join("cni");
    std::fs::create_dir(&networks).expect("a folder");
    let data = folder.join("cni-data");
    let network = NETWORK.replace("DATA", &data.to_string_lossy());
    std::fs::write(networks.join("pods.conflist"), network).expect("written");
    let plugin = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n\
         [{plugin}]\nsandbox_image = {IMAGE:?}\nnetns_mounts_under_state_dir = true\n\
         stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
         [{plugin}.cni]\nbin_dir = {PLUGINS:?}\nconf_dir = {networks:?}\n\
         [{plugin}.containerd]\ndefault_runtime_name = \"caisson\"\n\
         [{plugin}.containerd.runtimes.caisson]\nruntime_type = {RUNTIME:?}\n{runtime}"
    )
}

/// A program in a network namespace of its own, whose loopback is up.
pub fn in_namespace(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c"])
        .arg("ip link set lo up && exec \"$0\" \"$@\"")
        .arg(program);
    command
}

impl Containerd {
    /// A connection to a port of the loopback in the network namespace of a containerd with CRI.
    pub fn connect(&self, port: u16) -> TcpStream {
        let namespace = format!("/proc/{}/ns/net", self.daemon.id());
        let namespace = File::open(namespace).expect("containerd runs");
        // A thread of its own, which ends with the namespace that it has entered.
        let connect = move || {
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(LinkNameSpaceType::Network),
            )
            .expect("tests run as root");
            TcpStream::connect(("127.0.0.1", port)).expect("somebody listens")
        };
        std::thread::spawn(connect).join().expect("connected")
    }
}
