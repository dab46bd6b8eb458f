use std::io::Cursor;

use super::*;
use crate::{LoadSource, Silent};

/// An image with one small file, as `docker save` writes it, with these names.
fn saved(content: &str, names: &[&str]) -> LoadSource {
    let archive = archive_of(content.as_bytes(), content, names);
    LoadSource::Reader(Box::new(Cursor::new(archive)))
}

/// An archive of an image with one file and this command.
fn archive_of(file: &[u8], command: &str, names: &[&str]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "file", file);
    let layer = layer.into_inner().unwrap();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["{command}"]}},
           "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        crate::Platform::default().architecture,
        Digest::of(&layer)
    );
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": names, "Layers": ["l.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "c.json", config.as_bytes());
    append(&mut archive, "l.tar", &layer);
    append(
        &mut archive,
        "manifest.json",
        manifest.to_string().as_bytes(),
    );
    archive.into_inner().unwrap()
}

/// Bytes of which no block is like another.
fn noise(size: usize) -> Vec<u8> {
    (0..size as u32 / 4)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect()
}

fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    (root, store)
}

fn load(store: &ImageStore, content: &str, names: &[&str]) -> Image {
    store
        .load(saved(content, names), &Silent)
        .unwrap()
        .remove(0)
}

fn names(image: &Image) -> Vec<String> {
    image.references.iter().map(Reference::familiar).collect()
}

/// Every file below the store, for tests that nothing is left.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder).unwrap() {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn finds_images_by_name_and_id() {
    let (_root, store) = store();
    let image = load(&store, "one", &["a:1", "b:2"]);
    let hex = image.id.hex().to_owned();
    for name in [
        "a:1",
        "b:2",
        "docker.io/library/a:1",
        &hex,
        &hex[..12],
        &image.id.to_string(),
    ] {
        assert_eq!(store.get(name).unwrap().unwrap(), image, "{name}");
    }
    for name in ["a", "c:1", "", "x", "sha256:", &"f".repeat(64), "../x", "A"] {
        assert_eq!(store.get(name).unwrap(), None, "{name}");
    }
    assert_eq!(store.list().unwrap(), vec![image]);
}

#[test]
fn a_name_moves_to_the_newer_image() {
    let (_root, store) = store();
    let old = load(&store, "one", &["a:1"]);
    let new = load(&store, "two", &["a:1"]);
    assert_eq!(store.get("a:1").unwrap().unwrap().id, new.id);
    let old = store.get(&old.id.to_string()).unwrap().unwrap();
    assert!(old.references.is_empty());
    let listed: Vec<_> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|image| image.id)
        .collect();
    assert_eq!(listed, [new.id, old.id], "nameless images come last");
}

#[test]
fn tags_need_no_layers() {
    let (_root, store) = store();
    let image = load(&store, "one", &["a:1"]);
    store.tag("a:1", "localhost:5000/b").unwrap();
    store.tag(&image.id.hex()[..8], "c").unwrap();
    let image = store.get("c").unwrap().unwrap();
    assert_eq!(
        names(&image),
        ["a:1", "c:latest", "localhost:5000/b:latest"]
    );
    assert!(matches!(store.tag("none", "c"), Err(Error::NoImage(_))));
    assert!(store.tag("a:1", "UPPER").is_err());
    assert!(store.tag("a:1", &format!("x@{}", image.id)).is_err());
}

#[test]
fn removes_names_first_and_then_the_image() {
    let (root, store) = store();
    let image = load(&store, "one", &["a:1", "b:2"]);
    let unused = |_: &Image| false;
    assert!(matches!(
        store.remove(image.id.hex(), false, &unused),
        Err(Error::SeveralNames { .. })
    ));
    assert_eq!(
        store.remove("a:1", false, &unused).unwrap(),
        ["Untagged: a:1"]
    );
    assert!(store.get("a:1").unwrap().is_none());
    assert_eq!(
        store.remove("b:2", false, &unused).unwrap(),
        ["Untagged: b:2".to_owned(), format!("Deleted: {}", image.id)]
    );
    assert!(matches!(
        store.remove("b:2", true, &unused),
        Err(Error::NoImage(_))
    ));
    assert_eq!(files(root.path()), ["images/index.json", "images/lock"]);
}

