//! The keys of the configuration, their types and their bounds.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::{Settings, size};

/// One thing that can be configured.
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    field: fn(&mut Settings) -> Field<'_>,
}

/// Where a value goes, and what it may be.
enum Field<'a> {
    /// A file or folder.
    Path(&'a mut PathBuf),
    /// A program: a path, or a name that is looked up in `PATH`.
    Program(&'a mut PathBuf),
    /// Bytes.
    Size(&'a mut u64, RangeInclusive<u64>),
    /// A number.
    Number(&'a mut u64, RangeInclusive<u64>),
    /// A small number.
    Count(&'a mut u32, RangeInclusive<u32>),
    /// One of some words.
    Word(&'a mut String, &'static [&'static str]),
    /// Names of hosts, with or without a port.
    Hosts(&'a mut Vec<String>),
}

/// Drivers that can be asked for.
pub const HYPERVISORS: &[&str] = &["auto", "qemu"];

/// What can run the guest's instructions.
pub const ACCELERATORS: &[&str] = &["auto", "kvm", "tcg"];

/// Whether machines are forked, and of what.
const TEMPLATES: &[&str] = &["auto", "state", "off"];

/// Networks that are there without being set up.
const NETWORKS: &[&str] = &["user", "bridge", "none"];

/// Whether guests are kept from forging addresses.
const ANTI_SPOOF: &[&str] = &["auto", "on", "strict", "off"];

const LOG_LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Least memory in which the guest's kernel and its agent come up.
const LEAST_MEMORY: u64 = 64 << 20;

/// More than any host has.
const MOST_BYTES: u64 = 1 << 50;

/// Every key, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    Key {
        name: "root",
        field: |s| Field::Path(&mut s.root),
    },
    Key {
        name: "run",
        field: |s| Field::Path(&mut s.run),
    },
    Key {
        name: "log_level",
        field: |s| Field::Word(&mut s.log_level, LOG_LEVELS),
    },
    Key {
        name: "log_max_size",
        field: |s| Field::Size(&mut s.log_max_size, 64 << 10..=MOST_BYTES),
    },
    Key {
        name: "cpus",
        field: |s| Field::Count(&mut s.cpus, 1..=128),
    },
    Key {
        name: "memory",
        field: |s| Field::Size(&mut s.memory, LEAST_MEMORY..=MOST_BYTES),
    },
    Key {
        name: "scratch_size",
        field: |s| Field::Size(&mut s.scratch_size, 32 << 20..=MOST_BYTES),
    },
    Key {
        name: "boot_deadline",
        field: |s| Field::Number(&mut s.boot_deadline, 1..=3600),
    },
    Key {
        name: "template",
        field: |s| Field::Word(&mut s.template, TEMPLATES),
    },
    Key {
        name: "hypervisor",
        field: |s| Field::Word(&mut s.hypervisor, HYPERVISORS),
    },
    Key {
        name: "accelerator",
        field: |s| Field::Word(&mut s.accelerator, ACCELERATORS),
    },
    Key {
        name: "qemu",
        field: |s| Field::Program(&mut s.qemu),
    },
    Key {
        name: "devices",
        field: |s| Field::Path(&mut s.devices),
    },
    Key {
        name: "kernel",
        field: |s| Field::Path(&mut s.kernel),
    },
    Key {
        name: "initramfs",
        field: |s| Field::Path(&mut s.initramfs),
    },
    Key {
        name: "network",
        field: |s| Field::Word(&mut s.network, NETWORKS),
    },
    Key {
        name: "anti_spoof",
        field: |s| Field::Word(&mut s.anti_spoof, ANTI_SPOOF),
    },
    Key {
        name: "passt",
        field: |s| Field::Program(&mut s.passt),
    },
    Key {
        name: "insecure_registries",
        field: |s| Field::Hosts(&mut s.insecure_registries),
    },
];

/// A value before it is known to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Number(u64),
    /// A list of strings.
    List(Vec<String>),
}

impl Value {
    /// What a flag or a variable says, which is text whatever the key's type is.
    pub fn text(key: &Key, text: &str) -> Result<Self, String> {
        let mut any = Settings::blank();
        Ok(match (key.field)(&mut any) {
            Field::Number(..) | Field::Count(..) => {
                Self::Number(text.parse().map_err(|_| "expected a number".to_owned())?)
            }
            Field::Hosts(_) => {
                let names = text.split(',').map(str::trim);
                Self::List(
                    names
                        .filter(|name| !name.is_empty())
                        .map(str::to_owned)
                        .collect(),
                )
            }
            Field::Path(_) | Field::Program(_) | Field::Size(..) | Field::Word(..) => {
                Self::Text(text.to_owned())
            }
        })
    }

    fn into_text(self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err("expected a string".to_owned()),
        }
    }

    fn into_number(self) -> Result<u64, String> {
        match self {
            Self::Number(number) => Ok(number),
            _ => Err("expected a number".to_owned()),
        }
    }
}

impl Key {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("CAISSON_{}", self.name.to_ascii_uppercase())
    }

    /// Sets it, if the value fits.
    pub fn set(&self, settings: &mut Settings, value: Value) -> Result<(), String> {
        match (self.field)(settings) {
            Field::Path(path) => *path = absolute(value.into_text()?)?,
            Field::Program(path) => {
                let text = value.into_text()?;
                *path = if text.contains('/') || text.is_empty() {
                    absolute(text)?
                } else {
                    text.into()
                };
            }
            Field::Size(bytes, range) => {
                let size = match value {
                    Value::Number(bytes) => bytes,
                    Value::Text(text) => size::parse(&text)?,
                    Value::List(_) => return Err("expected a size, such as \"512MiB\"".to_owned()),
                };
                if !range.contains(&size) {
                    let (least, most) = (size::show(*range.start()), size::show(*range.end()));
                    return Err(format!("expected a size from {least} to {most}"));
                }
                *bytes = size;
            }
            Field::Number(number, range) => *number = within(value.into_number()?, range)?,
            Field::Count(count, range) => {
                let number = u32::try_from(value.into_number()?).unwrap_or(u32::MAX);
                *count = within(number, range)?;
            }
            Field::Word(word, known) => {
                let text = value.into_text()?;
                if !known.contains(&text.as_str()) {
                    return Err(format!(
                        "{text:?} is not known; expected one of: {}",
                        known.join(", ")
                    ));
                }
                *word = text;
            }
            Field::Hosts(hosts) => {
                let Value::List(names) = value else {
                    return Err(
                        "expected a list of strings, such as [\"registry.local:5000\"]".to_owned(),
                    );
                };
                if let Some(name) = names.iter().find(|name| !is_host(name)) {
                    return Err(format!(
                        "{name:?} is no registry; expected HOST or HOST:PORT"
                    ));
                }
                *hosts = names;
            }
        }
        Ok(())
    }

    /// Its value as TOML writes it.
    pub fn get(&self, settings: &Settings) -> toml::Value {
        let mut copy = settings.clone();
        match (self.field)(&mut copy) {
            Field::Path(path) | Field::Program(path) => {
                toml::Value::String(path.to_string_lossy().into_owned())
            }
            Field::Size(bytes, _) => toml::Value::String(size::show(*bytes)),
            Field::Number(number, _) => {
                toml::Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX))
            }
            Field::Count(count, _) => toml::Value::Integer((*count).into()),
            Field::Word(word, _) => toml::Value::String(word.clone()),
            Field::Hosts(hosts) => {
                toml::Value::Array(hosts.iter().cloned().map(toml::Value::String).collect())
            }
        }
    }
}

/// Whether a key names a file whatever the current folder is.
pub fn names_path(settings: &Settings, key: &Key) -> bool {
    matches!((key.field)(&mut settings.clone()), Field::Path(_))
}

fn absolute(text: String) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("expected a path".to_owned());
    }
    std::path::absolute(text).map_err(|error| format!("the current folder is not known: {error}"))
}

fn within<T: PartialOrd + std::fmt::Display>(
    number: T,
    range: RangeInclusive<T>,
) -> Result<T, String> {
    if range.contains(&number) {
        return Ok(number);
    }
    Err(format!(
        "expected a number from {} to {}",
        range.start(),
        range.end()
    ))
}

fn is_host(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    !text.is_empty() && text.chars().all(good)
}
