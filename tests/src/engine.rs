//! A containerd of its own for each test: its own root, state and socket, and the proof at
//! the end that nothing is left.

mod cri;
mod left;

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, output, programs, text};

/// Name of the image that every engine here has.
pub const IMAGE: &str = "docker.io/library/busybox:latest";

/// Our runtime.
pub const RUNTIME: &str = "io.containerd.caisson.v2";

/// Caisson's own configuration, in the engine's folder.
const SETTINGS: &str = "caisson.toml";

/// containerd gives up on a shim after a few seconds, which one may take on a busy host.
const TIMEOUTS: &str = "[timeouts]\n\
    \"io.containerd.timeout.shim.cleanup\" = \"60s\"\n\
    \"io.containerd.timeout.shim.load\" = \"60s\"\n\
    \"io.containerd.timeout.shim.shutdown\" = \"60s\"\n\
    \"io.containerd.timeout.task.state\" = \"60s\"\n";

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// 1.6, installed: Debian 12's own.
    Installed,
    /// 1.7, unpacked.
    Previous,
    /// 2.x, unpacked.
    Newest,
}

impl Release {
    fn folder(self) -> PathBuf {
        match self {
            Self::Installed => PathBuf::from("/usr/bin"),
            Self::Previous => programs::engine("containerd-1.7").join("usr/bin"),
            Self::Newest => programs::engine("containerd-2").join("usr/bin"),
        }
    }

    /// Its column in the table of `docs/engines.md`.
    fn column(self) -> &'static str {
        match self {
            Self::Installed => "containerd 1.6",
            Self::Previous => "containerd 1.7",
            Self::Newest => "containerd 2",
        }
    }

    /// How its version begins.
    pub fn version(self) -> &'static str {
        match self {
            Self::Installed => "1.6.",
            Self::Previous => "1.7.",
            Self::Newest => "2.",
        }
    }
}

/// What containerd is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// ctr and Docker.
    Tasks,
    /// Kubernetes' interface.
    Cri,
    /// The same, with pods that the Sandbox service makes.
    Sandboxes,
}

/// Notes that an engine has shown a feature, for the table at the end of `make test`, which
/// holds it against that of `docs/engines.md`.
pub fn shown(engine: &str, feature: &str) {
    let path = programs::target().join("engines-seen.tsv");
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("a file");
    // One write: tests run side by side.
    file.write_all(format!("{engine}\t{feature}\n").as_bytes())
        .expect("written");
}

