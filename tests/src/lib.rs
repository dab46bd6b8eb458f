//! A Caisson of its own for each test: its own folders, images and containers,
//! and the proof at the end that nothing is left.

pub mod browser;
pub mod comparison;
pub mod docker;
pub mod engine;
pub mod frames;
pub mod http;
pub mod image;
pub mod legibility;
pub mod netns;
pub mod programs;
pub mod registry;
pub mod schema;
pub mod terminal;

use std::ffi::OsStr;
use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No single command of a test may take longer. Only what hangs does.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

/// How long something may take to come true on a machine that has other things to do. Longer
/// than a single try may take, so that one that went wrong is not the last.
const PATIENCE: Duration = Duration::from_secs(180);

/// Variable by which every process of an installation is known, whatever it has open.
const MARK: &str = "INSTALLATION_UNDER_TEST";

/// A Caisson installation in a scratch folder.
pub struct Caisson {
    scratch: tempfile::TempDir,
    /// The network namespace that stands for the host's, if another does.
    network: Option<PathBuf>,
}

impl Caisson {
    /// An installation with the image `busybox:latest`.
    ///
    /// # Panics
    /// If what `make build` makes is missing.
    pub fn new() -> Self {
        let caisson = Self::without_images();
        let image = programs::demo_image();
        caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
        caisson
    }

    /// An installation with nothing in it.
    pub fn without_images() -> Self {
        Self {
            scratch: tempfile::tempdir().expect("a scratch folder"),
            network: None,
        }
    }

    /// An installation whose host's network is a namespace, with nothing in it.
    pub fn inside(host: &netns::Netns) -> Self {
        let mut caisson = Self::without_images();
        caisson.network = Some(host.path());
        caisson
    }

    /// Folder of this installation.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// Folder of its sockets.
    pub fn run_directory(&self) -> PathBuf {
        self.scratch.path().join("run")
    }

    /// Folder that a test may use as it likes.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.scratch.path().join("test").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A command of this installation, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = match &self.network {
            Some(path) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", path.display()))
                    .arg(programs::caisson());
                command
            }
            None => Command::new(programs::caisson()),
        };
        command
            .env("CAISSON_CONFIG", "/dev/null")
            .env(MARK, self.scratch.path())
            .envs(programs::places())
            .arg("--root")
            .arg(self.root())
            .arg("--run-directory")
            .arg(self.run_directory())
            .args(arguments);
        command
    }

    /// Runs a command to its end, with nothing on standard input.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.run_with_input(arguments, b"")
    }

    /// Runs a command to its end, with `input` on standard input.
    pub fn run_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Output {
        output(self.command(arguments), input)
    }

    /// Runs a shell script in a new container, which must succeed, and returns
    /// what it printed.
    pub fn shell(&self, flags: &[&str], script: &str) -> String {
        let begin = ["run", "--rm"].iter().chain(flags);
        self.ok(begin.chain(&["busybox", "sh", "-ec", script]))
    }

    /// Runs a command that must succeed and returns its standard output.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let arguments: Vec<_> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        let output = self.run(&arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}: {}",
            output.status,
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command that must fail with `code` and returns its standard error.
    pub fn fails<S: AsRef<OsStr>>(
        &self,
        code: i32,
        arguments: impl IntoIterator<Item = S>,
    ) -> String {
        let arguments: Vec<_> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        let output = self.run(&arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stderr)
    }

    /// `inspect` of one container.
    pub fn inspect(&self, container: &str) -> serde_json::Value {
        let mut all: serde_json::Value =
            serde_json::from_str(&self.ok(["inspect", container])).expect("JSON");
        all[0].take()
    }

    /// Waits until a container has printed something.
    pub fn says(&self, container: &str, word: &str) {
        eventually(&format!("{container} says {word}"), || {
            self.ok(["logs", container]).contains(word)
        });
    }

    /// What is in a file of a container that runs; none if it cannot be read.
    pub fn file(&self, container: &str, path: &str) -> Option<String> {
        let output = self.run(["exec", container, "cat", path]);
        output.status.success().then(|| text(&output.stdout))
    }

    /// Whether a program of this name runs in a container.
    pub fn has(&self, container: &str, program: &str) -> bool {
        let found = self.run(["exec", container, "pidof", program]);
        found.status.success()
    }

    /// The program that the QEMU of a container was executed with, and its arguments.
    pub fn qemu(&self, container: &str) -> (String, String) {
        let machine = &self.inspect(container)["MachinePids"];
        let pids = machine.as_array().expect("pids").iter();
        let is_qemu = |pid: &String| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
            name.starts_with("qemu-system")
        };
        let pid = pids.map(ToString::to_string).find(is_qemu);
        let pid = pid.expect("a QEMU");
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("a program");
        let program = program.file_name().expect("a name").display().to_string();
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("arguments");
        (program, text(&arguments).replace('\0', " "))
    }

    /// Processes of the host that were started by commands of this installation,
    /// or have its folder among their arguments or open files, and their children.
    pub fn processes(&self) -> Vec<u32> {
        let folder = self.scratch.path();
        let all: Vec<u32> = std::fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let mut ours: Vec<u32> = all
            .iter()
            .copied()
            .filter(|pid| *pid != std::process::id() && uses(*pid, folder))
            .collect();
        let mut looked_at = 0;
        while looked_at < ours.len() {
            let parent = ours[looked_at];
            let children = all.iter().filter(|pid| parent_of(**pid) == Some(parent));
            let new: Vec<u32> = children
                .copied()
                .filter(|pid| !ours.contains(pid))
                .collect();
            ours.extend(new);
            looked_at += 1;
        }
        ours
    }
}

