//! A Caisson of its own for each test: its own folders, images and containers,
//! and the proof at the end that nothing is left.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No single command of a test may take longer.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// A Caisson installation in a scratch folder.
pub struct Caisson {
    scratch: tempfile::TempDir,
}

impl Caisson {
    /// An installation with the image `busybox:latest`.
    ///
    /// # Panics
    /// If what `make build` makes is missing.
    pub fn new() -> Self {
        let caisson = Self {
            scratch: tempfile::tempdir().expect("a scratch folder"),
        };
        let image = workspace().join("target/demo/busybox.tar");
        assert!(
            image.exists(),
            "{} is missing: run `make build`",
            image.display()
        );
        caisson.ok(["load", "-q", "-i", &image.to_string_lossy()]);
        caisson
    }

    /// Folder of this installation.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// Folder that a test may use as it likes.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.scratch.path().join("test").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A command of this installation, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let program = workspace().join("target/release/caisson");
        assert!(
            program.exists(),
            "{} is missing: run `make build`",
            program.display()
        );
        let mut command = Command::new(program);
        command
            .env("CAISSON_CONFIG", "/dev/null")
            .arg("--root")
            .arg(self.root())
            .arg("--run-directory")
            .arg(self.scratch.path().join("run"))
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
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = command.spawn().expect("the command starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        std::thread::spawn(move || {
            // A program may end without reading all of its input.
            let _ = stdin.write_all(&input);
        });
        let pid = child.id();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = done.send(child.wait_with_output());
        });
        match ended.recv_timeout(COMMAND_DEADLINE) {
            Ok(output) => output.expect("output"),
            Err(_) => {
                kill(pid, "KILL");
                panic!("{shown} did not end within {COMMAND_DEADLINE:?}");
            }
        }
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

    /// Processes of the host that have this installation's folder among their
    /// arguments or open files.
    pub fn processes(&self) -> Vec<u32> {
        let folder = self.scratch.path();
        std::fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != std::process::id() && uses(*pid, folder))
            .collect()
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
        let run = self.scratch.path().join("run");
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

fn uses(pid: u32, folder: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if text(&command).contains(&*folder.to_string_lossy()) {
        return true;
    }
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|target| target.starts_with(folder))
}

/// Root of the source tree.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the workspace")
        .to_owned()
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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

/// Looks until something holds; fails with `what` if it never does.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "not within 20 s: {what}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
