//! Engine `containerd`: one of the comparison's own, so that nothing of the host's is touched
//! and nothing of it is left.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::bundle::Bundle;
use super::container::Container;
use super::ctr;
use super::engine::{Engine, EngineName, Image, Invocation};
use super::host;
use super::installed::{Absent, Kind, Program};
use super::interrupt::Interrupt;
use super::leftover;
use super::network::Networks;
use super::process::{self, Outcome};
use super::rootfs;
use crate::error::{At, Error, Result};

/// How long it may take to answer, or to end.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long shims may take to end by themselves.
const SHIM_DEADLINE: Duration = Duration::from_secs(30);

/// Lines of its log that an error shows.
const LOG_LINES: usize = 5;

/// A running containerd.
pub struct Containerd {
    folder: PathBuf,
    ctr: PathBuf,
    caisson: PathBuf,
    daemon: Child,
    /// Namespace of its containers, and the name of their parent cgroup.
    namespace: String,
    networks: Networks,
    interrupt: Interrupt,
}

impl Containerd {
    /// Whether what it needs is installed.
    pub fn installed() -> bool {
        ["containerd", "ctr", "runc"]
            .iter()
            .all(|name| Program::find(name).is_some())
    }

    /// Starts it below a folder.
    pub fn start(caisson: &Path, scratch: &Path, interrupt: &Interrupt) -> Result<Self> {
        let wrong = |reason: String, remedy: &str| Error::Engine {
            engine: EngineName::Containerd,
            reason,
            remedy: remedy.to_owned(),
        };
        if !rustix::process::geteuid().is_root() {
            let remedy = "run `sudo caisson compare`";
            return Err(wrong("it needs to be started by root".to_owned(), remedy));
        }
        let program = |name: &str| {
            Program::find(name).ok_or_else(|| {
                let remedy = "apt-get install containerd runc, or choose --engine caisson";
                wrong(format!("{name} was not found in PATH"), remedy)
            })
        };
        let (containerd, ctr) = (program("containerd")?, program("ctr")?);
        let folder = scratch.join("containerd");
        for name in ["bin", "caisson", "run"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).at(path)?;
        }
        if let Some(shim) = Program::shim(caisson) {
            // It is looked for in containerd's PATH, and knows itself where its parts are.
            let link = folder.join("bin/containerd-shim-caisson-v2");
            std::os::unix::fs::symlink(shim, &link).at(link)?;
        }
        // Options of runsc come with its name only: its network would be made of interfaces of
        // the host's namespace.
        let script = folder.join("bin").join(ctr::RUNSC);
        std::fs::write(&script, "#!/bin/sh\nexec runsc --network=none \"$@\"\n").at(&script)?;
        std::fs::set_permissions(&script, Permissions::from_mode(0o755)).at(&script)?;
        let config = folder.join("config.toml");
        std::fs::write(&config, configuration(&folder)).at(&config)?;
        let daemon = daemon(&containerd, &folder)?;
        let mut engine = Self {
            folder,
            ctr,
            caisson: caisson.to_owned(),
            daemon,
            namespace: format!("caisson-compare-{}", std::process::id()),
            networks: Networks::default(),
            interrupt: interrupt.clone(),
        };
        if let Err(reason) = engine.ready() {
            if interrupt.is_set() {
                return Err(Error::Interrupted);
            }
            let remedy = "try `containerd` by hand, or --engine caisson";
            return Err(wrong(reason, remedy));
        }
        Ok(engine)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("c.sock")
    }

    fn ready(&mut self) -> std::result::Result<(), String> {
        let begin = Instant::now();
        let socket = self.socket();
        while begin.elapsed() < DEADLINE {
            if self.interrupt.is_set() {
                return Err("interrupted".to_owned());
            }
            if let Ok(Some(status)) = self.daemon.try_wait() {
                return Err(format!("it ended with {status}: {}", self.last_words()));
            }
            // It listens before it answers.
            if UnixStream::connect(&socket).is_ok() && self.succeeds(&["version"]) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let last = self.last_words();
        Err(format!("no answer within {DEADLINE:?}: {last}"))
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("; ")
    }

    fn invoke(&self, arguments: &[&str]) -> Invocation {
        let words: Vec<_> = arguments.iter().map(|word| (*word).to_owned()).collect();
        self.ctr(&words)
    }

    fn ctr(&self, words: &[String]) -> Invocation {
        let socket = self.socket().to_string_lossy().into_owned();
        let private = ["--address", &socket, "--namespace", &self.namespace];
        Invocation::new(&self.ctr, private, words)
    }

    /// A command of ours, also while the comparison is taken down.
    fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        let invocation = self.invoke(arguments);
        process::run(invocation, b"", DEADLINE, &Interrupt::default())
    }

    fn succeeds(&self, arguments: &[&str]) -> bool {
        self.run(arguments).is_ok_and(|outcome| outcome.success())
    }

    fn list(&self, arguments: &[&str]) -> Vec<String> {
        let outcome = self.run(arguments);
        outcome.map_or(Vec::new(), |outcome| {
            outcome.text().lines().map(str::to_owned).collect()
        })
    }

    /// Processes that belong to this containerd and no other: its shims are told its socket.
    fn shims(&self) -> Vec<u32> {
        host::processes_with_argument(&self.socket().to_string_lossy())
    }
}

