//! Engine `docker`: the host's own. Only the image is added to it, and removed at the end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::container::Container;
use super::engine::{Engine, EngineName, Image, Invocation};
use super::host;
use super::installed::{Absent, Kind, Program};
use super::interrupt::Interrupt;
use super::process::{self, Outcome};
use super::rootfs;
use crate::error::{Error, Result};

const DEADLINE: Duration = Duration::from_secs(60);

/// The name by which a runtime is known to containerd, which Docker takes since version 23.
const SHIM: &str = "io.containerd.caisson.v2";

/// The host's Docker Engine.
pub struct Docker {
    program: PathBuf,
    caisson: PathBuf,
    folder: PathBuf,
    version: String,
    /// Names of the runtimes that its configuration has.
    runtimes: Vec<String>,
    images: Mutex<Vec<String>>,
    interrupt: Interrupt,
}

impl Docker {
    /// Asks it what it has.
    pub fn open(caisson: &Path, scratch: &Path, interrupt: &Interrupt) -> Result<Self> {
        let wrong = |reason: String, remedy: &str| Error::Engine {
            engine: EngineName::Docker,
            reason,
            remedy: remedy.to_owned(),
        };
        let Some(program) = Program::find("docker") else {
            let remedy =
                "apt-get install docker.io (Debian 13 or later) and `sudo caisson setup docker`";
            return Err(wrong("docker was not found in PATH".to_owned(), remedy));
        };
        let mut command = Command::new(&program);
        command.args(["info", "--format", "{{json .}}"]);
        let said = process::output(command, DEADLINE, interrupt)?;
        let info: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        let Some(version) = info["ServerVersion"]
            .as_str()
            .filter(|text| !text.is_empty())
        else {
            let errors = info["ServerErrors"][0].as_str().map(str::to_owned);
            let reason = errors.unwrap_or_else(|| said.error_text());
            let remedy = "start it (`systemctl start docker`), or apt-get install docker.io and `sudo caisson setup docker`";
            return Err(wrong(format!("no Docker Engine answers: {reason}"), remedy));
        };
        let runtimes = info["Runtimes"].as_object();
        let runtimes = runtimes.map_or(Vec::new(), |all| all.keys().cloned().collect());
        Ok(Self {
            program,
            caisson: caisson.to_owned(),
            folder: scratch.join("docker"),
            version: version.to_owned(),
            runtimes,
            images: Mutex::default(),
            interrupt: interrupt.clone(),
        })
    }

    fn docker(&self, words: &[String]) -> Invocation {
        Invocation::new(&self.program, std::iter::empty::<&str>(), words)
    }

    fn command(&self, words: &[&str]) -> Invocation {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        self.docker(&words)
    }

    fn has(&self, name: &str) -> bool {
        self.runtimes.iter().any(|runtime| runtime == name)
    }

