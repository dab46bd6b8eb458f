use std::io::{Cursor, Write};
use std::sync::Mutex;

use super::*;
use crate::Silent;

/// Files of an archive under construction.
#[derive(Default, Clone)]
struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    fn add(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.0.push((name.to_owned(), content.into()));
    }

    fn blob(&mut self, content: impl Into<Vec<u8>>) -> String {
        let content = content.into();
        let digest = Digest::of(&content);
        let name = blob_name(&digest);
        if !self.0.iter().any(|(present, _)| *present == name) {
            self.add(&name, content);
        }
        digest.to_string()
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, content) in &self.0 {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, content.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn replace(&mut self, part: &str, change: impl Fn(&mut Vec<u8>)) {
        let (_, content) = self
            .0
            .iter_mut()
            .find(|(name, _)| name.contains(part))
            .unwrap();
        change(content);
    }
}

fn layer_tar(file: &str) -> Vec<u8> {
    let mut files = Files::default();
    files.add(file, file.as_bytes());
    files.tar()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

fn config(architecture: &str, layers: &[&[u8]]) -> String {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| Digest::of(layer).to_string())
        .collect();
    serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": [architecture]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
}

/// The old form: `<hex>.json`, `<id>/layer.tar`.
fn docker_save() -> Files {
    let mut files = Files::default();
    let (one, two) = (layer_tar("one"), layer_tar("two"));
    let config = config("amd64", &[&one, &two]);
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    files.add("l1/layer.tar", one);
    files.add("l2/layer.tar", two);
    files.add(&name, config);
    files.add(
        "manifest.json",
        format!(
            r#"[{{"Config":"{name}","RepoTags":["test:1","test:2"],"Layers":["l1/layer.tar","l2/layer.tar"]}}]"#
        ),
    );
    files
}

/// Adds an image to an OCI layout; returns its descriptor.
fn layout_image(files: &mut Files, architecture: &str) -> serde_json::Value {
    let (plain, zipped, zstd_tar) = (layer_tar("p"), layer_tar("z"), layer_tar(architecture));
    let config = config(architecture, &[&plain, &zipped, &zstd_tar]);
    let size = config.len();
    let layers: Vec<_> = [
        ("", plain),
        ("+gzip", gzip(&zipped)),
        ("+zstd", zstd(&zstd_tar)),
    ]
    .into_iter()
    .map(|(suffix, content)| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "size": content.len(),
            "digest": files.blob(content),
        })
    })
    .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": files.blob(config),
            "size": size,
        },
        "layers": layers,
    })
    .to_string();
    serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "size": manifest.len(),
        "digest": files.blob(manifest),
        "platform": {"os": "linux", "architecture": architecture},
    })
}

/// An OCI layout with a nested index for two platforms, called `test:multi`.
fn oci_layout() -> Files {
    let mut files = Files::default();
    files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let manifests = [
        layout_image(&mut files, "arm64"),
        layout_image(&mut files, "amd64"),
    ];
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    let top = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "size": index.len(),
            "digest": files.blob(index),
            "annotations": {"org.opencontainers.image.ref.name": "test:multi"},
        }],
    });
    files.add("index.json", top.to_string());
    files
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn load(bytes: Vec<u8>) -> Result<Vec<Image>> {
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    let result = store.load_platform(
        LoadSource::Reader(Box::new(Cursor::new(bytes))),
        &amd64(),
        &Silent,
    );
    let leftovers: Vec<_> = ["staging", "locks", "downloads"]
        .iter()
        .flat_map(|name| std::fs::read_dir(root.path().join("images").join(name)).unwrap())
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    if result.is_err() {
        assert!(store.list().unwrap().is_empty());
        for name in ["disks", "blobs/sha256"] {
            let folder = root.path().join("images").join(name);
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
        }
    }
    result
}

fn refused(files: &Files, object: &str) {
    let error = load(files.tar()).unwrap_err().to_string();
    assert!(error.contains(object), "{error:?} does not name {object:?}");
}

#[test]
fn loads_docker_archives_however_compressed() {
    let tar = docker_save().tar();
    let reference = load(tar.clone()).unwrap();
    assert_eq!(reference.len(), 1);
    let names: Vec<_> = reference[0]
        .references
        .iter()
        .map(Reference::familiar)
        .collect();
    assert_eq!(names, ["test:1", "test:2"]);
    assert_eq!(reference[0].config.cmd, ["amd64"]);
    for compressed in [
        gzip(&tar),
        zstd(&tar),
        [gzip(&tar[..1000]), gzip(&tar[1000..])].concat(),
    ] {
        assert_eq!(load(compressed).unwrap()[0].id, reference[0].id);
    }
}

