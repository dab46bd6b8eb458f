//! What is asked of a runtime, in the words that all of them have.

use std::path::PathBuf;
use std::time::Duration;

use super::engine::Image;

/// No container takes longer, unless it hangs: the first one in a machine may have to make a
/// template.
const DEADLINE: Duration = Duration::from_secs(300);

/// A container to be run.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its image, as [`super::Runtimes::load`] returned it.
    pub image: Image,
    /// Its program and arguments; empty for the image's own.
    pub command: Vec<String>,
    /// Folder in which the program starts; none for the image's.
    pub workdir: Option<String>,
    /// Files and folders of the host in it.
    pub mounts: Vec<Mount>,
    /// Every capability, nothing masked, and the devices that the runtime gives with that.
    pub privileged: bool,
    /// Capabilities beyond the engine's default, such as `CAP_SYSLOG`.
    pub capabilities: Vec<String>,
    /// In the process namespace of the host.
    pub host_pid: bool,
    /// A TCP port of the container that must be reachable from the host.
    pub publish: Option<Publish>,
    /// Most memory, in bytes.
    pub memory: Option<u64>,
    /// Most processes and threads.
    pub pids: Option<i64>,
    /// What it reads from its standard input.
    pub stdin: Vec<u8>,
    /// After this time it is killed, and its outcome says so.
    pub deadline: Duration,
}

/// A port of the container and how it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// Port of the host, where the engine publishes ports on it.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
}

/// A bind mount.
#[derive(Debug, Clone)]
pub struct Mount {
    /// File or folder of the host.
    pub source: PathBuf,
    /// Where the container has it.
    pub target: String,
    /// Whether it may be written.
    pub read_only: bool,
    /// A private copy-on-write view of the folder; only Caisson has it.
    pub overlay: bool,
}

impl Container {
    /// A container with an engine's defaults.
    pub fn new<S: Into<String>>(image: &Image, command: impl IntoIterator<Item = S>) -> Self {
        Self {
            image: image.clone(),
            command: command.into_iter().map(Into::into).collect(),
            workdir: None,
            mounts: Vec::new(),
            privileged: false,
            capabilities: Vec::new(),
            host_pid: false,
            publish: None,
            memory: None,
            pids: None,
            stdin: Vec::new(),
            deadline: DEADLINE,
        }
    }

    /// A container that runs a shell script.
    pub fn shell(image: &Image, script: &str) -> Self {
        Self::new(image, ["sh", "-c", script])
    }
}

impl Mount {
    /// A bind mount that may be written.
    pub fn writable(source: impl Into<PathBuf>, target: &str) -> Self {
        Self {
            source: source.into(),
            target: target.to_owned(),
            read_only: false,
            overlay: false,
        }
    }

    /// A bind mount whose changes stay in the container.
    pub fn overlay(source: impl Into<PathBuf>, target: &str) -> Self {
        Self {
            overlay: true,
            ..Self::writable(source, target)
        }
    }

    /// A bind mount that may only be read.
    pub fn read_only(source: impl Into<PathBuf>, target: &str) -> Self {
        Self {
            read_only: true,
            ..Self::writable(source, target)
        }
    }
}
