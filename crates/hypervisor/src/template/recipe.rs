//! What a template depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::VmConfig;

/// Everything that, if it were otherwise, could make a fork go wrong. Two machines with
/// the same recipe can be forks of the same template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What a user would call it.
    pub kind: Kind,
    inputs: BTreeMap<String, String>,
}

/// Of two templates of the same kind, the older is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kind {
    /// Name of the driver.
    pub driver: String,
    /// Number of virtual CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// Whether its disks are in it.
    #[serde(default)]
    pub disks: bool,
    /// Whether it has a network interface.
    #[serde(default)]
    pub network: bool,
    /// Parameters that the kernel was given besides those of the driver.
    pub kernel_parameters: Vec<String>,
}

impl Recipe {
    /// A recipe that a driver completes with [`Recipe::add`].
    pub fn new(driver: &str, config: &VmConfig) -> Self {
        Self {
            kind: Kind {
                driver: driver.to_owned(),
                cpus: config.cpus,
                memory: config.memory,
                kernel: config.kernel.clone(),
                initramfs: config.initramfs.clone(),
                disks: config.new_disk().is_some(),
                network: config.has_plain_network(),
                kernel_parameters: config.kernel_parameters.clone(),
            },
            inputs: BTreeMap::new(),
        }
    }

    /// Adds something that the template depends on.
    pub fn add(&mut self, name: &str, value: impl fmt::Display) {
        self.inputs.insert(name.to_owned(), value.to_string());
    }

    /// Names of what is otherwise in another recipe.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let kind = (self.kind != other.kind).then(|| "kind".to_owned());
        let names = self.inputs.keys().chain(other.inputs.keys());
        let names: BTreeSet<_> = names
            .filter(|name| self.inputs.get(*name) != other.inputs.get(*name))
            .cloned()
            .chain(kind)
            .collect();
        names.into_iter().collect()
    }

    /// A name for all templates of this recipe: its SHA-256, hexadecimal.
    pub fn key(&self) -> String {
        let bytes = serde_json::to_vec(self).expect("strings and numbers become JSON");
        hexadecimal(&bytes)
    }
}

/// SHA-256 of some bytes, hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Tells a file from every other, and from itself once it has been written to, at the
/// cost of one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileIdentity(String);

impl FileIdentity {
    /// That of the file at `path`, links followed.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        Ok(Self(format!(
            "device {} inode {} size {} modified {}.{:09} changed {}.{:09}",
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        )))
    }
}

impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_makes_another_key() {
        let config = super::super::store::tests::config("/k".into());
        let recipe = Recipe::new("qemu", &config);
        let mut keys = vec![recipe.key()];
        let mut other = recipe.clone();
        other.kind.memory += 1;
        keys.push(other.key());
        let mut other = recipe.clone();
        other.add("arguments", "-cpu max");
        keys.push(other.key());
        other.add("arguments", "-cpu host");
        keys.push(other.key());
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 4);
        assert_eq!(recipe.key(), Recipe::new("qemu", &config).key());
    }

    #[test]
    fn a_file_that_was_written_to_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("vmlinux");
        std::fs::write(&path, "one").expect("written");
        let first = FileIdentity::of(&path).expect("identity");
        assert_eq!(FileIdentity::of(&path).expect("identity"), first);
        let replaced = folder.path().join("new");
        std::fs::write(&replaced, "two").expect("written");
        std::fs::rename(&replaced, &path).expect("renamed");
        assert_ne!(FileIdentity::of(&path).expect("identity"), first);
        assert!(FileIdentity::of(&folder.path().join("none")).is_err());
    }
}
