//! Templates: frozen machines on disk from which others are forked.
//!
//! A template is made before any image, volume or secret is attached to its machine,
//! and never changes. What a fork writes stays in the fork.

mod copy;
mod description;
mod recipe;
mod store;

pub(crate) use copy::copy_written;
pub use description::Description;
pub use recipe::{FileIdentity, Kind, Recipe};
pub use store::TemplateStore;

use std::path::PathBuf;

/// Name of the file with the guest's memory.
pub(crate) const MEMORY: &str = "memory";

/// Name of the file with the state of CPUs and devices.
pub(crate) const STATE: &str = "state";

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
}

impl Template {
    /// The key as it is shown.
    pub fn short_key(&self) -> &str {
        short(&self.key)
    }
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
    fn few_sizes_serve_all_requests() {
        let mebibytes = |wanted: u64| memory_size(wanted << 20) >> 20;
        assert_eq!(
            [1, 256, 257, 512, 1120].map(mebibytes),
            [256, 256, 512, 512, 2048]
        );
        assert_eq!(memory_size(u64::MAX), u64::MAX);
    }
}
