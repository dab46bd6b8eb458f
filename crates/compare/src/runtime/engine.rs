//! What an engine knows: which commands a user types.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use super::container::Container;
use super::installed::{Absent, Kind};
use super::process::Outcome;
use super::rootfs;
use crate::error::Result;

/// Who is asked to run containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineName {
    /// A containerd that the comparison starts for itself.
    Containerd,
    /// The Docker Engine of the host.
    Docker,
    /// None: `caisson run` beside runtimes that are given a bundle.
    Caisson,
}

impl EngineName {
    /// The name that a user types.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Caisson => "caisson",
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EngineName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Containerd, Self::Docker, Self::Caisson]
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no engine: containerd, docker or caisson"))
    }
}

/// An image as an engine has it.
#[derive(Debug, Clone)]
pub struct Image {
    /// What the engine calls it.
    pub name: String,
    /// Its files and configuration, for runtimes that are given a bundle.
    pub(super) unpacked: Option<PathBuf>,
}

impl Image {
    /// Whether its configuration says that something listens on this TCP port (image-spec,
    /// config.md).
    pub fn exposes(&self, port: u16) -> bool {
        let Some(folder) = &self.unpacked else {
            return false;
        };
        let text = std::fs::read(folder.join(rootfs::CONFIG)).unwrap_or_default();
        let image: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        !image["config"]["ExposedPorts"][format!("{port}/tcp")].is_null()
    }
}

/// A command, and how a user types it.
#[derive(Debug)]
pub struct Invocation {
    /// What is run.
    pub command: Command,
    /// What a user types who has the engine's usual set-up.
    pub shown: String,
}

impl Invocation {
    /// A program with arguments that are shown, after options that are not: where a private
    /// engine is, for one.
    pub fn new<S: AsRef<OsStr>>(
        program: &Path,
        hidden: impl IntoIterator<Item = S>,
        arguments: &[String],
    ) -> Self {
        let mut command = Command::new(program);
        command.args(hidden).args(arguments);
        let name = program.file_name().unwrap_or(program.as_os_str());
        let words: Vec<_> = std::iter::once(quoted(&name.to_string_lossy()))
            .chain(arguments.iter().map(|word| quoted(word)))
            .collect();
        Self {
            command,
            shown: words.join(" "),
        }
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What differs from one engine to the next.
pub trait Engine: Send + Sync {
    /// Which one it is.
    fn name(&self) -> EngineName;

    /// What it says of its version.
    fn version(&self) -> String;

    /// How a user makes it know Caisson.
    fn configuration(&self) -> String;

    /// Why a runtime cannot be used, and the command that installs it.
    fn missing(&self, kind: Kind) -> Option<Absent>;

    /// Makes the image of an OCI archive known.
    fn load(&self, archive: &Path) -> Result<Image>;

    /// The command that runs a container: to its end, or in the background.
    fn invocation(
        &self,
        kind: Kind,
        id: &str,
        container: &Container,
        detached: bool,
    ) -> Result<Invocation>;

    /// The command that runs a program in a running container.
    fn exec(&self, kind: Kind, id: &str, command: &[String]) -> Invocation;

    /// Where the published port of a running container is reached.
    fn address(&self, kind: Kind, id: &str, container: &Container) -> Option<SocketAddr>;

    /// Processes that the host has because of a running container; `started` is the outcome of
    /// the command that started it.
    fn processes(&self, kind: Kind, id: &str, started: &Outcome) -> Vec<u32>;

    /// Removes what is left of a container; ends it first unless its command has ended by itself.
    fn remove(&self, kind: Kind, id: &str, ended: bool);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        let words = ["run", "a b", "it's", ""].map(str::to_owned);
        let invocation = Invocation::new(Path::new("/usr/bin/ctr"), ["-a", "sock"], &words);
        assert_eq!(invocation.shown, r"ctr run 'a b' 'it'\''s' ''");
        assert_eq!(invocation.command.get_args().count(), 6);
    }

    #[test]
    fn engines_have_names() {
        assert_eq!("docker".parse(), Ok(EngineName::Docker));
        assert!("podman".parse::<EngineName>().is_err());
    }
}
