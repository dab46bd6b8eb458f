//! Engine `caisson`: none at all. `caisson run`, and the other runtimes on a bundle.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::bundle::Bundle;
use super::container::Container;
use super::engine::{Engine, EngineName, Image, Invocation};
use super::host;
use super::installed::{Absent, Kind, Program};
use super::interrupt::Interrupt;
use super::leftover;
use super::network::Networks;
use super::process::{self, Outcome};
use super::rootfs;
use crate::error::{Error, Result};

const DEADLINE: Duration = Duration::from_secs(60);

/// The runtimes without an engine.
pub struct Direct {
    folder: PathBuf,
    caisson: PathBuf,
    /// Name of the containers' parent cgroup.
    parent: String,
    networks: Networks,
    interrupt: Interrupt,
}

impl Direct {
    /// Keeps everything below a folder.
    pub fn new(caisson: &Path, scratch: &Path, interrupt: &Interrupt) -> Result<Self> {
        Ok(Self {
            folder: scratch.join("direct"),
            caisson: caisson.to_owned(),
            parent: format!("caisson-compare-{}-direct", std::process::id()),
            networks: Networks::default(),
            interrupt: interrupt.clone(),
        })
    }

    /// A `caisson` command on images and containers of the comparison's own.
    fn caisson(&self, words: &[String]) -> Invocation {
        let root = self.folder.join("caisson");
        let run = self.folder.join("run");
        let private = [
            "--root".as_ref(),
            root.as_os_str(),
            "--run-directory".as_ref(),
            run.as_os_str(),
        ];
        Invocation::new(&self.caisson, private, words)
    }

    /// A runtime that is given a bundle.
    fn runtime(&self, kind: Kind, words: &[String]) -> Invocation {
        let program = Program::find(kind.as_str()).unwrap_or_else(|| kind.as_str().into());
        let root = self.folder.join("state").join(kind.as_str());
        let mut words = words.to_vec();
        if kind == Kind::Runsc {
            // Its network would be made of interfaces of the host's namespace.
            words.insert(0, "--network=none".to_owned());
        }
        Invocation::new(&program, ["--root".as_ref(), root.as_os_str()], &words)
    }

    fn bundles(&self) -> PathBuf {
        self.folder.join("bundles")
    }

    fn pid_file(&self, id: &str) -> PathBuf {
        self.bundles().join(id).join("pid")
    }

    /// While the comparison is taken down, too.
    fn finish(&self, invocation: Invocation) {
        let outcome = process::run(invocation, b"", DEADLINE, &Interrupt::default());
        tracing::debug!(?outcome, "removed a container");
    }

    fn bundle(
        &self,
        kind: Kind,
        id: &str,
        container: &Container,
        detached: bool,
    ) -> Result<Invocation> {
        if container.mounts.iter().any(|mount| mount.overlay) {
            return Err(Error::Unsupported {
                engine: EngineName::Caisson,
                what: "volumes with a private copy-on-write view for other runtimes",
            });
        }
        let network = match container.publish {
            Some(_) => Some(self.networks.add(id)?),
            None => None,
        };
        let bundle = Bundle::new(&self.bundles(), id, container)?;
        bundle.write(&self.parent, network.as_deref())?;
        let path = bundle.folder().to_string_lossy().into_owned();
        let mut words = ["run", "--bundle", &path].map(str::to_owned).to_vec();
        if detached {
            let pid_file = self.pid_file(id).to_string_lossy().into_owned();
            words.extend(["--detach".to_owned(), "--pid-file".to_owned(), pid_file]);
        }
        words.push(id.to_owned());
        Ok(self.runtime(kind, &words))
    }
}

fn run(id: &str, container: &Container, detached: bool) -> Vec<String> {
    let mut words = vec!["run".to_owned()];
    let mut push = |new: &[&str]| words.extend(new.iter().map(|word| (*word).to_owned()));
    push(&[if detached { "--detach" } else { "--rm" }, "--name", id]);
    if !container.stdin.is_empty() {
        push(&["--interactive"]);
    }
    match container.publish {
        Some(publish) => push(&[
            "--publish",
            &format!("127.0.0.1:{}:{}", publish.host, publish.container),
        ]),
        // The others have none either.
        None => push(&["--network", "none"]),
    }
    for mount in &container.mounts {
        let mode = match (mount.overlay, mount.read_only) {
            (true, _) => ":overlay",
            (false, true) => ":ro",
            (false, false) => "",
        };
        let source = mount.source.display();
        push(&["--volume", &format!("{source}:{}{mode}", mount.target)]);
    }
    for capability in &container.capabilities {
        push(&["--cap-add", capability]);
    }
    if container.privileged {
        push(&["--privileged"]);
    }
    if container.host_pid {
        push(&["--pid", "host"]);
    }
    if let Some(folder) = &container.workdir {
        push(&["--workdir", folder]);
    }
    if let Some(memory) = container.memory {
        push(&["--memory", &memory.to_string()]);
    }
    if let Some(pids) = container.pids {
        push(&["--pids-limit", &pids.to_string()]);
    }
    push(&[&container.image.name]);
    words.extend(container.command.iter().cloned());
    words
}