impl Default for Caisson {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Caisson {
    fn drop(&mut self) {
        let containers = self.run(["ps", "-a", "-q"]);
        let ids: Vec<_> = text(&containers.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        if !ids.is_empty() {
            self.run(["rm".to_owned(), "-f".to_owned()].into_iter().chain(ids));
        }
        if std::thread::panicking() {
            return;
        }
        eventually("no process of the installation is left", || {
            self.processes().is_empty()
        });
        let run = self.run_directory();
        let left: Vec<_> = std::fs::read_dir(&run)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert!(left.is_empty(), "left in the run directory: {left:?}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(
            !mounts.contains(&*self.scratch.path().to_string_lossy()),
            "a mount is left"
        );
    }
}

/// Runs a prepared command to its end, with `input` on standard input.
///
/// # Panics
/// If it does not end within the deadline of a command.
pub fn output(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    std::thread::spawn(move || {
        // A program may end without reading all of its input.
        let _ = stdin.write_all(&input);
    });
    finish(child)
}

/// Waits for the end of a command, and reads what it prints into pipes.
///
/// # Panics
/// If it does not end within the deadline of a command.
pub fn finish(child: Child) -> Output {
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(child.wait_with_output());
    });
    match ended.recv_timeout(COMMAND_DEADLINE) {
        Ok(output) => output.expect("output"),
        Err(_) => {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            kill(pid, "KILL");
            let shown = text(&arguments).replace('\0', " ");
            panic!("{shown} did not end within {COMMAND_DEADLINE:?}");
        }
    }
}

fn uses(pid: u32, folder: &Path) -> bool {
    let name = folder.to_string_lossy();
    for file in ["cmdline", "environ"] {
        let content = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if text(&content).contains(&*name) {
            return true;
        }
    }
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|target| target.starts_with(folder))
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a process holds of the memory, in KiB (proc(5), status).
///
/// # Panics
/// If it does not run.
pub fn resident(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    kibibytes
        .and_then(|number| number.parse().ok())
        .expect("a size in KiB")
}

/// Sends a signal to one process, by its pid.
pub fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status()
        .expect("kill");
    assert!(status.success(), "cannot send {signal} to {pid}");
}

/// Waits for a child to end by itself, within the deadline of a command.
///
/// # Panics
/// If it does not.
pub fn wait(mut child: Child) -> std::process::ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if begin.elapsed() > COMMAND_DEADLINE {
            kill(child.id(), "KILL");
            panic!("a command did not end within {COMMAND_DEADLINE:?}");
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Answers every question to a socket until the process ends: there is no such name.
pub fn resolve_nothing(resolver: UdpSocket) {
    std::thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, from)) = resolver.recv_from(&mut message) {
            // An answer, and no such name (RFC 1035, section 4.1.1).
            message[2] |= 0x80;
            message[3] = 0x83;
            let _ = resolver.send_to(&message[..length], from);
        }
    });
}

/// Looks until something holds; fails with `what` if it never does.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
