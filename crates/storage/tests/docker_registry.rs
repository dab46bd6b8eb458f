//! Pulls from the registry that everybody runs, and loads what `skopeo` makes of
//! what is in it.

#![allow(clippy::unwrap_used)] // Helpers of tests count as tests.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use caisson_storage::{
    Credentials, Digest, Error, ImageStore, LoadSource, Platform, PullOptions, Reference, Silent,
};

/// A bcrypt of `secret`, at the lowest cost.
const PASSWORDS: &str = "user:$2b$04$caissoncaissoncaissonOwnrnNqltsa6IN8zniR/5PhulmRQr7sy\n";

/// A program that tests need: its absence is a failure and not a reason to skip.
fn program(name: &str, package: &str) -> Command {
    let path = Path::new("/usr/bin").join(name);
    assert!(
        path.exists(),
        "{} is missing: apt-get install {package}",
        path.display()
    );
    Command::new(path)
}

/// docker-registry on a port of its own, which lets in `user` with `secret`.
struct Registry {
    process: Child,
    name: String,
    _log: std::thread::JoinHandle<()>,
}

impl Registry {
    fn start(folder: &Path) -> Self {
        let (config, passwords) = (folder.join("config.yml"), folder.join("passwords"));
        std::fs::write(&passwords, PASSWORDS).unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n\
             auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n",
            folder.join("registry").display(),
            passwords.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut process = program("docker-registry", "docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let name = loop {
            let Some(line) = lines.next() else {
                panic!("docker-registry ended: {said}");
            };
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.chars().take_while(|c| !"\", ".contains(*c)).collect();
            }
            said += &line;
        };
        // Somebody has to read what it says, or it would stop when the pipe is full.
        let log = std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            name,
            _log: log,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn skopeo(options: &[&str], from: &str, to: &str) {
    let output = program("skopeo", "skopeo")
        .args(["copy", "--insecure-policy", "--quiet"])
        .args(options)
        .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
        .args([from, to])
        .env("REGISTRY_AUTH_FILE", "/nonexistent")
        .args(if from.starts_with("docker:") {
            ["--src-creds", "user:secret"]
        } else {
            ["--dest-creds", "user:secret"]
        })
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn blob(folder: &Path, media_type: &str, content: &[u8]) -> serde_json::Value {
    let digest = Digest::of(content);
    std::fs::write(folder.join("blobs/sha256").join(digest.hex()), content).unwrap();
    serde_json::json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

fn json_blob(folder: &Path, media_type: &str, value: &serde_json::Value) -> serde_json::Value {
    blob(folder, media_type, value.to_string().as_bytes())
}

/// A layer of a few megabytes, so that it takes more than one read.
fn layer(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut state = name.len() as u32;
    let content: Vec<u8> = (0..3 << 20)
        .map(|_| {
            // What compresses badly: a linear congruential generator.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, name, content.as_slice())
        .unwrap();
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI layout with an index of two images that share a layer.
fn write_layout(folder: &Path) {
    std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    std::fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let manifests: Vec<_> = ["amd64", "arm64"]
        .into_iter()
        .map(|architecture| {
            let layers = [layer("shared"), layer(architecture)];
            let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
            let config = serde_json::json!({
                "architecture": architecture, "os": "linux",
                "config": {"Cmd": [architecture]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            });
            let layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            let manifest = serde_json::json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": json_blob(folder, "application/vnd.oci.image.config.v1+json", &config),
                "layers": layers.map(|layer| blob(folder, layer_type, &gzip(&layer))),
            });
            let kind = "application/vnd.oci.image.manifest.v1+json";
            let mut descriptor = json_blob(folder, kind, &manifest);
            descriptor["platform"] =
                serde_json::json!({"os": "linux", "architecture": architecture});
            descriptor
        })
        .collect();
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    let top = json_blob(folder, kind, &index);
    let text = serde_json::json!({"schemaVersion": 2, "manifests": [top]}).to_string();
    std::fs::write(folder.join("index.json"), text).unwrap();
}

#[tokio::test]
async fn pulls_what_was_pushed() {
    let scratch = tempfile::tempdir().unwrap();
    let registry = Registry::start(scratch.path());
    let layout = scratch.path().join("layout");
    write_layout(&layout);
    let name = format!("{}/some/image:1", registry.name);
    skopeo(
        &["--all"],
        &format!("oci:{}", layout.display()),
        &format!("docker://{name}"),
    );

    let store = ImageStore::open(&scratch.path().join("root")).unwrap();
    let reference = Reference::parse(&name).unwrap();
    let mut options = PullOptions {
        docker_config: Some("/nonexistent".into()),
        ..PullOptions::default()
    };
    let error = store.pull(&reference, &options).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    options.credentials = Some(Credentials::Password {
        username: "user".to_owned(),
        password: "secret".to_owned(),
    });
    let absent = Reference::parse(&format!("{}/some/image:2", registry.name)).unwrap();
    let error = store.pull(&absent, &options).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");

    let mut pulled = Vec::new();
    for architecture in ["arm64", "amd64"] {
        options.platform = architecture.parse().unwrap();
        let image = store.pull(&reference, &options).await.unwrap();
        assert_eq!(image.config.cmd, [architecture]);
        assert!(image.size > 6 << 20, "{}", image.size);
        pulled.push(image);
    }
    assert_eq!(pulled[0].digests, pulled[1].digests, "that of the index");

    // What others make of it is the same image and the same disk.
    let served = format!("docker://{name}");
    let loaded_store = ImageStore::open(&scratch.path().join("other")).unwrap();
    for (image, architecture) in pulled.iter().zip(["arm64", "amd64"]) {
        let archive = scratch.path().join("archive.tar");
        let options = ["--override-arch", architecture];
        for kind in ["oci-archive", "docker-archive"] {
            let to = format!("{kind}:{}:some/image:1", archive.display());
            skopeo(&options, &served, &to);
            let platform: Platform = architecture.parse().unwrap();
            let source = LoadSource::Path(archive.clone());
            let loaded = loaded_store
                .load_platform(source, &platform, &Silent)
                .unwrap()
                .remove(0);
            assert_eq!(loaded.id, image.id);
            assert_eq!(loaded.references[0].familiar(), "some/image:1");
            let (one, other) = (std::fs::read(&image.disk), std::fs::read(&loaded.disk));
            assert!(one.unwrap() == other.unwrap(), "{architecture} in {kind}");
            std::fs::remove_file(&archive).unwrap();
            // So that the next is not only a name for it.
            loaded_store
                .remove(loaded.id.hex(), true, &|_| false)
                .unwrap();
        }
    }
}