impl Engine for Direct {
    fn name(&self) -> EngineName {
        EngineName::Caisson
    }

    fn version(&self) -> String {
        let mut command = Command::new(&self.caisson);
        command.arg("version");
        let said = process::output(command, DEADLINE, &self.interrupt);
        said.map_or("unknown".to_owned(), |outcome| outcome.text())
    }

    fn configuration(&self) -> String {
        "# There is no engine: `caisson run` is given an image, the other runtimes a bundle of the\n\
         # same files (what `runc spec` writes, with Docker's default capabilities)."
            .to_owned()
    }

    fn missing(&self, kind: Kind) -> Option<Absent> {
        if kind == Kind::Caisson {
            return None;
        }
        let name = kind.as_str();
        Program::find(name).is_none().then(|| kind.not_found(name))
    }

    fn load(&self, archive: &Path) -> Result<Image> {
        let unpacked = rootfs::unpack(archive, &self.folder.join("images"))?;
        let path = archive.to_string_lossy().into_owned();
        let words = ["load", "--quiet", "--input", &path].map(str::to_owned);
        let outcome = process::run(self.caisson(&words), b"", DEADLINE * 5, &self.interrupt)?;
        if !outcome.success() {
            return Err(Error::Command(Box::new(outcome)));
        }
        let said = outcome.text();
        let name = said.lines().last().unwrap_or_default();
        let name = name.strip_prefix("Loaded image: ").unwrap_or(name);
        Ok(Image {
            name: name.trim().to_owned(),
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
        match kind {
            Kind::Caisson => Ok(self.caisson(&run(id, container, detached))),
            _ => self.bundle(kind, id, container, detached),
        }
    }

    fn exec(&self, kind: Kind, id: &str, command: &[String]) -> Invocation {
        let mut words = ["exec", id].map(str::to_owned).to_vec();
        words.extend(command.iter().cloned());
        match kind {
            Kind::Caisson => self.caisson(&words),
            _ => self.runtime(kind, &words),
        }
    }

    fn address(&self, kind: Kind, id: &str, container: &Container) -> Option<SocketAddr> {
        let publish = container.publish?;
        if kind == Kind::Caisson {
            return Some((Ipv4Addr::LOCALHOST, publish.host).into());
        }
        Some((self.networks.address(id)?, publish.container).into())
    }

    fn processes(&self, kind: Kind, id: &str, started: &Outcome) -> Vec<u32> {
        if kind == Kind::Caisson {
            // The supervisor is told the whole id, which `run --detach` prints.
            return host::processes_with_argument(&started.text());
        }
        let pid = std::fs::read_to_string(self.pid_file(id)).unwrap_or_default();
        let first: Option<u32> = pid.trim().parse().ok();
        let mut all = host::processes_with_argument(id);
        all.extend(host::descendants(first));
        all.sort_unstable();
        all.dedup();
        all
    }

    fn remove(&self, kind: Kind, id: &str, ended: bool) {
        let words = |first: &str| [first, "-f", id].map(str::to_owned);
        if kind == Kind::Caisson {
            if !ended {
                self.finish(self.caisson(&words("rm")));
            }
            return;
        }
        if self.bundles().join(id).exists() {
            // `run` removes it unless it fails half way, which is when this matters.
            let words = match kind {
                Kind::Runsc => words("delete").map(|word| word.replace("-f", "-force")),
                _ => words("delete"),
            };
            self.finish(self.runtime(kind, &words));
        }
        Bundle::remove(&self.bundles(), id);
        self.networks.remove(id);
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        leftover::cgroups(&self.parent);
        leftover::mounts(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Mount, Publish};

    #[test]
    fn a_container_is_asked_for_in_our_words() {
        let image = Image {
            name: "busybox".to_owned(),
            unpacked: None,
        };
        let mut container = Container::new(&image, ["true"]);
        let words = |container: &Container| run("c", container, false).join(" ");
        assert_eq!(
            words(&container),
            "run --rm --name c --network none busybox true"
        );
        container.publish = Some(Publish {
            host: 3012,
            container: 3000,
        });
        container.mounts = vec![Mount::read_only("/srv", "/data")];
        container.pids = Some(64);
        container.host_pid = true;
        assert_eq!(
            words(&container),
            "run --rm --name c --publish 127.0.0.1:3012:3000 --volume /srv:/data:ro --pid host \
             --pids-limit 64 busybox true"
        );
    }
}
