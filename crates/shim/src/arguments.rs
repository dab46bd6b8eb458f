//! The command line, as containerd's own shims take it: Go's flags, with one dash or two,
//! before the action.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// Serve the Task service; what `start` starts.
    #[default]
    Serve,
    /// Make sure that a shim serves the container and tell its address.
    Start,
    /// Remove what a shim that is gone has left.
    Delete,
    /// Say what this runtime is.
    Info,
    /// Print the version.
    Version,
}

/// What the engine says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// What is to be done.
    pub action: Action,
    /// Namespace of containerd's in which the container is.
    pub namespace: String,
    /// Id of the container, or of the sandbox that is served.
    pub id: String,
    /// Socket of containerd's gRPC API.
    pub address: String,
    /// The program that publishes events where there is no ttrpc socket.
    pub publish_binary: PathBuf,
    /// Folder of the container, for `delete`.
    pub bundle: PathBuf,
    /// Socket to be served.
    pub socket: PathBuf,
    /// Say more.
    pub debug: bool,
}

impl Arguments {
    /// Reads the command line without the program's name.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut arguments = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = text(word)?;
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                return arguments.act(&word);
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if let Some(set) = arguments.switch(name) {
                *set = value.as_deref() != Some("false");
                continue;
            }
            match name {
                "v" | "version" => arguments.action = Action::Version,
                "info" => arguments.action = Action::Info,
                _ => {
                    let value =
                        match value {
                            Some(value) => value,
                            None => text(words.next().ok_or_else(|| {
                                Error::Arguments(format!("-{name} needs a value"))
                            })?)?,
                        };
                    arguments.set(name, value)?;
                }
            }
        }
        arguments.checked()
    }

    fn switch(&mut self, name: &str) -> Option<&mut bool> {
        (name == "debug").then_some(&mut self.debug)
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value.into(),
            "bundle" => self.bundle = value.into(),
            "socket" => self.socket = value.into(),
            // Of a profiler that we do not have.
            "debug-socket" => {}
            _ => return Err(Error::Arguments(format!("there is no flag -{name}"))),
        }
        Ok(())
    }

    fn act(mut self, action: &str) -> Result<Self> {
        self.action = match action {
            "start" => Action::Start,
            "delete" => Action::Delete,
            _ => return Err(Error::Arguments(format!("there is no action {action:?}"))),
        };
        self.checked()
    }

    fn checked(self) -> Result<Self> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(self);
        }
        if self.namespace.is_empty() || self.id.is_empty() {
            return Err(Error::Arguments(
                "it is started by containerd, with -namespace and -id; see docs/engines.md"
                    .to_owned(),
            ));
        }
        if self.action == Action::Serve && self.socket.as_os_str().is_empty() {
            return Err(Error::Arguments("-socket is missing".to_owned()));
        }
        Ok(self)
    }
}

fn text(word: OsString) -> Result<String> {
    word.into_string()
        .map_err(|word| Error::Arguments(format!("{word:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_own_lines_are_read() {
        let start = parse(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id a -debug start",
        )
        .expect("read");
        assert_eq!(start.action, Action::Start);
        assert_eq!(start.namespace, "default");
        assert_eq!(start.id, "a");
        assert!(start.debug);
        let delete = parse("--namespace=n --id=b -bundle /b delete").expect("read");
        assert_eq!(delete.action, Action::Delete);
        assert_eq!(delete.bundle, PathBuf::from("/b"));
        assert_eq!(parse("-v").expect("read").action, Action::Version);
        assert_eq!(parse("-info").expect("read").action, Action::Info);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, reason) in [
            ("-id a start", "-namespace"),
            ("-namespace n -id a stop", "\"stop\""),
            ("-namespace n -id a -colour red start", "-colour"),
            ("-namespace n -id", "-id needs a value"),
            ("-namespace n -id a", "-socket"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