#[test]
fn keeps_the_disk_that_a_container_needs() {
    let (_root, store) = store();
    let image = load(&store, "one", &["a:1", "b:2"]);
    let used = |candidate: &Image| candidate.id == image.id;
    assert_eq!(
        store.remove("a:1", false, &used).unwrap(),
        ["Untagged: a:1"],
        "one name of several can go"
    );
    assert!(matches!(
        store.remove("b:2", false, &used),
        Err(Error::InUse(_))
    ));
    assert_eq!(store.remove("b:2", true, &used).unwrap(), ["Untagged: b:2"]);
    assert!(image.disk.exists());
    assert_eq!(store.list().unwrap().len(), 1);
    let lines = store.remove(image.id.hex(), false, &|_| false).unwrap();
    assert_eq!(lines, [format!("Deleted: {}", image.id)]);
    assert!(!image.disk.exists());
}

#[test]
fn an_ambiguous_id_is_refused() {
    let (_root, store) = store();
    // By the pigeonhole principle, two of 257 IDs begin with the same byte.
    let mut index = Index::default();
    for number in 0..257 {
        index.entry(&Digest::of(&[number as u8, (number >> 8) as u8]));
    }
    let prefix = {
        let mut seen = std::collections::HashSet::new();
        let mut ids = index
            .images
            .keys()
            .map(|id| id["sha256:".len()..][..2].to_owned());
        ids.find(|prefix| !seen.insert(prefix.clone())).unwrap()
    };
    assert!(matches!(find(&index, &prefix), Err(Error::AmbiguousId(_))));
    drop(store);
}

#[test]
fn removes_what_dead_writers_left() {
    let (root, store) = store();
    let image = load(&store, "one", &["a:1"]);
    let before = files(root.path());
    let images = root.path().join("images");
    let hex = "0".repeat(64);
    std::fs::create_dir_all(images.join("staging/dead/deep")).unwrap();
    std::fs::write(images.join("staging/dead/deep/disk.erofs"), "half").unwrap();
    std::fs::write(images.join("staging/.tmpindex"), "half").unwrap();
    std::fs::write(images.join(format!("disks/{hex}.erofs")), "no index").unwrap();
    std::fs::write(images.join(format!("blobs/sha256/{hex}")), "no index").unwrap();
    std::fs::write(images.join(format!("locks/{hex}")), "").unwrap();
    let kept = images.join(format!("downloads/{hex}"));
    std::fs::write(&kept, "to be resumed").unwrap();
    // A writer that lives.
    let alive = store.staging().unwrap();
    std::fs::write(alive.path().join("disk.erofs"), "growing").unwrap();

    let again = ImageStore::open(root.path()).unwrap();
    assert_eq!(again.get("a:1").unwrap().unwrap(), image);
    assert!(alive.path().join("disk.erofs").exists());
    assert!(kept.exists());
    drop(alive);
    std::fs::remove_file(&kept).unwrap();
    assert_eq!(files(root.path()), before);
    assert!(entries(&images.join("staging")).unwrap().is_empty());

    // A week later, the download is given up.
    std::fs::write(&kept, "forgotten").unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 60 * 60);
    File::options()
        .write(true)
        .open(&kept)
        .unwrap()
        .set_modified(old)
        .unwrap();
    ImageStore::open(root.path()).unwrap();
    assert!(!kept.exists());
}

