//! Manifests and indexes of the OCI image specification 1.1 and of Docker
//! (schema 2), read as what strangers wrote.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::store::MAX_LAYERS;
use crate::{Digest, Error, Platform, Result};

/// Largest manifest or index, in bytes: what registries accept.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// Largest compressed layer, in bytes.
const MAX_LAYER: u64 = 256 << 30;

/// What is asked for in `Accept` when a manifest is fetched.
pub(crate) const ACCEPTED_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Something to fetch: its digest and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The parts of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    /// Lowest first.
    pub(crate) layers: Vec<Blob>,
}

/// An index or a manifest.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Manifest),
}

/// What tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
}

/// Reads an index or manifest. `object` is what errors call it.
pub(crate) fn parse(object: &str, text: &[u8]) -> Result<Document> {
    let refuse = |reason: String| Error::image(object, &reason);
    let not_json = |error: serde_json::Error| refuse(format!("it is no manifest: {error}"));
    let probe: Probe = serde_json::from_slice(text).map_err(not_json)?;
    if probe.schema_version != 2 {
        return Err(refuse(format!(
            "it has schema version {}; only version 2 is supported: push the image again with a newer tool",
            probe.schema_version
        )));
    }
    // A document that is both would be read differently by others (CVE-2021-41190).
    match (
        probe.manifests.is_some(),
        probe.layers.is_some() || probe.config.is_some(),
    ) {
        (true, true) => Err(refuse("it is an index and a manifest at once".to_owned())),
        (false, false) => Err(refuse("it is neither an index nor a manifest".to_owned())),
        (true, false) => match probe.media_type.as_deref() {
            None
            | Some(
                "application/vnd.oci.image.index.v1+json"
                | "application/vnd.docker.distribution.manifest.list.v2+json",
            ) => Ok(Document::Index(Box::new(
                serde_json::from_slice(text).map_err(not_json)?,
            ))),
            Some(other) => Err(refuse(format!("it is an index but says it is {other}"))),
        },
        (false, true) => match probe.media_type.as_deref() {
            None
            | Some(
                "application/vnd.oci.image.manifest.v1+json"
                | "application/vnd.docker.distribution.manifest.v2+json",
            ) => {
                let manifest: ImageManifest = serde_json::from_slice(text).map_err(not_json)?;
                read_manifest(&manifest)
                    .map(Document::Manifest)
                    .map_err(refuse)
            }
            Some(other) => Err(refuse(format!("it is a manifest but says it is {other}"))),
        },
    }
}

fn read_manifest(manifest: &ImageManifest) -> std::result::Result<Manifest, String> {
    let config_type = manifest.config().media_type().to_string();
    if !matches!(
        config_type.as_str(),
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    ) {
        return Err(format!(
            "it is no container image but an artifact of the type {config_type}"
        ));
    }
    if manifest.layers().len() > MAX_LAYERS {
        return Err(format!(
            "it has {} layers, more than {MAX_LAYERS}",
            manifest.layers().len()
        ));
    }
    let layers = manifest
        .layers()
        .iter()
        .map(|layer| {
            let kind = layer.media_type().to_string();
            if !is_layer_type(&kind) {
                return Err(format!(
                    "its layer {} is of the type {kind}, which is not supported",
                    layer.digest()
                ));
            }
            if layer.size() > MAX_LAYER {
                return Err(format!(
                    "its layer {} has {} bytes, more than {MAX_LAYER}",
                    layer.digest(),
                    layer.size()
                ));
            }
            read_blob(layer)
        })
        .collect::<std::result::Result<_, _>>()?;
    Ok(Manifest {
        config: read_blob(manifest.config())?,
        layers,
    })
}

/// Digest and size of what a descriptor describes.
pub(crate) fn read_blob(descriptor: &Descriptor) -> std::result::Result<Blob, String> {
    Ok(Blob {
        digest: Digest::parse(descriptor.digest().as_ref()).map_err(|error| error.to_string())?,
        size: descriptor.size(),
    })
}

