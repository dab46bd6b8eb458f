mod access;
mod interruption;
mod server;

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use server::{Reply, Request, Server};

/// Size of the layer that tests interrupt.
const BIG: usize = 300_000;

/// Keeps the names of the steps and calls `on_waiting` at each `Waiting`.
struct Steps {
    names: Mutex<Vec<String>>,
    on_waiting: Box<dyn Fn() + Send + Sync>,
}

impl Progress for Steps {
    fn event(&self, event: Event<'_>) {
        let text = format!("{event:?}");
        let name = text.split(' ').next().unwrap().to_owned();
        self.names.lock().unwrap().push(name);
        if matches!(event, Event::Waiting { .. }) {
            (self.on_waiting)();
        }
    }
}

impl Steps {
    fn new(on_waiting: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            names: Mutex::default(),
            on_waiting: Box::new(on_waiting),
        })
    }

    fn count(&self, name: &str) -> usize {
        let names = self.names.lock().unwrap();
        names.iter().filter(|step| *step == name).count()
    }
}

/// A store for one test.
struct Store {
    root: tempfile::TempDir,
    store: ImageStore,
}

impl Store {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        Self { root, store }
    }

    async fn pull(&self, server: &Server, tag: &str, options: &PullOptions) -> Result<Image> {
        let reference = Reference::parse(&format!("{}/test/image{tag}", server.name())).unwrap();
        self.store.pull(&reference, options).await
    }

    /// The files below one of the store's folders.
    fn files(&self, folder: &str) -> Vec<std::path::PathBuf> {
        std::fs::read_dir(self.root.path().join("images").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    fn assert_empty(&self, folders: &[&str]) {
        for folder in folders {
            assert!(self.files(folder).is_empty(), "{:?}", self.files(folder));
        }
    }
}

fn options() -> PullOptions {
    PullOptions {
        platform: "linux/amd64".parse().unwrap(),
        docker_config: Some("/nonexistent".into()),
        retry: RetryPolicy {
            attempts: 3,
            first_delay: Duration::ZERO,
        },
        ..PullOptions::default()
    }
}

fn password(username: &str) -> Option<Credentials> {
    Some(Credentials::Password {
        username: username.to_owned(),
        password: "secret".to_owned(),
    })
}

fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    let content: Vec<u8> = (0..size).map(|number| (number % 251) as u8).collect();
    builder
        .append_data(&mut header, name, content.as_slice())
        .unwrap();
    builder.into_inner().unwrap()
}

/// The manifest of an image that has these layers.
fn manifest(server: &Server, architecture: &str, layers: &[&[u8]]) -> String {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": server.blob(*layer), "size": layer.len(),
            })
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(), "digest": server.blob(config),
        },
        "layers": layers,
    })
    .to_string()
}

/// Serves an image with a small and a big layer as `latest`; returns the digest of
/// the big one.
fn serve_image(server: &Server) -> Digest {
    let (small, big) = (layer("small", 10), layer("big", BIG));
    let manifest = manifest(server, "amd64", &[&small, &big, &small]);
    server.put("/v2/test/image/manifests/latest", manifest);
    Digest::of(&big)
}

fn is_big(request: &Request) -> bool {
    request
        .target
        .ends_with(&Digest::of(&layer("big", BIG)).to_string())
}

#[tokio::test]
async fn pulls_once_and_names_afterwards() {
    let (store, server) = (Store::new(), Server::start().await);
    let big = serve_image(&server);
    let image = store.pull(&server, "", &options()).await.unwrap();
    assert_eq!(
        image.references[0].familiar(),
        format!("{}/test/image:latest", server.name())
    );
    assert_eq!(image.digests.len(), 1);
    assert_eq!(server.requests("blobs").len(), 3, "no layer twice");
    store.assert_empty(&["downloads", "staging", "locks"]);

    let text = server.requests("manifests")[0].header("accept").to_owned();
    assert!(text.contains("manifest.list.v2+json"), "{text}");
    let steps = Steps::new(|| {});
    let again = PullOptions {
        progress: steps.clone(),
        ..options()
    };
    let by_digest = format!("@{}", image.digests[0].digest().unwrap());
    server.put(
        format!("/v2/test/image/manifests/{}", &by_digest[1..]),
        server_manifest(&server),
    );
    let same = store.pull(&server, &by_digest, &again).await.unwrap();
    assert_eq!(same, image);
    assert_eq!(steps.count("UpToDate"), 1);
    assert_eq!(server.requests(big.hex()).len(), 1);
}

fn server_manifest(server: &Server) -> String {
    let (small, big) = (layer("small", 10), layer("big", BIG));
    manifest(server, "amd64", &[&small, &big, &small])
}

#[tokio::test]
async fn takes_the_platform_that_is_asked_for() {
    let (store, server) = (Store::new(), Server::start().await);
    let entries: Vec<_> = ["arm64", "amd64"]
        .into_iter()
        .map(|architecture| {
            let text = manifest(&server, architecture, &[&layer(architecture, 10)]);
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "size": text.len(), "digest": server.manifest(text),
                "platform": {"os": "linux", "architecture": architecture},
            })
        })
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let digest = Digest::of(index.as_bytes());
    server.put("/v2/test/image/manifests/latest", index);
    let mut ids = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let asking = PullOptions {
            platform: architecture.parse().unwrap(),
            ..options()
        };
        let image = store.pull(&server, "", &asking).await.unwrap();
        assert_eq!(image.config.architecture, architecture);
        assert_eq!(image.digests[0].digest(), Some(&digest));
        ids.push(image.id);
    }
    assert_ne!(ids[0], ids[1]);
    let asking = PullOptions {
        platform: "s390x".parse().unwrap(),
        ..options()
    };
    let error = store.pull(&server, "", &asking).await.unwrap_err();
    assert!(
        error.to_string().contains("linux/arm64, linux/amd64"),
        "{error}"
    );
}

#[tokio::test]
async fn refuses_what_a_hostile_registry_sends() {
    let huge = vec![b' '; 5 << 20];
    let artifact = r#"{"schemaVersion":2,"config":{"mediaType":"x\u001b[31my","size":2,
        "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        "layers":[]}"#;
    for (body, said) in [
        (huge, "more than"),
        (b"<html>".to_vec(), "no manifest"),
        (artifact.as_bytes().to_vec(), "x[31my"),
    ] {
        let (store, server) = (Store::new(), Server::start().await);
        server.put("/v2/test/image/manifests/latest", body);
        let error = store.pull(&server, "", &options()).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    let (store, server) = (Store::new(), Server::start().await);
    let error = store.pull(&server, "", &options()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("not here"), "{error}");
    let name = server.name();
    drop(server);
    let gone = Reference::parse(&format!("{name}/test/image")).unwrap();
    let error = store.store.pull(&gone, &options()).await.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
}