/// Everything below one folder; nothing of Kubernetes, which would look for CNI networks.
fn configuration(folder: &Path) -> String {
    format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {:?}\n",
        folder.join("root"),
        folder.join("state"),
        folder.join("c.sock"),
    )
}

fn daemon(program: &Path, folder: &Path) -> Result<Child> {
    let path = folder.join("log");
    let log = File::create(&path).at(&path)?;
    let second = log.try_clone().at(path)?;
    let search = std::env::var("PATH").unwrap_or_default();
    // It shall not outlive us, however we end; and a Ctrl-C is for us alone.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM"])
        .arg(program)
        .arg("--config")
        .arg(folder.join("config.toml"))
        .env(
            "PATH",
            format!(
                "{}:{search}:/usr/local/sbin:/usr/sbin:/sbin",
                folder.join("bin").display()
            ),
        )
        .env("CAISSON_ROOT", folder.join("caisson"))
        .env("CAISSON_RUN", folder.join("run"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(second)
        .process_group(0);
    command.spawn().map_err(|source| Error::Spawn {
        program: format!("setpriv {}", program.display()),
        source,
    })
}

impl Engine for Containerd {
    fn name(&self) -> EngineName {
        EngineName::Containerd
    }

    fn version(&self) -> String {
        let said = self.run(&["version"]).map(|outcome| outcome.text());
        let said = said.unwrap_or_default();
        // The client's part comes first; the server's is what runs containers.
        let server = said.split_once("Server:").map_or("", |(_, server)| server);
        let version = server
            .lines()
            .find_map(|line| line.trim().strip_prefix("Version:"));
        version.unwrap_or("unknown").trim().to_owned()
    }

    fn configuration(&self) -> String {
        format!(
            "# config.toml of the private containerd\n{}\n\
             # io.containerd.caisson.v2 needs no more than containerd-shim-caisson-v2 in containerd's PATH.",
            configuration(Path::new("/SCRATCH"))
        )
    }

    fn missing(&self, kind: Kind) -> Option<Absent> {
        let (found, program) = match kind {
            Kind::Runc => (Program::find("runc"), "runc"),
            Kind::Crun => (Program::find("crun"), "crun"),
            Kind::Runsc => (Program::find("runsc"), "runsc"),
            Kind::Caisson => (Program::shim(&self.caisson), "containerd-shim-caisson-v2"),
        };
        found.is_none().then(|| kind.not_found(program))
    }

    fn load(&self, archive: &Path) -> Result<Image> {
        let name = archive.to_string_lossy();
        let before = self.list(&["image", "ls", "-q"]);
        let outcome = process::run(
            self.invoke(&["image", "import", &name]),
            b"",
            DEADLINE * 5,
            &self.interrupt,
        )?;
        if !outcome.success() {
            return Err(Error::Command(Box::new(outcome)));
        }
        // What it prints differs from one release to the next.
        let after = self.list(&["image", "ls", "-q"]);
        let Some(imported) = after.iter().find(|image| !before.contains(image)) else {
            return Err(Error::Image {
                image: name.into_owned(),
                reason: "it is in the engine already, or has no name".to_owned(),
            });
        };
        let unpacked = rootfs::unpack(archive, &self.folder.join("images"))?;
        Ok(Image {
            name: imported.clone(),
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
        let mut words = vec!["run".to_owned()];
        let mut push = |new: &[&str]| words.extend(new.iter().map(|word| (*word).to_owned()));
        push(&[if detached { "--detach" } else { "--rm" }]);
        let network = match container.publish {
            Some(_) => Some(self.networks.add(id)?),
            None => None,
        };
        if container.mounts.iter().any(|mount| mount.overlay) {
            return Err(Error::Unsupported {
                engine: EngineName::Containerd,
                what: "volumes with a private copy-on-write view",
            });
        }
        let (mut config, mut flags) = (None, Vec::new());
        if container.pids.is_some() || container.host_pid {
            // `ctr run` has no flag for these, but takes a whole specification.
            let bundle = Bundle::new(&self.folder.join("bundles"), id, container)?;
            bundle.write(&self.namespace, network.as_deref())?;
            config = Some(bundle.config().to_string_lossy().into_owned());
        } else {
            flags = ctr::flags(container, network.as_deref());
        }
        words.extend(ctr::runtime(kind));
        if let Some(config) = config {
            words.extend(["--config".to_owned(), config, id.to_owned()]);
        } else {
            words.extend(flags);
            words.extend([container.image.name.clone(), id.to_owned()]);
            words.extend(container.command.iter().cloned());
        }
        Ok(self.ctr(&words))
    }

    fn exec(&self, _kind: Kind, id: &str, command: &[String]) -> Invocation {
        let exec = super::new_id();
        let mut words = ["task", "exec", "--exec-id", &exec, id]
            .map(str::to_owned)
            .to_vec();
        words.extend(command.iter().cloned());
        self.ctr(&words)
    }

    fn address(&self, _kind: Kind, id: &str, container: &Container) -> Option<SocketAddr> {
        let address = self.networks.address(id)?;
        Some((address, container.publish?.container).into())
    }

    fn processes(&self, _kind: Kind, id: &str, _started: &Outcome) -> Vec<u32> {
        host::processes_with_argument(id)
    }

    fn remove(&self, _kind: Kind, id: &str, ended: bool) {
        if !ended {
            // Either may be gone already.
            let _ = self.run(&["task", "rm", "--force", id]);
            let _ = self.run(&["container", "rm", id]);
        }
        Bundle::remove(&self.folder.join("bundles"), id);
        self.networks.remove(id);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for task in self.list(&["task", "ls", "-q"]) {
            let _ = self.run(&["task", "rm", "--force", &task]);
        }
        for container in self.list(&["container", "ls", "-q"]) {
            let _ = self.run(&["container", "rm", &container]);
        }
        let begin = Instant::now();
        while !self.shims().iter().all(|pid| *pid == self.daemon.id())
            && begin.elapsed() < SHIM_DEADLINE
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        let signal = |pid: u32, signal| {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
        };
        // What did not end by itself was given our socket: it is nobody else's.
        for pid in self.shims() {
            signal(pid, Signal::KILL);
        }
        signal(self.daemon.id(), Signal::TERM);
        let begin = Instant::now();
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if begin.elapsed() > DEADLINE {
                let _ = self.daemon.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.daemon.wait();
        let state = self.folder.join("state");
        leftover::containerd(&self.namespace, &state, &super::id_prefix());
        leftover::cgroups(&self.namespace);
        leftover::mounts(&self.folder);
    }
}
