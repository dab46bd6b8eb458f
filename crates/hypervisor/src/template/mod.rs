//! Templates: frozen machines on disk from which others are forked.
//!
//! A template is made before any image, volume or secret is attached to its machine,
//! and never changes. What a fork writes stays in the fork.

mod copy;
mod description;
mod recipe;
mod store;

pub(crate) use copy::{copy_file, copy_written};
pub use description::Description;
pub use recipe::{FileIdentity, Kind, Recipe};
pub use store::TemplateStore;

use std::io;
use std::path::{Path, PathBuf};

/// Name of the file with the guest's memory.
pub const MEMORY: &str = "memory";

/// Name of the file with the state of CPUs and devices.
pub(crate) const STATE: &str = "state";

/// Name of the file with the disk that the guest has mounted, if it has.
pub(crate) const DISK: &str = "disk";

/// Name of the file with the guest's connections to the host, of a template.
pub(crate) const SOCKETS: &str = "sockets.json";

/// Names of the files with the process that runs the machine, if forks can begin as copies
/// of it: all but its memory; its memory; what it was given.
pub(crate) const PROCESS: &str = "process.json";
pub(crate) const PAGES: &str = "pages";
pub(crate) const GIVEN: &str = "given.json";

/// Name of the file with what the guest had logged when it was frozen, of a template.
const LOG: &str = "log";

/// Most bytes of it.
pub(crate) const LOG_LIMIT: u64 = 1 << 20;

/// Hardware address of a template's network interface. Forks' guests are told theirs.
pub const TEMPLATE_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// Smallest memory of a machine that is forked.
const LEAST_MEMORY: u64 = 256 << 20;

/// A frozen machine on disk from which others are forked.
#[derive(Debug, Clone)]
pub struct Template {
    /// Folder with the memory and the state of the machine. The driver that wrote it
    /// is the only one that can read it.
    pub directory: PathBuf,
    /// Hash of everything on which it depends, hexadecimal.
    pub key: String,
    /// Whether machines may begin as copies of the process that is in the folder, if there is
    /// one. It is executed: this is for folders that were written here, and are as they were.
    pub has_process: bool,
}

impl Template {
    /// Describes a snapshot that a driver has left in `directory`, which is complete then.
    ///
    /// # Errors
    /// When its files cannot be read, or the description not be written.
    pub fn seal(directory: &Path, recipe: &Recipe) -> io::Result<Self> {
        let description = Description::of(directory, recipe)?;
        description.write(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            has_process: description.has_process(),
            key: description.key,
        })
    }

    /// The snapshot in a folder, if machines of this recipe can be copies of it. Without the
    /// process that ran it, if that is not there as it was left, copies load its state.
    ///
    /// # Errors
    /// What is wrong with it, or what has changed since it was made.
    pub fn open(directory: &Path, recipe: &Recipe) -> Result<Self, Unfit> {
        let description = Description::read(directory)
            .map_err(Unfit::Damaged)?
            .ok_or_else(|| Unfit::Damaged("it is not there".to_owned()))?;
        let differences = description.recipe.differences(recipe);
        if !differences.is_empty() {
            return Err(Unfit::Differs(differences));
        }
        let key = recipe.key();
        description.check(directory, &key).map_err(Unfit::Damaged)?;
        let has_process = match description.check_process(directory) {
            Ok(()) => description.has_process(),
            Err(reason) => {
                tracing::debug!(reason, "copies of a snapshot load its state");
                false
            }
        };
        Ok(Self {
            directory: directory.to_owned(),
            key,
            has_process,
        })
    }

    /// The file with what the guest had logged when it was frozen; a snapshot has none.
    pub fn log(&self) -> PathBuf {
        log(&self.directory)
    }

    /// The key as it is shown.
    pub fn short_key(&self) -> &str {
        short(&self.key)
    }
}

/// See [`Template::log`].
pub(crate) fn log(directory: &Path) -> PathBuf {
    directory.join(LOG)
}

/// Why a snapshot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// What is wrong with its files.
    Damaged(String),
    /// What is not as it was when it was made.
    Differs(Vec<String>),
}

/// The beginning of a key, enough for people.
pub fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

/// The memory of a machine that needs `wanted` bytes and may have more. There are few
/// sizes, so that few templates serve all requests: what a container may use
/// of it is for its cgroup to say, and the host gives only what is touched.
pub fn memory_size(wanted: u64) -> u64 {
    wanted
        .checked_next_power_of_two()
        .unwrap_or(wanted)
        .max(LEAST_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_used_as_it_was_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path();
        let config = store::tests::config("/k".into());
        let mut recipe = Recipe::new("qemu", &config);
        recipe.add("kernel", "one");
        let damaged = |what: &str| Err(Unfit::Damaged(what.to_owned()));
        let open = |recipe: &Recipe| Template::open(directory, recipe).map(|found| found.key);
        assert!(matches!(open(&recipe), Err(Unfit::Damaged(_))));
        for name in [MEMORY, STATE] {
            std::fs::write(directory.join(name), name).expect("written");
        }
        let sealed = Template::seal(directory, &recipe).expect("sealed");
        assert_eq!(open(&recipe), Ok(sealed.key));
        let mut other = recipe.clone();
        other.add("kernel", "two");
        assert_eq!(open(&other), Err(Unfit::Differs(vec!["kernel".to_owned()])));
        std::fs::write(directory.join(STATE), "other").expect("written");
        assert_eq!(open(&recipe), damaged("the state has another checksum"));
        std::fs::write(directory.join(STATE), STATE).expect("written");
        std::fs::write(directory.join(MEMORY), "other").expect("written");
        assert_eq!(open(&recipe), damaged("the memory is not what was written"));
    }

    #[test]
    fn a_snapshot_is_of_use_without_its_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path();
        let config = store::tests::config("/k".into());
        let recipe = Recipe::new("qemu", &config);
        for name in [MEMORY, STATE, PROCESS, PAGES, GIVEN] {
            std::fs::write(directory.join(name), name).expect("written");
        }
        let has_process = || {
            let found = Template::open(directory, &recipe);
            found.expect("it is of use").has_process
        };
        let sealed = Template::seal(directory, &recipe).expect("sealed");
        assert!(sealed.has_process && has_process());
        for name in [GIVEN, PROCESS, PAGES] {
            std::fs::write(directory.join(name), "other").expect("written");
            assert!(!has_process(), "{name} is another");
            std::fs::remove_file(directory.join(name)).expect("removed");
            assert!(!has_process(), "{name} is not there");
        }
    }

    #[test]
    fn few_sizes_serve_all_requests() {
        let mebibytes = |wanted: u64| memory_size(wanted << 20) >> 20;
        assert_eq!(
            [1, 256, 257, 512, 1120].map(mebibytes),
            [256, 256, 512, 512, 2048]
        );
        assert_eq!(memory_size(u64::MAX), u64::MAX);
    }
}
