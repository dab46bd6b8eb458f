//! A bundle (runtime-spec, bundle.md) for runtimes that have no engine in front of them.
//!
//! What `runc spec` writes, with the capabilities that Docker and `caisson run` give and what the
//! container asks for. There is no seccomp profile: `runc spec` has none either.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};

use super::container::{Container, Mount};
use super::rootfs;
use crate::error::{At, Error, Result};

/// What Docker leaves to root in a container.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All that there are, in the order of their numbers (capabilities(7)).
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A bundle in a folder of its own.
pub struct Bundle<'a> {
    folder: PathBuf,
    id: &'a str,
    container: &'a Container,
    image: PathBuf,
}

impl<'a> Bundle<'a> {
    /// Makes the folder, and the container's files: the image's, with a writable layer over them.
    pub fn new(bundles: &Path, id: &'a str, container: &'a Container) -> Result<Self> {
        let folder = bundles.join(id);
        let image = container
            .image
            .unpacked
            .clone()
            .ok_or_else(|| Error::Image {
                image: container.image.name.clone(),
                reason: "it was not unpacked".to_owned(),
            })?;
        let at = |name: &str| folder.join(name);
        for name in ["upper", "work", rootfs::ROOTFS] {
            std::fs::create_dir_all(at(name)).at(at(name))?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            image.join(rootfs::ROOTFS).display(),
            at("upper").display(),
            at("work").display()
        );
        let options = std::ffi::CString::new(options).map_err(|_| Error::Image {
            image: container.image.name.clone(),
            reason: "its folder has a name that cannot be mounted".to_owned(),
        })?;
        rustix::mount::mount(
            "overlay",
            at(rootfs::ROOTFS),
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .map_err(std::io::Error::from)
        .at(at(rootfs::ROOTFS))?;
        Ok(Self {
            folder,
            id,
            container,
            image,
        })
    }

    /// Its specification.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the specification. `parent` is the cgroup above the container's.
    pub fn write(&self, parent: &str, network: Option<&Path>) -> Result<()> {
        let path = self.image.join(rootfs::CONFIG);
        let text = std::fs::read(&path).at(&path)?;
        let image: Value = serde_json::from_slice(&text).unwrap_or_default();
        let spec = specification(
            self.container,
            &image["config"],
            &self.folder.join(rootfs::ROOTFS),
            &format!("/{parent}/{}", self.id),
            network,
        );
        let config = self.config();
        std::fs::write(&config, format!("{spec:#}")).at(config)
    }

    /// Unmounts and removes the bundle of a container, if it has one.
    pub fn remove(bundles: &Path, id: &str) {
        let folder = bundles.join(id);
        if !folder.exists() {
            return;
        }
        // Not mounted if making it failed.
        let _ = rustix::mount::unmount(folder.join(rootfs::ROOTFS), UnmountFlags::DETACH);
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(%error, folder = %folder.display(), "a bundle is left behind");
        }
    }
}

/// Command, environment and folder, as an engine takes them from an image (image-spec, config.md).
fn process(container: &Container, image: &Value) -> (Vec<String>, Vec<String>, String) {
    let list = |key: &str| -> Vec<String> {
        let words = image[key].as_array().into_iter().flatten();
        words
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let mut arguments = list("Entrypoint");
    if container.command.is_empty() {
        arguments.extend(list("Cmd"));
    } else {
        arguments.extend(container.command.iter().cloned());
    }
    let mut environment = list("Env");
    if !environment.iter().any(|word| word.starts_with("PATH=")) {
        environment
            .push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    let folder = image["WorkingDir"].as_str().filter(|path| !path.is_empty());
    let folder = container.workdir.as_deref().or(folder);
    (arguments, environment, folder.unwrap_or("/").to_owned())
}

fn specification(
    container: &Container,
    image: &Value,
    rootfs: &Path,
    cgroup: &str,
    network: Option<&Path>,
) -> Value {
    let privileged = container.privileged;
    let (arguments, environment, folder) = process(container, image);
    let mut capabilities: Vec<&str> = CAPABILITIES.to_vec();
    capabilities.extend(container.capabilities.iter().map(String::as_str));
    if privileged {
        capabilities = given_to(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    }
    let mut namespaces = vec![
        json!({ "type": "ipc" }),
        json!({ "type": "uts" }),
        json!({ "type": "mount" }),
        network.map_or(
            json!({ "type": "network" }),
            |path| json!({ "type": "network", "path": path }),
        ),
    ];
    if !container.host_pid {
        namespaces.push(json!({ "type": "pid" }));
    }
    let mut resources = json!({ "devices": [{ "allow": privileged, "access": "rwm" }] });
    if let Some(memory) = container.memory {
        resources["memory"] = json!({ "limit": memory, "swap": memory });
    }
    if let Some(pids) = container.pids {
        resources["pids"] = json!({ "limit": pids });
    }
    let masked: &[&str] = if privileged { &[] } else { &MASKED };
    let read_only: &[&str] = if privileged { &[] } else { &READ_ONLY };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": arguments,
            "env": environment,
            "cwd": folder,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
        },
        "root": { "path": rootfs },
        "hostname": "compare",
        "mounts": mounts(container),
        "linux": {
            "namespaces": namespaces,
            "resources": resources,
            "cgroupsPath": cgroup,
            "maskedPaths": masked,
            "readonlyPaths": read_only,
        },
    })
}