    /// What `--runtime` is given.
    fn runtime(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Caisson if !self.has("caisson") => SHIM,
            _ => kind.as_str(),
        }
    }

    fn major_version(&self) -> u32 {
        let major = self.version.split('.').next();
        major.and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// What an image says of its program, in the form that `docker import` takes.
fn changes(folder: &Path) -> Vec<String> {
    let text = std::fs::read(folder.join(rootfs::CONFIG)).unwrap_or_default();
    let image: Value = serde_json::from_slice(&text).unwrap_or_default();
    let config = &image["config"];
    let mut changes = Vec::new();
    for (key, instruction) in [("Entrypoint", "ENTRYPOINT"), ("Cmd", "CMD")] {
        if config[key].is_array() {
            changes.push(format!("{instruction} {}", config[key]));
        }
    }
    for variable in config["Env"].as_array().into_iter().flatten() {
        if let Some((name, value)) = variable.as_str().and_then(|text| text.split_once('=')) {
            changes.push(format!("ENV {name}={}", Value::from(value)));
        }
    }
    if let Some(folder) = config["WorkingDir"]
        .as_str()
        .filter(|path| !path.is_empty())
    {
        changes.push(format!("WORKDIR {folder}"));
    }
    changes
}

fn flags(container: &Container) -> Vec<String> {
    let mut flags = Vec::new();
    let mut push = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
    match container.publish {
        Some(publish) => push(
            "--publish",
            format!("127.0.0.1:{}:{}", publish.host, publish.container),
        ),
        None => push("--network", "none".to_owned()),
    }
    for mount in &container.mounts {
        let mode = if mount.read_only { ":ro" } else { "" };
        let source = mount.source.display();
        push("--volume", format!("{source}:{}{mode}", mount.target));
    }
    for capability in &container.capabilities {
        push("--cap-add", capability.clone());
    }
    if container.host_pid {
        push("--pid", "host".to_owned());
    }
    if let Some(folder) = &container.workdir {
        push("--workdir", folder.clone());
    }
    if let Some(memory) = container.memory {
        push("--memory", memory.to_string());
    }
    if let Some(pids) = container.pids {
        push("--pids-limit", pids.to_string());
    }
    if container.privileged {
        flags.push("--privileged".to_owned());
    }
    if !container.stdin.is_empty() {
        flags.push("--interactive".to_owned());
    }
    flags
}

impl Engine for Docker {
    fn name(&self) -> EngineName {
        EngineName::Docker
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn configuration(&self) -> String {
        "# sudo caisson setup docker adds to /etc/docker/daemon.json:\n\
         {\"runtimes\": {\"caisson\": {\"runtimeType\": \"io.containerd.caisson.v2\"}}}"
            .to_owned()
    }

    fn missing(&self, kind: Kind) -> Option<Absent> {
        if self.has(kind.as_str()) {
            return None;
        }
        let absent = |reason: String, remedy: &str| {
            Some(Absent {
                kind,
                reason,
                remedy: remedy.to_owned(),
            })
        };
        match kind {
            Kind::Caisson if self.major_version() < 23 => absent(
                format!("Docker {} takes no runtime by its shim", self.version),
                "install Docker 23 or later",
            ),
            Kind::Caisson if Program::shim(&self.caisson).is_some() => None,
            Kind::Caisson => absent(
                "Docker's configuration does not have it".to_owned(),
                "sudo caisson setup docker",
            ),
            _ => absent(
                "Docker's configuration does not have it".to_owned(),
                &format!(
                    "{}, and name it under \"runtimes\" in /etc/docker/daemon.json",
                    kind.install()
                ),
            ),
        }
    }

    fn load(&self, archive: &Path) -> Result<Image> {
        let unpacked = rootfs::unpack(archive, &self.folder)?;
        let packed = unpacked.join("rootfs.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(unpacked.join(rootfs::ROOTFS))
            .args(["--numeric-owner", "-cf"])
            .arg(&packed)
            .arg(".");
        let outcome = process::output(tar, DEADLINE * 5, &self.interrupt)?;
        if !outcome.success() {
            return Err(Error::Command(Box::new(outcome)));
        }
        let name = format!("caisson-compare:{}", super::new_id());
        let mut words = vec!["import".to_owned()];
        for change in changes(&unpacked) {
            words.extend(["--change".to_owned(), change]);
        }
        words.extend([packed.to_string_lossy().into_owned(), name.clone()]);
        let outcome = process::run(self.docker(&words), b"", DEADLINE * 5, &self.interrupt)?;
        if !outcome.success() {
            return Err(Error::Command(Box::new(outcome)));
        }
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.push(name.clone());
        Ok(Image {
            name,
            unpacked: Some(unpacked),
        })
    }

    fn invocation(
        &self,
        kind: Kind,
        id: &str,
        container: &Container,
        detached: bool,
    ) -> Result<Invocation> {
        if container.mounts.iter().any(|mount| mount.overlay) {
            return Err(Error::Unsupported {
                engine: EngineName::Docker,
                what: "volumes with a private copy-on-write view",
            });
        }
        let mode = if detached { "--detach" } else { "--rm" };
        let mut words: Vec<String> = ["run", mode, "--name", id, "--runtime", self.runtime(kind)]
            .map(str::to_owned)
            .to_vec();
        words.extend(flags(container));
        words.push(container.image.name.clone());
        words.extend(container.command.iter().cloned());
        Ok(self.docker(&words))
    }

    fn exec(&self, _kind: Kind, id: &str, command: &[String]) -> Invocation {
        let mut words = ["exec", id].map(str::to_owned).to_vec();
        words.extend(command.iter().cloned());
        self.docker(&words)
    }

    fn address(&self, _kind: Kind, _id: &str, container: &Container) -> Option<SocketAddr> {
        Some((Ipv4Addr::LOCALHOST, container.publish?.host).into())
    }

    fn processes(&self, _kind: Kind, _id: &str, started: &Outcome) -> Vec<u32> {
        // `run --detach` prints the whole id, which the shim is told.
        host::processes_with_argument(&started.text())
    }

    fn remove(&self, _kind: Kind, id: &str, ended: bool) {
        if !ended {
            let invocation = self.command(&["rm", "--force", id]);
            let _ = process::run(invocation, b"", DEADLINE, &Interrupt::default());
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        for image in images.iter() {
            let invocation = self.command(&["rmi", "--force", image]);
            let _ = process::run(invocation, b"", DEADLINE, &Interrupt::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_its_program_when_it_is_imported() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = serde_json::json!({ "config": {
            "Entrypoint": ["node"], "Cmd": ["shop.js"], "Env": ["A=b c"], "WorkingDir": "/w",
        }});
        std::fs::write(folder.path().join(rootfs::CONFIG), config.to_string()).expect("written");
        assert_eq!(
            changes(folder.path()),
            [
                "ENTRYPOINT [\"node\"]",
                "CMD [\"shop.js\"]",
                "ENV A=\"b c\"",
                "WORKDIR /w"
            ]
        );
    }
}