/// Tar, plain or compressed. How it is compressed is seen from its first bytes.
fn is_layer_type(kind: &str) -> bool {
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ]
    .iter()
    .filter_map(|base| kind.strip_prefix(base))
    .any(|compression| matches!(compression, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
}

fn is_document_type(kind: &MediaType) -> bool {
    matches!(
        kind.to_string().as_str(),
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
            | "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

/// The image for a platform among those of an index.
pub(crate) fn choose(object: &str, index: &ImageIndex, wanted: &Platform) -> Result<Blob> {
    let candidates: Vec<(&Descriptor, Option<Platform>)> = index
        .manifests()
        .iter()
        .filter(|descriptor| is_document_type(descriptor.media_type()))
        .map(|descriptor| {
            let platform = descriptor.platform().as_ref().map(|platform| {
                Platform::new(
                    platform.os(),
                    platform.architecture(),
                    platform.variant().as_ref(),
                )
            });
            (descriptor, platform)
        })
        .collect();
    let matching = |exactly: bool| {
        candidates.iter().find(|(_, platform)| {
            platform.as_ref().is_some_and(|platform| {
                wanted.matches(platform) && (!exactly || wanted.variant == platform.variant)
            })
        })
    };
    // One image that does not say what it is for: its configuration will.
    let only = || match &candidates[..] {
        [only] if only.1.is_none() => Some(only),
        _ => None,
    };
    match matching(true).or_else(|| matching(false)).or_else(only) {
        Some((descriptor, _)) => {
            read_blob(descriptor).map_err(|reason| Error::image(object, &reason))
        }
        None => {
            let found = candidates
                .iter()
                .filter_map(|(_, platform)| platform.as_ref())
                // The platform that build tools give to attestations.
                .filter(|platform| platform.os != "unknown");
            Err(Error::no_platform(object, wanted, found))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

    fn hex(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn index(entries: &[(char, Option<&str>)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .map(|(digit, platform)| {
                format!(
                    r#"{{"mediaType":"{OCI}","digest":"{}","size":1{}}}"#,
                    hex(*digit),
                    platform.map_or(String::new(), |json| format!(r#","platform":{json}"#))
                )
            })
            .collect();
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        )
    }

    fn chosen(entries: &[(char, Option<&str>)], platform: &str) -> Result<Blob> {
        match parse("test", index(entries).as_bytes())? {
            Document::Index(index) => choose("test", &index, &platform.parse()?),
            Document::Manifest(_) => panic!("not an index"),
        }
    }

    #[test]
    fn chooses_by_platform() {
        let entries = [
            ('a', Some(r#"{"os":"unknown","architecture":"unknown"}"#)),
            (
                'b',
                Some(r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#),
            ),
            ('c', Some(r#"{"os":"linux","architecture":"amd64"}"#)),
            (
                'd',
                Some(r#"{"os":"linux","architecture":"arm","variant":"v7"}"#),
            ),
        ];
        for (platform, digit) in [
            ("linux/amd64", 'c'),
            ("linux/amd64/v3", 'b'),
            ("linux/arm", 'd'),
        ] {
            let blob = chosen(&entries, platform).unwrap();
            assert_eq!(blob.digest.to_string(), hex(digit), "{platform}");
        }
        let error = chosen(&entries, "linux/s390x").unwrap_err().to_string();
        assert!(
            error.contains("linux/arm/v7") && !error.contains("unknown"),
            "{error}"
        );
        assert!(chosen(&[('a', None)], "linux/amd64").is_ok());
        assert!(chosen(&[('a', None), ('b', None)], "linux/amd64").is_err());
    }

    #[test]
    fn refuses_what_is_no_image() {
        let config = |kind: &str, layer: &str| {
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{kind}","digest":"{0}","size":2}},
                   "layers":[{{"mediaType":"{layer}","digest":"{0}","size":2}}]}}"#,
                hex('a')
            )
        };
        let image = "application/vnd.oci.image.config.v1+json";
        let tar = "application/vnd.oci.image.layer.v1.tar+zstd";
        assert!(parse("x", config(image, tar).as_bytes()).is_ok());
        for text in [
            String::new(),
            "{}".to_owned(),
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            r#"{"schemaVersion":2}"#.to_owned(),
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI}","manifests":[]}}"#),
            config("application/vnd.cncf.helm.config.v1+json", tar),
            config(image, "application/vnd.oci.image.layer.v1.tar+encrypted"),
            config(image, tar).replace(&"a".repeat(64), "../../../etc/passwd"),
        ] {
            assert!(parse("x", text.as_bytes()).is_err(), "{text}");
        }
    }
}