#[test]
fn loads_from_files_and_folders() {
    let scratch = tempfile::tempdir().unwrap();
    let files = oci_layout();
    let tar = scratch.path().join("a.tar");
    std::fs::write(&tar, files.tar()).unwrap();
    let zipped = scratch.path().join("a.tar.gz");
    std::fs::write(&zipped, gzip(&files.tar())).unwrap();
    let folder = scratch.path().join("layout");
    for (name, content) in &files.0 {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let mut ids = Vec::new();
    for path in [tar, zipped, folder] {
        let store = ImageStore::open(&scratch.path().join("root")).unwrap();
        let image = store
            .load_platform(LoadSource::Path(path), &amd64(), &Silent)
            .unwrap()
            .remove(0);
        assert_eq!(image.references[0].familiar(), "test:multi");
        ids.push(image.id);
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn chooses_the_platform() {
    let files = oci_layout();
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    let load = |platform: &str| {
        store.load_platform(
            LoadSource::Reader(Box::new(Cursor::new(files.tar()))),
            &platform.parse().unwrap(),
            &Silent,
        )
    };
    assert_eq!(load("linux/arm64").unwrap()[0].config.architecture, "arm64");
    assert_eq!(load("linux/amd64").unwrap()[0].config.architecture, "amd64");
    let error = load("linux/s390x").unwrap_err().to_string();
    assert!(error.contains("linux/arm64, linux/amd64"), "{error}");
    let error = store
        .load_platform(
            LoadSource::Reader(Box::new(Cursor::new(docker_save().tar()))),
            &"linux/arm64".parse().unwrap(),
            &Silent,
        )
        .unwrap_err();
    assert!(matches!(error, Error::NoPlatform { .. }), "{error}");
}

#[test]
fn tells_the_steps_and_reuses_what_is_there() {
    struct Steps(Mutex<Vec<String>>);
    impl Progress for Steps {
        fn event(&self, event: Event<'_>) {
            let text = format!("{event:?}");
            let name = text.split(' ').next().unwrap().to_owned();
            self.0.lock().unwrap().push(name);
        }
    }
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    let steps = Steps(Mutex::default());
    let tar = docker_save().tar();
    for _ in 0..2 {
        let source = LoadSource::Reader(Box::new(Cursor::new(tar.clone())));
        store.load_platform(source, &amd64(), &steps).unwrap();
    }
    assert_eq!(
        *steps.0.lock().unwrap(),
        [
            "LayerAdded",
            "LayerAdded",
            "Unpacking",
            "LayerDone",
            "Unpacking",
            "LayerDone",
            "UpToDate"
        ]
    );
}

#[test]
fn refuses_wrong_digests() {
    let mut changed_layer = oci_layout();
    // The uncompressed layer, in the middle of its only file.
    let plain = Digest::of(&layer_tar("p"));
    changed_layer.replace(plain.hex(), |content| content[600] ^= 1);
    refused(&changed_layer, plain.hex());

    let mut appended = oci_layout();
    appended.replace(plain.hex(), |content| content.extend([0; 512]));
    refused(&appended, plain.hex());

    let mut changed_config = docker_save();
    changed_config.replace(".json", |content| content.push(b' '));
    refused(&changed_config, ".json");

    let mut changed_layer = docker_save();
    let diff_id = Digest::of(&layer_tar("two"));
    changed_layer.replace("l2/layer.tar", |content| content[600] ^= 1);
    refused(&changed_layer, diff_id.hex());
}

#[test]
fn refuses_missing_and_superfluous_objects() {
    for part in ["l1/layer.tar", "manifest.json"] {
        let mut files = docker_save();
        files.0.retain(|(name, _)| !name.contains(part));
        refused(&files, part);
    }
    let plain = Digest::of(&layer_tar("p"));
    let mut files = oci_layout();
    files.0.retain(|(name, _)| !name.contains(plain.hex()));
    refused(&files, plain.hex());

    let mut fewer = docker_save();
    fewer.replace("manifest.json", |content| {
        let text = String::from_utf8(content.clone()).unwrap();
        *content = text.replace(r#","l2/layer.tar""#, "").into_bytes();
    });
    refused(&fewer, "names 2 layers, its manifest 1");

    let mut twice = docker_save();
    twice.add("l1/layer.tar", "other");
    refused(&twice, "l1/layer.tar");
}

#[test]
fn refuses_hostile_manifests() {
    for manifest in [
        "",
        "{}",
        "[]",
        r#"[{"Config":"../../etc/passwd","Layers":[]}]"#,
        r#"[{"Config":"/etc/passwd","Layers":[]}]"#,
        r#"[{"Config":"l1/layer.tar","Layers":[]}]"#,
        r#"[{"Layers":[]}]"#,
    ] {
        let mut files = docker_save();
        files.replace("manifest.json", |content| *content = manifest.into());
        assert!(load(files.tar()).is_err(), "{manifest}");
    }
    let mut bad_name = docker_save();
    bad_name.replace("manifest.json", |content| {
        let text = String::from_utf8(content.clone()).unwrap();
        *content = text.replace("test:1", "Bad Name").into_bytes();
    });
    refused(&bad_name, "Bad Name");
    let mut huge = docker_save();
    huge.replace("manifest.json", |content| content.resize(17 << 20, b' '));
    refused(&huge, "manifest.json");
    let mut huge = oci_layout();
    huge.replace("index.json", |content| content.resize(5 << 20, b' '));
    refused(&huge, "index.json");
}

#[test]
fn refuses_what_is_no_image() {
    for (bytes, said) in [
        (Vec::new(), "empty"),
        (b"hello".to_vec(), "cut off"),
        (vec![b'x'; 4096], "no tar archive"),
        (b"BZh91AY&SY".to_vec(), "bzip2 -d"),
        (b"\xfd7zXZ\0\0".to_vec(), "xz -d"),
        (layer_tar("file"), "no image archive"),
        (gzip(&docker_save().tar())[..500].to_vec(), "decompress"),
    ] {
        let error = load(bytes).unwrap_err().to_string();
        assert!(error.contains(said), "{error:?} does not say {said:?}");
    }
    let mut old = Files::default();
    old.add("repositories", "{}");
    refused(&old, "Docker older than 1.10");
}
