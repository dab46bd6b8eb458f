//! Networks made by CNI plugins (CNI specification 1.0.0).
//!
//! What plugins leave outside of the namespace, such as leased addresses and firewall
//! rules, must be given back also after the namespace is gone and whoever made it was
//! killed. Hence a [`Lease`], to be stored before anything is made.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caisson_netlink::{Cidr, Socket};
use command_fds::CommandFdExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Namespace, PortMapping, Result};

/// Name of the network that is there without being set up.
pub const BRIDGE: &str = "bridge";

/// Name of the interface that plugins make.
const INTERFACE: &str = "eth0";

/// Where the configurations of networks are.
const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// Where plugins are: other people's first, then Debian's.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Where host-local notes addresses, if it is not told another place.
const LEASES: &str = "/var/lib/cni/networks";

/// Most bytes of a configuration.
const CONFIGURATION_LIMIT: u64 = 1 << 20;

/// A container's place in a CNI network: all that is needed to give it back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    container: String,
    list: List,
    ports: Vec<PortMapping>,
    result: Option<Value>,
}

/// A network configuration list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default = "version")]
    cni_version: String,
    name: String,
    plugins: Vec<Value>,
}

fn version() -> String {
    "0.2.0".to_owned()
}

impl Lease {
    /// A place in the network of that name, for a container whose id is unique. Nothing
    /// is made yet. Ports must not be open; see [`crate::reserve`].
    pub fn new(network: &str, container: &str, ports: &[PortMapping]) -> Result<Self> {
        let folder = Path::new(CONFIGURATIONS);
        let list = match find(folder, network)? {
            Some(list) => list,
            None if network == BRIDGE => built_in(),
            None => return Err(unknown(folder, network)),
        };
        let maps = |plugin: &Value| plugin["capabilities"]["portMappings"] == true;
        if !ports.is_empty() && !list.plugins.iter().any(maps) {
            return Err(Error::Network {
                name: network.to_owned(),
                reason: "it has no plugin that publishes ports, such as portmap".to_owned(),
            });
        }
        Ok(Self {
            container: container.to_owned(),
            list,
            ports: ports.to_vec(),
            result: None,
        })
    }

    /// Makes an interface in the namespace. What is made is noted here: store the lease
    /// again. Plugins outlive a caller that is killed, and go on making things: all of
    /// them have `held` open, so that its lock tells when they have ended.
    pub fn add(&mut self, namespace: &Namespace, held: &File) -> Result<()> {
        for plugin in &self.list.plugins {
            let result = self.execute("ADD", plugin, namespace, Some(held))?;
            self.result = result.or(self.result.take());
        }
        Ok(())
    }

    /// Gives everything back. The namespace may be gone; may be called again.
    pub fn remove(&self) -> Result<()> {
        // Some plugins undo only what belongs to the addresses that they find in the
        // namespace: they get one that looks like the one that is gone.
        let namespace = Namespace::new()?;
        let addresses = self.addresses();
        let stand_in = namespace.enter("make a stand-in for an interface", || {
            let (tap, _) = caisson_netlink::open_tap(INTERFACE, true)?;
            let mut socket = Socket::open()?;
            let links = socket.links()?;
            for link in links.iter().filter(|link| link.name == INTERFACE) {
                for address in &addresses {
                    socket.add_address(link.index, *address)?;
                }
            }
            Ok(tap)
        })?;
        for plugin in self.list.plugins.iter().rev() {
            self.execute("DEL", plugin, &namespace, None)?;
        }
        drop(stand_in);
        Ok(())
    }

    fn addresses(&self) -> Vec<Cidr> {
        let Some(result) = &self.result else {
            return self.leased();
        };
        let ips = result["ips"].as_array();
        ips.into_iter()
            .flatten()
            .filter_map(|ip| ip["address"].as_str()?.parse().ok())
            .collect()
    }

