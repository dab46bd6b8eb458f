//! The operating system and processor that an image is made for.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Arch, Os};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A platform in the words of the OCI image specification (those of Go).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`...
    pub architecture: String,
    /// `v7`, `v8`... None matches every variant.
    pub variant: Option<String>,
}

impl Default for Platform {
    /// Linux on the processor this program was built for.
    fn default() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: normal_architecture(std::env::consts::ARCH).to_owned(),
            variant: None,
        }
    }
}

impl Platform {
    /// Whether an image for `other` is one for this platform.
    pub fn matches(&self, other: &Platform) -> bool {
        // An arm64 image without a variant is a v8 one: there is no other.
        let variant = |platform: &Platform| match (
            platform.architecture.as_str(),
            platform.variant.as_deref(),
        ) {
            ("arm64", Some("v8")) => None,
            (_, variant) => variant.map(str::to_owned),
        };
        self.os == other.os
            && self.architecture == other.architecture
            && (variant(self).is_none() || variant(self) == variant(other))
    }

    pub(crate) fn new(os: &Os, architecture: &Arch, variant: Option<&String>) -> Self {
        Self {
            os: os.to_string(),
            architecture: normal_architecture(&architecture.to_string()).to_owned(),
            variant: variant.filter(|variant| !variant.is_empty()).cloned(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `linux/arm64`, `linux/arm/v7` or an architecture alone.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(Error::Platform(text.to_owned())),
        };
        let is_word = |word: &str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if os != "linux" || !is_word(architecture) || !variant.is_none_or(is_word) {
            return Err(Error::Platform(text.to_owned()));
        }
        Ok(Self {
            os: os.to_owned(),
            architecture: normal_architecture(architecture).to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

/// The name that Go has for a processor that others name differently.
fn normal_architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" | "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_docker_notation() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), shown);
        }
        for text in ["", "windows/amd64", "linux/", "linux/a/b/c", "linux/../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_absent_variant_matches_all() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/amd64").matches(&platform("linux/amd64/v3")));
        assert!(platform("linux/arm64/v8").matches(&platform("linux/arm64")));
        assert!(!platform("linux/arm/v7").matches(&platform("linux/arm/v6")));
        assert!(!platform("linux/amd64").matches(&platform("linux/arm64")));
    }
}