/// The capabilities that a process may pass on, by its `/proc/PID/status`. In a machine that lacks
/// one, asking for it would be refused.
fn given_to(status: &str) -> Vec<&'static str> {
    let bounds = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let bounds = bounds.unwrap_or(u64::MAX);
    let all = ALL_CAPABILITIES.iter().enumerate();
    all.filter(|(number, _)| bounds >> number & 1 == 1)
        .map(|(_, name)| *name)
        .collect()
}

fn mounts(container: &Container) -> Vec<Value> {
    let mode = if container.privileged { "rw" } else { "ro" };
    let own = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        own("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        own(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        own(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        own(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        own(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        own(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", mode],
        ),
        own(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", mode],
        ),
    ];
    mounts.extend(container.mounts.iter().map(|mount: &Mount| {
        let mode = if mount.read_only { "ro" } else { "rw" };
        let source = mount.source.to_string_lossy();
        own(&mount.target, "bind", &source, &["rbind", mode])
    }));
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Image;

    fn container(command: &[&str]) -> Container {
        let image = Image {
            name: "busybox".to_owned(),
            unpacked: None,
        };
        Container::new(&image, command.iter().copied())
    }

    fn spec(container: &Container, image: &Value) -> Value {
        specification(container, image, Path::new("/r"), "/p/c", None)
    }

    #[test]
    fn the_image_says_what_is_run_unless_the_container_does() {
        let image = json!({ "Entrypoint": ["node"], "Cmd": ["shop.js"], "Env": ["A=b"], "WorkingDir": "/w" });
        let process = |command: &[&str]| spec(&container(command), &image)["process"].clone();
        assert_eq!(process(&[])["args"], json!(["node", "shop.js"]));
        assert_eq!(process(&["x"])["args"], json!(["node", "x"]));
        assert_eq!(process(&[])["cwd"], "/w");
        assert_eq!(process(&[])["env"][0], "A=b");
    }

    #[test]
    fn privileges_are_given_when_they_are_asked_for() {
        let mut container = container(&["true"]);
        let ordinary = spec(&container, &Value::Null);
        let bounding = &ordinary["process"]["capabilities"]["bounding"];
        assert_eq!(bounding.as_array().map(Vec::len), Some(14));
        assert_eq!(
            ordinary["linux"]["maskedPaths"].as_array().map(Vec::len),
            Some(9)
        );
        container.privileged = true;
        let privileged = spec(&container, &Value::Null);
        let bounding = &privileged["process"]["capabilities"]["bounding"];
        let ours = given_to(&std::fs::read_to_string("/proc/self/status").expect("a status"));
        assert_eq!(*bounding, json!(ours));
        assert_eq!(privileged["linux"]["maskedPaths"], json!([]));
        assert_eq!(
            privileged["linux"]["resources"]["devices"][0]["allow"],
            true
        );
    }

    #[test]
    fn nothing_is_asked_for_that_the_machine_lacks() {
        assert_eq!(given_to("Name:\tx\nCapBnd:\t000001ffffffffff\n").len(), 41);
        let fewer = given_to("CapBnd:\t000001fffeffffff\n");
        assert_eq!(fewer.len(), 40);
        assert!(!fewer.contains(&"CAP_SYS_RESOURCE"));
    }

    #[test]
    fn the_hosts_processes_are_seen_without_a_namespace() {
        let mut container = container(&["true"]);
        let count = |container: &Container| {
            let spec = spec(container, &Value::Null);
            spec["linux"]["namespaces"].as_array().map(Vec::len)
        };
        assert_eq!(count(&container), Some(5));
        container.host_pid = true;
        assert_eq!(count(&container), Some(4));
    }
}
