//! Pulls that do not go through, and pulls that meet.

use tokio::sync::Semaphore;

use super::*;
use crate::store::small_disk::on_small_disk;

/// For what would otherwise hang: far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where it is interrupted.
const CUT: usize = 200_000;

#[tokio::test]
async fn goes_on_after_an_interruption() {
    let (store, server) = (
        Store::new(),
        Server::with_rule(|request, earlier| match earlier {
            0 if is_big(request) => Some(Reply::new(200, layer("big", BIG)).cut_after(CUT)),
            1 if is_big(request) => Some(Reply::new(503, "")),
            _ => None,
        })
        .await,
    );
    let big = serve_image(&server);
    let steps = Steps::new(|| {});
    let told = PullOptions {
        progress: steps.clone(),
        ..options()
    };
    store.pull(&server, "", &told).await.unwrap();
    assert_eq!(steps.count("Retrying"), 2);
    let ranges: Vec<String> = server
        .requests(big.hex())
        .iter()
        .map(|request| request.header("range").to_owned())
        .collect();
    let expected = format!("bytes={CUT}-");
    assert_eq!(ranges, ["", &expected, &expected]);
}

#[tokio::test]
async fn a_later_pull_goes_on_too() {
    let (store, server) = (
        Store::new(),
        Server::with_rule(|request, earlier| match earlier {
            0 if is_big(request) => Some(Reply::new(200, layer("big", BIG)).cut_after(CUT)),
            // It has no parts to give.
            1 if is_big(request) => Some(Reply::new(200, layer("big", BIG))),
            _ => None,
        })
        .await,
    );
    let big = serve_image(&server);
    let impatient = PullOptions {
        retry: RetryPolicy {
            attempts: 1,
            first_delay: Duration::ZERO,
        },
        ..options()
    };
    let error = store.pull(&server, "", &impatient).await.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    assert!(store.store.list().unwrap().is_empty());
    store.assert_empty(&["staging", "locks", "disks", "blobs/sha256"]);
    let kept = store.root.path().join("images/downloads").join(big.hex());
    assert_eq!(std::fs::metadata(&kept).unwrap().len(), CUT as u64);

    store.pull(&server, "", &impatient).await.unwrap();
    let requests = server.requests(big.hex());
    assert_eq!(requests[1].header("range"), format!("bytes={CUT}-"));
    assert_eq!(requests.len(), 2);
    store.assert_empty(&["downloads"]);
}

#[tokio::test]
async fn a_wrong_beginning_is_fetched_again() {
    let (store, server) = (Store::new(), Server::start().await);
    let big = serve_image(&server);
    let kept = store.root.path().join("images/downloads").join(big.hex());
    for wrong in [vec![7; 1000], vec![7; 2 * BIG]] {
        std::fs::write(&kept, wrong).unwrap();
        let image = store.pull(&server, "", &options()).await.unwrap();
        store
            .store
            .remove(image.id.hex(), true, &|_| false)
            .unwrap();
    }
}

#[tokio::test]
async fn what_was_changed_leaves_nothing() {
    let changed = layer("BIG", BIG);
    let longer = [layer("big", BIG), vec![0; 512]].concat();
    let shorter = layer("big", BIG)[..CUT].to_vec();
    for (body, said) in [
        (changed, "has the digest"),
        (longer, "more than the"),
        (shorter, "too early"),
    ] {
        let server = Server::with_rule({
            let body = body.clone();
            move |request, _| is_big(request).then(|| Reply::new(200, body.clone()))
        })
        .await;
        serve_image(&server);
        let store = Store::new();
        let error = store.pull(&server, "", &options()).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(store.store.list().unwrap().is_empty());
        store.assert_empty(&["staging", "locks", "disks", "blobs/sha256"]);
        let big = Digest::of(&layer("big", BIG));
        let kept = store.root.path().join("images/downloads").join(big.hex());
        assert!(said != "has the digest" || !kept.exists());
    }
    // A manifest that is not what its digest says.
    let (store, server) = (Store::new(), Server::start().await);
    let wanted = Digest::of(b"other");
    let text = server_manifest(&server);
    server.put(format!("/v2/test/image/manifests/{wanted}"), text);
    let error = store
        .pull(&server, &format!("@{wanted}"), &options())
        .await
        .unwrap_err();
    assert!(error.to_string().contains(wanted.hex()), "{error}");
}

#[tokio::test]
async fn a_layer_that_cannot_be_unpacked_leaves_nothing() {
    let (store, server) = (Store::new(), Server::start().await);
    let (good, bad) = (layer("good", 10), vec![b'x'; 4096]);
    server.put(
        "/v2/test/image/manifests/latest",
        manifest(&server, "amd64", &[&good, &bad]),
    );
    store.pull(&server, "", &options()).await.unwrap_err();
    let folders = ["staging", "locks", "disks", "blobs/sha256", "downloads"];
    store.assert_empty(&folders);
}

#[test]
fn a_full_file_system_keeps_no_download() {
    on_small_disk(2, |root| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::start().await;
            let layers = [layer("one", 1 << 20), layer("two", 3 << 20)];
            let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
            server.put(
                "/v2/test/image/manifests/latest",
                manifest(&server, "amd64", &layers),
            );
            let store = ImageStore::open(root).unwrap();
            let name = format!("{}/test/image", server.name());
            let reference = Reference::parse(&name).unwrap();
            let error = store.pull(&reference, &options()).await.unwrap_err();
            assert!(error.to_string().contains("No space left"), "{error}");
            for folder in ["staging", "locks", "disks", "blobs/sha256", "downloads"] {
                let left: Vec<_> = std::fs::read_dir(root.join("images").join(folder))
                    .unwrap()
                    .collect();
                assert!(left.is_empty(), "{left:?}");
            }
        });
    });
}

/// Serves an image whose big layer waits until `gate` lets it pass.
async fn gated_server(gate: &Arc<Semaphore>, arrived: &Arc<Semaphore>) -> Server {
    let (gate, arrived) = (gate.clone(), arrived.clone());
    let server = Server::with_rule(move |request, _| {
        is_big(request).then(|| {
            arrived.add_permits(1);
            Reply::new(200, layer("big", BIG)).behind(&gate)
        })
    })
    .await;
    serve_image(&server);
    server
}

#[tokio::test]
async fn of_two_pulls_one_waits() {
    let (gate, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (store, server) = (Store::new(), gated_server(&gate, &arrived).await);
    let first = options();
    let steps = Steps::new(move || gate.add_permits(1));
    let second = PullOptions {
        progress: steps.clone(),
        ..options()
    };
    let both = async {
        tokio::join!(store.pull(&server, "", &first), async {
            // By now the first holds the lock; only the wait of the second lets it finish.
            arrived.acquire().await.unwrap().forget();
            store.pull(&server, "", &second).await
        })
    };
    let (one, other) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!((steps.count("Waiting"), steps.count("UpToDate")), (1, 1));
    let big = Digest::of(&layer("big", BIG));
    assert_eq!(server.requests(big.hex()).len(), 1);
    store.assert_empty(&["downloads", "staging", "locks"]);
}

#[tokio::test]
async fn an_abandoned_pull_leaves_the_store_usable() {
    let (gate, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (store, server) = (Store::new(), gated_server(&gate, &arrived).await);
    let told = options();
    tokio::select! {
        result = store.pull(&server, "", &told) => panic!("{result:?}"),
        permit = arrived.acquire() => permit.unwrap().forget(),
    }
    gate.add_permits(2);
    let again = store.pull(&server, "", &told);
    let image = tokio::time::timeout(PATIENCE, again)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(store.store.list().unwrap(), [image]);
}
