//! An image in the store, and how its containers are to be run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Platform, Reference, Result};

/// Largest image configuration that is read, in bytes.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Most layers that an image may have.
pub(crate) const MAX_LAYERS: usize = 512;

/// An image that containers can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the image's configuration: what Docker calls the image ID.
    pub id: Digest,
    /// Its names with a tag. None for an image whose names moved to others.
    pub references: Vec<Reference>,
    /// Its names with a digest: what it was pulled as.
    pub digests: Vec<Reference>,
    /// How containers of it are run.
    pub config: ImageConfig,
    /// When it was made, RFC 3339, as the image says.
    pub created: Option<String>,
    /// Bytes of the disk.
    pub size: u64,
    /// EROFS disk with the image's files.
    pub disk: PathBuf,
}

/// The parts of an image's configuration that matter to its containers.
///
/// The image's author chose all of it, so it is bounded and free of NUL bytes
/// but otherwise not to be trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig {
    /// Program and leading arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or program and arguments if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// User and optionally group, by name or number; empty means root.
    pub user: String,
    /// Folder in which the program starts; empty means `/`.
    pub working_dir: String,
    /// Name or number of the signal that ends the program.
    pub stop_signal: Option<String>,
    /// Paths that get a volume of their own.
    pub volumes: BTreeSet<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `PORT` or `PORT/PROTOCOL`.
    pub exposed_ports: BTreeSet<String>,
    /// `amd64`, `arm64`...
    pub architecture: String,
    /// `v7`, `v8`...
    pub variant: Option<String>,
    /// `linux`.
    pub os: String,
}

impl ImageConfig {
    /// Refuses an image for another platform than the one wanted. `name` is what
    /// errors call it.
    pub(crate) fn check_platform(&self, name: &str, wanted: &Platform) -> Result<()> {
        let found = Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        };
        if wanted.matches(&found) {
            return Ok(());
        }
        Err(Error::no_platform(name, wanted, [&found].into_iter()))
    }
}

/// An image configuration that was found good.
#[derive(Debug, Clone)]
pub(crate) struct ParsedConfig {
    /// Digest of the text.
    pub(crate) id: Digest,
    /// The text, as it was fetched.
    pub(crate) text: Vec<u8>,
    pub(crate) config: ImageConfig,
    pub(crate) created: Option<String>,
    /// Digests of the uncompressed layers, lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

impl ParsedConfig {
    /// Reads and checks a configuration. `name` is what errors call it.
    pub(crate) fn parse(name: &str, text: Vec<u8>) -> Result<Self> {
        let refuse = |reason: String| Error::image(name, &reason);
        let parsed: ImageConfiguration = serde_json::from_slice(&text)
            .map_err(|error| refuse(format!("it is no image configuration: {error}")))?;
        let platform = Platform::new(
            parsed.os(),
            parsed.architecture(),
            parsed.variant().as_ref(),
        );
        if platform.os != "linux" {
            return Err(refuse(format!("it is for {platform}, not for Linux")));
        }
        if parsed.rootfs().diff_ids().len() > MAX_LAYERS {
            return Err(refuse(format!(
                "it has {} layers, more than {MAX_LAYERS}",
                parsed.rootfs().diff_ids().len()
            )));
        }
        let diff_ids = parsed
            .rootfs()
            .diff_ids()
            .iter()
            .map(|text| Digest::parse(text))
            .collect::<Result<_>>()?;
        let config = read_config(&parsed, platform);
        if has_nul(&config) {
            return Err(refuse("a value in it has a NUL byte".to_owned()));
        }
        Ok(Self {
            id: Digest::of(&text),
            created: parsed.created().clone().filter(|text| is_timestamp(text)),
            text,
            config,
            diff_ids,
        })
    }
}

fn read_config(parsed: &ImageConfiguration, platform: Platform) -> ImageConfig {
    let mut result = ImageConfig {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        ..ImageConfig::default()
    };
    if let Some(config) = parsed.config() {
        result.entrypoint = config.entrypoint().clone().unwrap_or_default();
        result.cmd = config.cmd().clone().unwrap_or_default();
        result.env = config.env().clone().unwrap_or_default();
        result.user = config.user().clone().unwrap_or_default();
        result.working_dir = config.working_dir().clone().unwrap_or_default();
        result.stop_signal = config.stop_signal().clone().filter(|name| !name.is_empty());
        result.volumes = config.volumes().iter().flatten().cloned().collect();
        result.labels = config
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect();
        result.exposed_ports = config.exposed_ports().iter().flatten().cloned().collect();
    }
    result
}

/// No argument, variable or path of a process can hold a NUL byte.
fn has_nul(config: &ImageConfig) -> bool {
    config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .chain(&config.env)
        .chain(&config.volumes)
        .chain(&config.exposed_ports)
        .chain(config.labels.keys())
        .chain(config.labels.values())
        .chain(&config.stop_signal)
        .chain([&config.user, &config.working_dir])
        .any(|text| text.contains('\0'))
}

/// Good enough to be shown: nothing but what RFC 3339 writes times with.
fn is_timestamp(text: &str) -> bool {
    (20..=40).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"TZtz:.+-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ParsedConfig> {
        ParsedConfig::parse("the test", json.as_bytes().to_vec())
    }

    #[test]
    fn reads_what_docker_writes() {
        let parsed = parse(
            r#"{"architecture":"amd64","os":"linux","created":"2024-05-01T10:00:00.123456789Z",
                "config":{"Hostname":"","User":"1000:1000","ExposedPorts":{"80/tcp":{}},
                "Env":["PATH=/bin"],"Entrypoint":null,"Cmd":["sh"],"Volumes":null,"OnBuild":null,
                "WorkingDir":"/srv","Labels":{"a":"b"},"StopSignal":"SIGQUIT",
                "Healthcheck":{"Test":["CMD","true"]}},
                "container_config":{"Image":"x"},"docker_version":"20.10",
                "history":[{"created":"2024-05-01T10:00:00Z","empty_layer":true}],
                "rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap();
        assert_eq!(parsed.config.cmd, ["sh"]);
        assert_eq!(parsed.config.user, "1000:1000");
        assert_eq!(parsed.config.working_dir, "/srv");
        assert_eq!(parsed.config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert!(parsed.config.entrypoint.is_empty() && parsed.config.volumes.is_empty());
        assert!(parsed.config.exposed_ports.contains("80/tcp"));
        assert!(parsed.created.is_some());
    }

    #[test]
    fn refuses_hostile_configurations() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"architecture":"amd64","os":"windows","rootfs":{"type":"layers","diff_ids":[]}}"#,
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["../../x"]}}"#,
            r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["a\u0000b"]},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        ] {
            assert!(parse(json).is_err(), "{json}");
        }
        let many = vec![format!("\"sha256:{}\"", "0".repeat(64)); MAX_LAYERS + 1].join(",");
        assert!(
            parse(&format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{many}]}}}}"#
            ))
            .is_err()
        );
        let parsed = parse(
            r#"{"architecture":"amd64","os":"linux","created":"\u001b[2Jtwenty characters",
               "rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap();
        assert_eq!(parsed.created, None);
    }

    #[test]
    fn names_the_platforms_when_they_differ() {
        let parsed = parse(
            r#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap();
        let error = parsed
            .config
            .check_platform("x", &"linux/amd64".parse().unwrap())
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("linux/arm64") && text.contains("linux/amd64"),
            "{text}"
        );
    }
}
