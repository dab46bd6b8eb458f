//! What can be configured is the same for every front door; see [`caisson_config`].

pub use caisson_config::{HYPERVISORS, Override, Settings};

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::Settings;

    /// Settings that point nowhere, for tests of other modules.
    pub(crate) fn settings(root: &Path) -> Settings {
        let mut settings = Settings::blank();
        settings.root = root.to_owned();
        settings.kernel = "/lib/vmlinux".into();
        settings.initramfs = "/lib/initramfs".into();
        settings
    }
}