#[test]
fn says_when_an_image_is_damaged_and_mends_it() {
    let (root, store) = store();
    let image = load(&store, "one", &["a:1"]);
    let config = root.path().join("images/blobs/sha256").join(image.id.hex());
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("one", "two")).unwrap();
    assert!(matches!(store.get("a:1"), Err(Error::DamagedImage { .. })));
    assert_eq!(
        load(&store, "one", &["a:1"]),
        image,
        "loading it again mends it"
    );
    std::fs::remove_file(&image.disk).unwrap();
    assert!(matches!(store.get("a:1"), Err(Error::DamagedImage { .. })));
    store.remove("a:1", false, &|_| false).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn refuses_an_index_of_another_version() {
    let (root, store) = store();
    let path = root.path().join("images/index.json");
    for text in [
        r#"{"version":2,"images":{}}"#,
        "{",
        r#"{"version":1,"images":{},"new":1}"#,
    ] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(store.list(), Err(Error::Store { .. })), "{text}");
        assert!(
            ImageStore::open(root.path()).is_err(),
            "{text}: nothing may be removed"
        );
    }
}

#[test]
fn many_processes_at_once() {
    let (root, _) = store();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let root = root.path();
            scope.spawn(move || {
                for round in 0..5 {
                    let store = ImageStore::open(root).unwrap();
                    let same = load(&store, "same", &["same:1"]);
                    let own = load(
                        &store,
                        &format!("{thread}-{round}"),
                        &[&format!("own:{thread}")],
                    );
                    assert_eq!(store.get("same:1").unwrap().unwrap().id, same.id);
                    assert_eq!(store.get(&format!("own:{thread}")).unwrap().unwrap(), own);
                    store.remove(own.id.hex(), false, &|_| false).unwrap();
                }
            });
        }
    });
    let store = ImageStore::open(root.path()).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(
        files(root.path()).len(),
        4,
        "index, lock, disk, configuration"
    );
}

/// The error of a file system that is full.
fn is_full(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}

#[test]
fn a_full_file_system_keeps_nothing_of_an_image() {
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("archive.tar");
    std::fs::write(&archive, archive_of(&noise(3 << 20), "two", &["b:1"])).unwrap();
    let fitting = archive_of(&noise(1 << 20), "three", &["c:1"]);
    small_disk::on_small_disk(2, |root| {
        let store = ImageStore::open(root).unwrap();
        let kept = load(&store, "one", &["a:1"]);
        let before = files(root);
        // The disk does not fit; as a stream, the archive does not even.
        let streamed = std::fs::File::open(&archive).unwrap();
        for source in [
            LoadSource::Path(archive.clone()),
            LoadSource::Reader(Box::new(streamed)),
        ] {
            let error = store.load(source, &Silent).unwrap_err();
            assert!(is_full(&error), "{error}");
            assert_eq!(files(root), before);
            assert!(entries(&root.join("images/staging")).unwrap().is_empty());
            assert_eq!(store.list().unwrap(), std::slice::from_ref(&kept));
        }
        // All of the space is free again.
        std::fs::write(&archive, &fitting).unwrap();
        store
            .load(LoadSource::Path(archive.clone()), &Silent)
            .unwrap();
        assert_eq!(store.list().unwrap().len(), 2);
    });
}

#[test]
fn an_image_is_made_whole_or_not_at_all() {
    let id = load(&store().1, "two", &["b:1"]).id;
    let (root, store) = store();
    let kept = load(&store, "one", &["a:1"]);
    let before = files(root.path());
    // The disk is in its place when its configuration cannot be.
    let obstacle = root.path().join("images/blobs/sha256").join(id.hex());
    std::fs::create_dir(&obstacle).unwrap();
    store.load(saved("two", &["b:1"]), &Silent).unwrap_err();
    assert_eq!(files(root.path()), before);
    std::fs::remove_dir(&obstacle).unwrap();
    assert_eq!(store.list().unwrap(), [kept]);
    assert_eq!(load(&store, "two", &["b:1"]).id, id);
}

#[test]
fn a_loaded_image_is_called_what_its_archive_calls_it() {
    let (_root, store) = store();
    load(&store, "one", &["a:1"]);
    assert_eq!(names(&load(&store, "one", &["z:1"])), ["z:1", "a:1"]);
    assert_eq!(names(&load(&store, "one", &["a:1"])), ["a:1", "z:1"]);
}
