//! What can go wrong with images and disks.

use std::path::{Path, PathBuf};

use crate::Platform;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, with which object, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `create the folder`.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },

    /// Text that is no image name.
    #[error("{reference:?} is no image name: {reason}")]
    Reference {
        /// The text.
        reference: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// Text that is no digest.
    #[error("{0:?} is no digest: it must be sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),

    /// Text that is no platform.
    #[error("{0:?} is no platform: write linux/amd64, linux/arm64 or linux/arm/v7")]
    Platform(String),

    /// A manifest, index or configuration that cannot be used.
    #[error("{object}: {reason}")]
    Image {
        /// Its name or digest.
        object: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The image exists, but not for this platform.
    #[error("{object} is not for {wanted}; it is for: {}", found.join(", "))]
    NoPlatform {
        /// Name or digest of the image.
        object: String,
        /// Platform that was asked for.
        wanted: String,
        /// Platforms that there are.
        found: Vec<String>,
    },

    /// An object of an archive that cannot be used.
    #[error("{archive}: {object}: {reason}")]
    Archive {
        /// The archive or folder.
        archive: String,
        /// Name of the object in it.
        object: String,
        /// What is wrong with it.
        reason: String,
    },

    /// No image has this name or ID.
    #[error("there is no image {0}; `caisson images` shows what there is")]
    NoImage(String),

    /// An abbreviated ID that several images have.
    #[error("several images have an ID that begins with {0}: give more of its digits")]
    AmbiguousId(String),

    /// An image with several names was to be removed by its ID.
    #[error("{image} has several names ({}): remove them one by one, or all with --force", names.join(", "))]
    SeveralNames {
        /// The ID that was given.
        image: String,
        /// Its names.
        names: Vec<String>,
    },

    /// A container or a snapshot needs the image.
    #[error(
        "a container or a snapshot uses the image {0}: remove that first (`caisson rm`, `caisson snapshot rm`)"
    )]
    InUse(String),

    /// Files of an image are missing or changed.
    #[error(
        "the image {image} is damaged ({reason}): remove it with `caisson rmi` and pull or load it again"
    )]
    DamagedImage {
        /// Its ID.
        image: String,
        /// What is wrong.
        reason: String,
    },

    /// The store's own records cannot be read.
    #[error("the image store cannot be read: {}: {reason}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A registry cannot be reached, or the connection was lost.
    #[error("cannot reach the registry {registry}: {reason}")]
    Connection {
        /// Its name.
        registry: String,
        /// What happened.
        reason: String,
    },

    /// A registry does not let us.
    #[error(
        "{registry} refuses access to {reference} ({said}): {hint} (`docker login {registry}`; Docker's config.json is read)"
    )]
    Unauthorized {
        /// Name of the registry.
        registry: String,
        /// What was asked for.
        reference: String,
        /// The registry's words.
        said: String,
        /// What to do.
        hint: &'static str,
    },

    /// A registry does not have the image.
    #[error("{reference} does not exist ({said}): check the name and the tag")]
    NotFound {
        /// What was asked for.
        reference: String,
        /// The registry's words.
        said: String,
    },

    /// A registry's answer cannot be used.
    #[error("the registry {registry}: {reason}")]
    Registry {
        /// Its name.
        registry: String,
        /// What is wrong.
        reason: String,
    },

    /// A disk can be neither so small nor so large.
    #[error("a container's disk cannot have {0} bytes: from 32 MiB to 8 TiB are possible")]
    DiskSize(u64),

    /// A program that we call is not on this host.
    #[error(
        "{program} is missing on this host: `apt-get install {package}` (or what has it elsewhere)"
    )]
    MissingProgram {
        /// Its name.
        program: &'static str,
        /// Debian's package that has it.
        package: &'static str,
    },

    /// A program that we call failed.
    #[error("{program} failed ({status}): {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it said.
        said: String,
    },

    /// Docker's configuration does not give the credentials it should.
    #[error("cannot get the credentials for {registry} from {}: {reason}", path.display())]
    Credentials {
        /// The configuration.
        path: PathBuf,
        /// Name of the registry.
        registry: String,
        /// What happened.
        reason: String,
    },

    /// A pull ended before it was complete.
    #[error("interrupted: {0}")]
    Interrupted(String),

    /// A layer that cannot become part of a disk.
    #[error("layer, {entry}: {reason}")]
    Layer {
        /// Name or place of the entry.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A layer whose content is not the one that the image names.
    #[error("the layer's content has the digest {actual}, the image names {expected}")]
    LayerDigest {
        /// The one that the image names.
        expected: crate::Digest,
        /// The one of what came.
        actual: crate::Digest,
    },

    /// An image that grows beyond a limit.
    #[error("the image is too large: {0}")]
    Limit(String),
}

/// Longest word or sentence of a stranger that an error repeats, in characters.
const MAX_FOREIGN_TEXT: usize = 300;
/// Most platforms that an error names.
const MAX_PLATFORMS: usize = 20;

impl Error {
    /// An image that cannot be used. Both texts may have parts that the image's
    /// author chose.
    pub(crate) fn image(object: &str, reason: &str) -> Self {
        Self::Image {
            object: printable(object),
            reason: printable(reason),
        }
    }

    /// An image for other platforms. All but `wanted` may be what its author chose.
    pub(crate) fn no_platform<'a>(
        object: &str,
        wanted: &Platform,
        found: impl Iterator<Item = &'a Platform>,
    ) -> Self {
        Self::NoPlatform {
            object: printable(object),
            wanted: wanted.to_string(),
            found: found
                .take(MAX_PLATFORMS)
                .map(|platform| printable(&platform.to_string()))
                .collect(),
        }
    }

    /// Whether the same may succeed at another time, so that what has arrived is
    /// worth keeping. A full disk is none of these: what is kept makes it worse.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Connection { .. }
                | Self::Registry { .. }
                | Self::Unauthorized { .. }
                | Self::Interrupted(_)
        )
    }
}

/// What a stranger wrote, fit to be shown on a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(MAX_FOREIGN_TEXT)
        .collect()
}

/// Says what was done with which file when it failed.
pub(crate) trait IoContext<T> {
    /// `action` completes the sentence "cannot ... <path>".
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_write_to_the_terminal() {
        let platform = Platform {
            os: "\u{1b}[2J".to_owned(),
            architecture: "x".repeat(9999),
            variant: None,
        };
        let found = vec![platform; 1000];
        let errors = [
            Error::image("a\u{9b}31m", "b\r\u{1b}[31m"),
            Error::no_platform("\u{7}", &Platform::default(), found.iter()),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.len() < 10_000, "{}", text.len());
        }
    }
}
