//! Names of images, read as Docker reads them.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error, Result};

/// The registry that a name without one belongs to.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where the official images of the default registry live.
const OFFICIAL_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Longest name (registry and repository together) that registries accept.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A complete image name: registry, repository, and a tag, a digest or both.
///
/// Made by [`Reference::parse`], which fills in what a user leaves out, so that
/// `alpine` and `docker.io/library/alpine:latest` are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a name as a user writes it: `alpine`, `quay.io/a/b:1.2`,
    /// `localhost:5000/a/b:tag@sha256:...`.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|reason| Error::Reference {
            reference: text.to_owned(),
            reason,
        })
    }

    fn read(text: &str) -> std::result::Result<Self, &'static str> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(Digest::parse(digest).map_err(
                    |_| "what follows the @ must be sha256: and 64 lower-case hexadecimal digits",
                )?),
            ),
            None => (text, None),
        };
        // A colon belongs to the tag only after the last slash; before it, it is a port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].split_once(':') {
            Some((last, tag)) => (&rest[..name_end + last.len()], Some(tag)),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err("it has no name");
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(
                "the tag may have letters, digits, '_', '.' and '-', must not start with '.' or '-', and has at most 128 characters",
            );
        }
        let (registry, path) = split_registry(name);
        if !is_registry(registry) {
            return Err("its registry is no valid host name");
        }
        if registry.len() + 1 + path.len() > MAX_NAME {
            return Err("it is longer than 255 characters");
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("a repository is written in lower case");
        }
        if !path.split('/').all(is_path_component) {
            return Err(
                "the parts of a repository have lower-case letters and digits, separated by '.', '_', '__' or '-'",
            );
        }
        if registry == DEFAULT_REGISTRY
            && path.len() == 64
            && path.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Err("64 hexadecimal digits are an image ID, not a name");
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }

    /// Host name of the registry, with its port if it has one: `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository in its registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Only a name with a digest can be without one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index that the name is tied to.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// [`name`](Self::name) without what every Docker user leaves out: `alpine`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.split_once('/') {
            Some((OFFICIAL_NAMESPACE, name)) if !name.contains('/') => name.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The shortest form that [`parse`](Self::parse) reads back to the same
    /// name, with the tag always shown: `alpine:latest`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// The same repository, tied to `digest` and without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.name()))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// The first part of a name is a registry if it cannot be part of a repository
/// of Docker Hub: it has a dot, a port or a capital, or it is `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            // The name under which the default registry was known before.
            let first = if first == "index.docker.io" {
                DEFAULT_REGISTRY
            } else {
                first
            };
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    host.is_none_or(|host| host.split('.').all(is_host_label))
        && port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Lower-case letters and digits in groups separated by `.`, `_`, `__` or any
/// number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|byte| is_word(*byte))
        || !bytes.last().is_some_and(|byte| is_word(*byte))
    {
        return false;
    }
    component
        .split(|character: char| character.is_ascii() && is_word(character as u8))
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn fills_in_what_is_left_out() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3", "alpine:3"),
            (
                "docker.io/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            (
                "library/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            ("quay.io/x", "quay.io/x:latest", "quay.io/x:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
            ),
            ("host:5000/x", "host:5000/x:latest", "host:5000/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            (
                "x/a.b_c__d---e",
                "docker.io/x/a.b_c__d---e:latest",
                "x/a.b_c__d---e:latest",
            ),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
            assert_eq!(Reference::parse(full).unwrap(), reference);
        }
    }

    #[test]
    fn keeps_tag_and_digest() {
        let reference = Reference::parse(&format!("localhost:5000/a/b:tag@{DIGEST}")).unwrap();
        assert_eq!(reference.registry(), "localhost:5000");
        assert_eq!(reference.repository(), "a/b");
        assert_eq!(reference.tag(), Some("tag"));
        assert_eq!(reference.digest().unwrap().to_string(), DIGEST);
        let by_digest = Reference::parse(&format!("alpine@{DIGEST}")).unwrap();
        assert_eq!(by_digest.tag(), None);
        assert_eq!(by_digest.familiar(), format!("alpine@{DIGEST}"));
    }

    #[test]
    fn refuses_what_registries_refuse() {
        for text in [
            "",
            ":tag",
            "@",
            "Alpine",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a/../b",
            "..",
            "a:",
            "a:.x",
            "a:-x",
            "a:b:c",
            "a___b/c",
            "a..b",
            "-a",
            "a-",
            "a@sha256:12",
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "host:99999/a",
            "host:/a",
            "ho_st.io/a",
            "[::zz]:1/a",
            "[::1/a",
            "ä/b",
            "https://docker.io/alpine",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(Reference::parse(&"a/".repeat(200)).is_err());
    }
}