    /// Addresses that host-local holds for the container, if whoever asked for them was
    /// killed before the answer: a file for each, named after it, begins with the id.
    fn leased(&self) -> Vec<Cidr> {
        let plugins = self.list.plugins.iter().map(|plugin| &plugin["ipam"]);
        let pools = plugins.filter(|ipam| ipam["type"] == "host-local");
        let files = pools.flat_map(|ipam| {
            let folder = ipam["dataDir"].as_str().unwrap_or(LEASES);
            let files = fs::read_dir(Path::new(folder).join(&self.list.name));
            files.into_iter().flatten().flatten()
        });
        let ours = files.filter(|file| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            text.lines().next() == Some(&self.container)
        });
        ours.filter_map(|file| file.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Runs a plugin. Its standard input is its configuration, its output a result or
    /// an error.
    fn execute(
        &self,
        command: &str,
        plugin: &Value,
        namespace: &Namespace,
        held: Option<&File>,
    ) -> Result<Option<Value>> {
        let name = plugin["type"].as_str().unwrap_or_default();
        let program = program(name)?;
        let mut configuration = plugin.clone();
        configuration["name"] = json!(self.list.name);
        configuration["cniVersion"] = json!(self.list.cni_version);
        if let Some(result) = &self.result {
            configuration["prevResult"] = result.clone();
        }
        if plugin["capabilities"]["portMappings"] == true {
            let ports: Vec<_> = self.ports.iter().map(mapping).collect();
            configuration["runtimeConfig"] = json!({ "portMappings": ports });
        }
        let doing = || format!("run the CNI plugin {name}");
        let held = held.map(|file| Ok(file.try_clone()?.into()));
        let held: Option<OwnedFd> = held
            .transpose()
            .map_err(Error::host::<io::Error>(doing()))?;
        let mut child = Command::new(&program)
            .preserved_fds(held.into_iter().collect())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", namespace.path())
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", PLUGINS.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Spawn { program, source })?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why on its output.
            let _ = stdin.write_all(configuration.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(Error::host(doing()))?;
        let answer = serde_json::from_slice::<Value>(&output.stdout).ok();
        if output.status.success() {
            return Ok(answer);
        }
        let said = answer.as_ref().and_then(|answer| {
            let details = answer["details"].as_str().unwrap_or_default();
            Some(format!("{} {details}", answer["msg"].as_str()?))
        });
        Err(Error::Program {
            program: format!("the CNI plugin {name}"),
            message: said.map_or_else(
                || String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                |said| said.trim().to_owned(),
            ),
        })
    }
}

/// A bridge of the host's with addresses of its own, behind the host's.
fn built_in() -> List {
    let bridge = json!({
        "type": "bridge",
        "bridge": "caisson0",
        "isGateway": true,
        "ipMasq": true,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [
                [{ "subnet": "10.87.0.0/16" }],
                [{ "subnet": "fd00:ca15:87::/64" }],
            ],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    List {
        cni_version: "1.0.0".to_owned(),
        name: "caisson".to_owned(),
        plugins: vec![bridge, portmap],
    }
}

fn mapping(port: &PortMapping) -> Value {
    let mut mapping = json!({
        "hostPort": port.host,
        "containerPort": port.container,
        "protocol": port.protocol,
    });
    if let Some(address) = port.address {
        mapping["hostIP"] = json!(address);
    }
    mapping
}

fn program(name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty() && !name.contains('/') && name != "..";
    PLUGINS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|file| plain && file.is_file())
        .ok_or_else(|| Error::ProgramMissing {
            program: format!("the CNI plugin {name:?}"),
            remedy: "install it with `apt-get install containernetworking-plugins`, \
                     or use `--network user`",
        })
}

/// The configuration of that name; files are read in the order of their names.
fn find(folder: &Path, network: &str) -> Result<Option<List>> {
    Ok(configurations(folder)?
        .into_iter()
        .find(|list| list.name == network))
}

fn unknown(folder: &Path, network: &str) -> Error {
    let names: Vec<_> = configurations(folder)
        .unwrap_or_default()
        .into_iter()
        .map(|list| list.name)
        .collect();
    Error::Network {
        name: network.to_owned(),
        reason: format!(
            "{} configures no network of that name; it has: {}",
            folder.display(),
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        ),
    }
}

fn configurations(folder: &Path) -> Result<Vec<List>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::host(format!("read {}", folder.display()))(error)),
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut lists = Vec::new();
    for file in files {
        match read(&file) {
            Ok(list) => lists.extend(list),
            // It does not hide the others.
            Err(error) => tracing::warn!(%error, file = %file.display(), "no CNI configuration"),
        }
    }
    Ok(lists)
}

fn read(file: &Path) -> io::Result<Option<List>> {
    let kind = file.extension().and_then(|kind| kind.to_str());
    if !matches!(kind, Some("conflist" | "conf" | "json")) {
        return Ok(None);
    }
    let mut text = String::new();
    io::Read::read_to_string(
        &mut io::Read::take(File::open(file)?, CONFIGURATION_LIMIT),
        &mut text,
    )?;
    let value: Value = serde_json::from_str(&text)?;
    if value["plugins"].is_array() {
        return Ok(Some(serde_json::from_value(value)?));
    }
    // One plugin without a list.
    Ok(Some(List {
        cni_version: value["cniVersion"]
            .as_str()
            .map_or_else(version, str::to_owned),
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        plugins: vec![value],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_found_by_their_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("written");
        };
        write(
            "10-a.conflist",
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"x"}]}"#,
        );
        write("20-b.conf", r#"{"name":"b","type":"y"}"#);
        write("30-broken.conf", "{");
        write("40-other.txt", r#"{"name":"c","type":"z"}"#);
        let list = find(folder.path(), "a").expect("read").expect("a");
        assert_eq!(list.plugins[0]["type"], "x");
        let single = find(folder.path(), "b").expect("read").expect("b");
        assert_eq!(
            (single.cni_version.as_str(), single.plugins.len()),
            ("0.2.0", 1)
        );
        assert!(find(folder.path(), "c").expect("read").is_none());
        assert!(unknown(folder.path(), "c").to_string().contains("a, b"));
    }

    #[test]
    fn plugins_are_names_not_paths() {
        for hostile in ["", "../../bin/sh", "/bin/sh", ".."] {
            assert!(program(hostile).is_err(), "{hostile}");
        }
    }
}
