//! What can be configured, and where each value came from.
//!
//! A flag goes over the environment (`CAISSON_MEMORY` for `memory`), that over
//! the configuration file, and that over the default. Everything is settled
//! once, before a command begins. Both front doors read the same configuration.

mod document;
mod key;
mod place;
pub mod size;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use caisson_hypervisor::{Hypervisor, Selected, Selection, TemplateStore};

use document::Document;
pub use key::HYPERVISORS;
use key::{KEYS, Key, Value};
use place::Surroundings;
pub use place::clean;

/// What is in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of images and containers.
    pub root: PathBuf,
    /// Folder of sockets, empty after the next boot of the host.
    pub run: PathBuf,
    /// How much is said on standard error.
    pub log_level: String,
    /// Bytes of a container's log before it is rotated.
    pub log_max_size: u64,
    /// Virtual CPUs of a container without `--cpus`.
    pub cpus: u32,
    /// Guest memory of a container without `--memory`, in bytes.
    pub memory: u64,
    /// Bytes of the writable layer's disk.
    pub scratch_size: u64,
    /// Seconds that a guest may take to boot.
    pub boot_deadline: u64,
    /// `auto`; `state` for forks whose QEMU is executed and loads a state; `off` for machines
    /// that boot.
    pub template: String,
    /// `auto` or the name of a driver.
    pub hypervisor: String,
    /// `auto`, `kvm` or `tcg`.
    pub accelerator: String,
    /// `qemu-system-x86_64`: a path, or a name that is looked up in `PATH`.
    pub qemu: PathBuf,
    /// `caisson-devices`.
    pub devices: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initramfs: PathBuf,
    /// Network of a container without `--network`: `user`, `bridge` or `none`.
    pub network: String,
    /// Whether guests on bridges and CNI networks may send from their own addresses only:
    /// `on`, `strict` (without offloads), `off`, or `auto` for those that no engine has asked
    /// for.
    pub anti_spoof: String,
    /// `passt`: a path, or a name that is looked up in `PATH`.
    pub passt: PathBuf,
    /// Registries that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    origins: BTreeMap<&'static str, Origin>,
}

/// A value given by a flag.
#[derive(Debug, Clone)]
pub struct Override {
    /// The setting.
    pub key: &'static str,
    /// The flag, for errors.
    pub flag: &'static str,
    /// What was given.
    pub value: String,
}

/// Where a value came from.
#[derive(Debug, Clone)]
enum Origin {
    Flag(&'static str),
    Environment(String),
    File { file: PathBuf, line: usize },
}

/// A mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// At a place of the file.
    #[error("{}:{line}:{column}: {reason}", file.display())]
    Place {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// In a flag or a variable.
    #[error("{name}={value}: {reason}")]
    Given {
        /// The flag or variable.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither folders nor a home are known.
    #[error(
        "HOME is not set, so the folder of images and containers is not known; give one with --root"
    )]
    NoHome,
    /// The program does not know where it is.
    #[error("cannot find the program that is running: {0}")]
    Program(io::Error),
}

/// Result of reading the configuration.
pub type Result<T> = std::result::Result<T, Error>;

impl Settings {
    /// Settles the configuration of this command.
    pub fn load(overrides: &[Override]) -> Result<Self> {
        let environment = |name: &str| std::env::var_os(name);
        Self::settle(&Surroundings::ours(&environment)?, overrides)
    }

    fn settle(surroundings: &Surroundings<'_>, overrides: &[Override]) -> Result<Self> {
        let mut settings = surroundings.defaults();
        if let Some(document) = surroundings.document()? {
            settings.read(&document)?;
        }
        for key in KEYS {
            let name = key.variable();
            if let Some(value) = (surroundings.environment)(&name) {
                let text = text(&name, value)?;
                settings.give(key, Value::text(key, &text), &name, &text)?;
                settings.origins.insert(key.name, Origin::Environment(name));
            }
        }
        for given in overrides {
            // A flag whose key is not there is a mistake of ours that every test meets.
            let Some(key) = KEYS.iter().find(|key| key.name == given.key) else {
                continue;
            };
            settings.give(
                key,
                Value::text(key, &given.value),
                given.flag,
                &given.value,
            )?;
            settings.origins.insert(key.name, Origin::Flag(given.flag));
        }
        if settings.root.as_os_str().is_empty() {
            return Err(Error::NoHome);
        }
        if !settings.origins.contains_key("run") {
            settings.run = surroundings.run(&settings.root);
        }
        Ok(settings)
    }

    fn read(&mut self, document: &Document) -> Result<()> {
        for entry in &document.entries {
            let at = |reason| document.mistake(entry.value_at, reason);
            if let Value::Text(text) = &entry.value
                && key::names_path(self, entry.key)
                && !Path::new(text).is_absolute()
            {
                return Err(at(format!("{} must be an absolute path", entry.key.name)));
            }
            entry.key.set(self, entry.value.clone()).map_err(at)?;
            let origin = Origin::File {
                file: document.file.clone(),
                line: document.position(entry.key_at).0,
            };
            self.origins.insert(entry.key.name, origin);
        }
        Ok(())
    }

    fn give(
        &mut self,
        key: &Key,
        value: std::result::Result<Value, String>,
        name: &str,
        text: &str,
    ) -> Result<()> {
        value
            .and_then(|value| key.set(self, value))
            .map_err(|reason| Error::Given {
                name: name.to_owned(),
                value: text.to_owned(),
                reason,
            })
    }

    /// Everything that is in force as a configuration file; comments say where
    /// each value came from.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for key in KEYS {
            let origin = match self.origins.get(key.name) {
                None => "default".to_owned(),
                Some(Origin::Flag(flag)) => (*flag).to_owned(),
                Some(Origin::Environment(name)) => name.clone(),
                Some(Origin::File { file, line }) => format!("{}, line {line}", file.display()),
            };
            let value = key.get(self);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} = {value} # {origin}", key.name);
        }
        text
    }

    /// Chooses what makes the machines; `name` goes over the configuration.
    pub fn select(&self, name: Option<&str>) -> caisson_hypervisor::Result<Selected> {
        caisson_hypervisor::select(&Selection {
            hypervisor: name.unwrap_or(&self.hypervisor),
            accelerator: &self.accelerator,
            qemu_program: &self.qemu,
            devices_program: &self.devices,
            process_copies: self.template != "state",
            // It knows by itself when the host was booted anew.
            host_cache: &self.cache().join("host.json"),
        })
    }

    /// As [`Self::select`]: the driver and why.
    pub fn select_hypervisor(
        &self,
        name: Option<&str>,
    ) -> caisson_hypervisor::Result<(Box<dyn Hypervisor>, String)> {
        self.select(name)
            .map(|selected| (selected.hypervisor, selected.reason))
    }

    /// As [`Self::templates`]; none if every machine is to boot.
    pub fn templates_to_fork(&self) -> Option<TemplateStore> {
        (self.template != "off").then(|| self.templates())
    }

    /// The machines from which others are forked.
    pub fn templates(&self) -> TemplateStore {
        TemplateStore::new(self.root.join("templates"))
    }

    /// Folder of what can be made again.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
}

fn text(name: &str, value: OsString) -> Result<String> {
    value.into_string().map_err(|value| Error::Given {
        name: name.to_owned(),
        value: value.to_string_lossy().into_owned(),
        reason: "it is not UTF-8".to_owned(),
    })
}

#[cfg(test)]
mod tests;