/// Makes a test of each function with each release, under a name of its own.
#[macro_export]
macro_rules! each_release {
    ($($test:ident),* $(,)?) => {
        mod containerd_1_6 { $(#[test] fn $test() { super::$test($crate::engine::Release::Installed) })* }
        mod containerd_1_7 { $(#[test] fn $test() { super::$test($crate::engine::Release::Previous) })* }
        mod containerd_2 { $(#[test] fn $test() { super::$test($crate::engine::Release::Newest) })* }
    };
}

/// A running containerd.
pub struct Containerd {
    scratch: tempfile::TempDir,
    release: Release,
    purpose: Purpose,
    daemon: Child,
}

impl Containerd {
    /// Starts one with the image [`IMAGE`].
    ///
    /// # Panics
    /// If what `make setup` and `make build` make is missing.
    pub fn start(release: Release) -> Self {
        let rest = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        Self::with(release, Purpose::Tasks, |_| rest.to_owned())
    }

    /// Starts one that can keep snapshots in files with a file system each: `--snapshotter
    /// blockfile` (1.7 and later).
    ///
    /// # Panics
    /// If what `make setup` and `make build` make is missing.
    pub fn with_blockfile(release: Release) -> Self {
        Self::with(release, Purpose::Tasks, |folder| {
            format!(
                "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{}",
                blockfile(folder)
            )
        })
    }

    /// Starts one with the CRI plugin, whose runtime is ours, in a network namespace of its
    /// own: what CNI plugins make is in there and ends with it.
    ///
    /// # Panics
    /// If what `make setup` and `make build` make is missing.
    pub fn with_cri(release: Release) -> Self {
        Self::with(release, Purpose::Cri, |folder| {
            cri::configuration(folder, "")
        })
    }

    /// Starts one as [`Self::with_cri`] does, which makes pods through the Sandbox service
    /// (1.7 and later).
    ///
    /// # Panics
    /// If what `make setup` and `make build` make is missing.
    pub fn with_sandbox_service(release: Release) -> Self {
        let runtime = match release {
            Release::Installed | Release::Previous => "sandbox_mode = \"shim\"\n",
            Release::Newest => "sandboxer = \"shim\"\n",
        };
        Self::with(release, Purpose::Sandboxes, |folder| {
            cri::configuration(folder, runtime)
        })
    }

    fn with(release: Release, purpose: Purpose, rest: impl Fn(&Path) -> String) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = scratch.path();
        let programs = folder.join("bin");
        std::fs::create_dir(&programs).expect("a folder");
        // The shim is looked for in containerd's own PATH and knows itself where its parts are.
        std::os::unix::fs::symlink(
            programs::shim(),
            programs.join("containerd-shim-caisson-v2"),
        )
        .expect("a link");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{}{TIMEOUTS}\
             [grpc]\naddress = {:?}\n[debug]\nlevel = \"debug\"\n",
            folder.join("root"),
            folder.join("state"),
            rest(folder),
            folder.join("c.sock"),
        );
        std::fs::write(folder.join("config.toml"), config).expect("written");
        std::fs::write(folder.join(SETTINGS), "").expect("written");
        let daemon = Self::daemon(release, purpose, folder);
        let containerd = Self {
            scratch,
            release,
            purpose,
            daemon,
        };
        containerd.ready();
        let image = programs::demo_image();
        containerd.ok(&["image", "import", &image.to_string_lossy()]);
        containerd
    }

    fn daemon(release: Release, purpose: Purpose, folder: &Path) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .expect("a log");
        let path = format!(
            "{}:{}:/usr/sbin:/usr/bin:/sbin:/bin",
            folder.join("bin").display(),
            release.folder().display()
        );
        let program = release.folder().join("containerd");
        let mut daemon = match purpose {
            Purpose::Tasks => Command::new(program),
            Purpose::Cri | Purpose::Sandboxes => cri::in_namespace(&program),
        };
        if purpose == Purpose::Sandboxes {
            // Without it, 1.7 does not know of the service.
            daemon.env("ENABLE_CRI_SANDBOXES", "1");
        }
        daemon
            .arg("--config")
            .arg(folder.join("config.toml"))
            .env("PATH", path)
            .env("CAISSON_CONFIG", folder.join(SETTINGS))
            .env("CAISSON_ROOT", folder.join("caisson"))
            .env("CAISSON_RUN", folder.join("run"))
            // Where it unpacks checkpoints, and leaves them (1.6).
            .env("XDG_RUNTIME_DIR", folder)
            .envs(programs::places())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("containerd starts")
    }

    fn ready(&self) {
        let socket = self.socket();
        eventually("containerd listens", || {
            UnixStream::connect(&socket).is_ok()
        });
        eventually("containerd answers", || {
            self.run(&["version"], b"").status.success()
        });
    }

    /// Ends containerd as a crash would, and starts it again.
    pub fn restart(&mut self) {
        self.daemon.kill().expect("killed");
        self.daemon.wait().expect("ended");
        self.daemon = Self::daemon(self.release, self.purpose, self.scratch.path());
        self.ready();
    }

    /// Gives the shims that are started from now on a configuration.
    pub fn configure(&self, settings: &str) {
        std::fs::write(self.scratch.path().join(SETTINGS), settings).expect("written");
    }

    /// The files in which its blockfile snapshotter keeps active snapshots and others.
    pub fn snapshot_files(&self) -> Vec<PathBuf> {
        let folder = self.scratch.path().join("blockfile/snapshots");
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.map(|file| file.path()).collect()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("c.sock")
    }

    /// A folder that a test may use as it likes.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.scratch.path().join("test").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// The namespace of containerd's that it is used in.
    fn namespace(&self) -> &'static str {
        match self.purpose {
            Purpose::Tasks => "default",
            Purpose::Cri | Purpose::Sandboxes => "k8s.io",
        }
    }

    /// Notes that this release has shown a feature.
    pub fn shows(&self, feature: &str) {
        shown(self.release.column(), feature);
    }

    /// `ctr` of this engine, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.release.folder().join("ctr"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", self.namespace()])
            .args(arguments);
        command
    }

    /// Runs `ctr` to its end.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        output(self.command(arguments), input)
    }

    /// Runs `ctr`, which must succeed, and returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, b"");
        assert!(
            output.status.success(),
            "{arguments:?}: {}: {}",
            output.status,
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// `ctr run` with our runtime: flags, then the container's name and its program.
    pub fn container(&self, flags: &[&str], name: &str, program: &[&str], input: &[u8]) -> Output {
        let mut arguments = vec!["run", "--runtime", RUNTIME];
        arguments.extend(flags);
        arguments.extend([IMAGE, name]);
        arguments.extend(program);
        self.run(&arguments, input)
    }

    /// A container that runs until it is killed.
    pub fn detached(&self, name: &str) {
        let output = self.container(&["-d"], name, &["sleep", "1000"], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// What `ctr task ls` says of a container.
    pub fn status(&self, name: &str) -> Option<String> {
        let list = self.ok(&["task", "ls"]);
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }

    /// Removes a container and its task, of what there is. Where something was killed, the engine
    /// may not have noticed yet, or be cleaning up at this moment.
    pub fn remove(&self, name: &str) {
        eventually(&format!("task {name} can be removed"), || {
            // It ends with the code of the task.
            self.run(&["task", "rm", "-f", name], b"");
            self.status(name).is_none()
        });
        let containers = self.ok(&["container", "ls", "-q"]);
        if containers.lines().any(|line| line == name) {
            self.ok(&["container", "rm", name]);
        }
    }

    /// What the engine and its shims have logged. A shim's lines come through the engine, a
    /// moment after what they tell of.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).expect("a log")
    }
}

/// Configuration of the blockfile snapshotter. Its files begin as copies of an empty file
/// system.
fn blockfile(folder: &Path) -> String {
    let empty = folder.join("empty.ext4");
    let file = File::create(&empty).expect("a file");
    file.set_len(32 << 20).expect("a sparse file");
    let made = Command::new("mkfs.ext4").arg("-q").arg(&empty).status();
    assert!(made.is_ok_and(|status| status.success()), "e2fsprogs");
    format!(
        "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\nroot_path = {:?}\n\
         scratch_file = {empty:?}\nfs_type = \"ext4\"\nmount_options = [\"loop\"]\n",
        folder.join("blockfile"),
    )
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            for shim in self.processes(&["containerd-shim"]) {
                // It may have ended meanwhile.
                let shim = i32::try_from(shim).ok().and_then(Pid::from_raw);
                let _ = shim.map(|shim| kill_process(shim, Signal::KILL));
            }
            for mount in self.mounts() {
                let _ = rustix::mount::unmount(&*mount, rustix::mount::UnmountFlags::DETACH);
            }
        } else {
            eventually("nothing of the engine's containers is left", || {
                self.left().is_empty()
            });
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
