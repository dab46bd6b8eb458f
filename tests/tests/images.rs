//! Images: loaded, pulled, listed, removed.

use caisson_end_to_end::image::{Image, Layer, Packing};
use caisson_end_to_end::registry::Registry;
use caisson_end_to_end::{Caisson, output, text};
use serde_json::{Value, json};

/// An image with a layer packed in each way.
fn layered(name: &str) -> Image {
    let layer = |name: &str| Layer::new().file(name, 0o644, name);
    Image::on_busybox(name)
        .packed_layer(Packing::Plain, layer("plain"))
        .packed_layer(Packing::Gzip, layer("gzip"))
        .packed_layer(Packing::Zstd, layer("zstd"))
        .config("Cmd", json!(["cat", "/plain", "/gzip", "/zstd"]))
        // Else they would be one image with several names.
        .config("Labels", json!({"name": name}))
}

const CONTENT: &str = "plaingzipzstd";

#[test]
fn archives_and_folders_of_every_kind_are_loaded() {
    let caisson = Caisson::new();
    let folder = caisson.folder("images");
    let file = folder.join("image.tar").to_string_lossy().into_owned();
    layered("docker:1").save_as_docker(file.as_ref());
    assert_eq!(
        caisson.ok(["load", "-i", &file]),
        "Loaded image: docker:1\n"
    );
    layered("oci:1").save_as_oci(file.as_ref());
    let archive = std::fs::read(&file).expect("an archive");
    let loaded = caisson.run_with_input(["load"], &archive);
    assert_eq!(
        text(&loaded.stdout),
        "Loaded image: oci:1\n",
        "{}",
        text(&loaded.stderr)
    );
    layered("folder:1").save_as_folder(&folder.join("layout"));
    caisson.ok(["load", "-q", "-i", &folder.join("layout").to_string_lossy()]);
    for name in ["docker:1", "oci:1", "folder:1"] {
        assert_eq!(caisson.ok(["run", "--rm", name]), CONTENT, "{name}");
    }
    // The archive as a whole may be packed, too.
    let packed = zstd::encode_all(archive.as_slice(), 1).expect("packed");
    let loaded = caisson.run_with_input(["load", "-q"], &packed);
    assert!(loaded.status.success(), "{}", text(&loaded.stderr));
}

#[test]
fn layers_are_applied_as_the_specification_says() {
    let caisson = Caisson::new();
    let file = caisson
        .folder("images")
        .join("image.tar")
        .to_string_lossy()
        .into_owned();
    let below = Layer::new()
        .folder("d", 0o755)
        .file("d/kept", 0o644, "kept")
        .file("d/hidden", 0o644, "hidden")
        .file("d/replaced", 0o644, "old")
        .folder("opaque", 0o755)
        .file("opaque/old", 0o644, "old")
        .owned_file("owned", 0o4751, 1234, "x")
        .hard_link("same", "d/kept")
        .symlink("link", "d/kept")
        .device("node", 1, 3)
        .attributes(&[("user.colour", b"blue")])
        .file("coloured", 0o644, "x")
        .folder("becomes-file", 0o755)
        .file("becomes-file/x", 0o644, "x");
    let above = Layer::new()
        .whiteout("d", "hidden")
        .file("d/replaced", 0o644, "new")
        .whiteout("opaque", ".wh..opq")
        .file("opaque/new", 0o644, "new")
        .file("becomes-file", 0o600, "a file");
    Image::on_busybox("layers:1")
        .layer(below)
        .layer(above)
        .save_as_docker(file.as_ref());
    caisson.ok(["load", "-q", "-i", &file]);
    let script = "cat d/kept d/replaced link; echo; ls d opaque; stat -c '%a %u %g %s' owned; \
        test d/kept -ef same && stat -c %h same; ls -l node | cut -c1; cat becomes-file";
    let printed = caisson.ok(["run", "--rm", "layers:1", "sh", "-c", script]);
    let expected =
        "keptnewkept\nd:\nkept\nreplaced\n\nopaque:\nnew\n4751 1234 1234 1\n2\nc\na file";
    assert_eq!(printed, expected);
}

#[test]
fn a_hostile_image_stays_in_its_own_files() {
    let caisson = Caisson::new();
    let target = caisson.folder("target");
    let file = caisson
        .folder("images")
        .join("image.tar")
        .to_string_lossy()
        .into_owned();
    let name = target.to_string_lossy().into_owned();
    let escapes = [
        Layer::new().hostile_file(&format!("../../../../../../..{name}/escaped"), "x"),
        Layer::new().hostile_file(&format!("{name}/escaped"), "x"),
        Layer::new()
            .symlink("out", &name)
            .file("out/escaped", 0o644, "x"),
        Layer::new()
            .symlink("out", "../../../../../..")
            .hostile_file(&format!("out{name}/escaped"), "x"),
        Layer::new().hard_link("stolen", &format!("../../../../../../..{}", "/etc/passwd")),
    ];
    for (number, layer) in escapes.into_iter().enumerate() {
        Image::on_busybox("evil:1")
            .layer(layer)
            .save_as_docker(file.as_ref());
        // Loaded into the image's own files, or refused: both are right.
        let loaded = caisson.run(["load", "-q", "-i", &file]);
        assert!(
            loaded.status.success() || loaded.status.code() == Some(125),
            "{number}"
        );
        assert_eq!(
            std::fs::read_dir(&target).expect("a folder").count(),
            0,
            "{number}"
        );
        if loaded.status.success() {
            let printed = caisson.ok([
                "run",
                "--rm",
                "evil:1",
                "sh",
                "-c",
                "cat /stolen 2>/dev/null; echo fine",
            ]);
            assert_eq!(printed, "fine\n", "{number}");
        }
    }
}

#[test]
fn damage_is_found_and_nothing_is_left_of_it() {
    let caisson = Caisson::without_images();
    let folder = caisson.folder("layout");
    layered("damaged:1").save_as_folder(&folder);
    let blobs = folder.join("blobs/sha256");
    let largest = std::fs::read_dir(&blobs)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .max_by_key(|path| path.metadata().expect("a file").len())
        .expect("a layer");
    let mut bytes = std::fs::read(&largest).expect("a layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).expect("written");
    let error = caisson.fails(125, ["load", "-i", &folder.to_string_lossy()]);
    assert!(error.contains("sha256:"), "{error}");
    assert_eq!(caisson.ok(["images", "-q"]), "");
    for garbage in [&b"no archive at all"[..], b""] {
        let loaded = caisson.run_with_input(["load"], garbage);
        assert_eq!(loaded.status.code(), Some(125));
    }
}

#[test]
fn images_are_listed_and_removed() {
    let caisson = Caisson::new();
    let file = caisson
        .folder("images")
        .join("image.tar")
        .to_string_lossy()
        .into_owned();
    layered("app:1").save_as_docker(file.as_ref());
    caisson.ok(["load", "-q", "-i", &file]);
    let table = caisson.ok(["images"]);
    assert!(
        table.starts_with("REPOSITORY") && table.contains("busybox") && table.contains("app"),
        "{table}"
    );
    let row: Value =
        serde_json::from_str(&caisson.ok(["images", "--format", "json", "app"])).expect("JSON");
    assert_eq!(
        (&row["Repository"], &row["Tag"]),
        (&json!("app"), &json!("1"))
    );
    assert!(
        row["Bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20),
        "{row}"
    );
    caisson.ok(["create", "--name", "box", "app:1"]);
    let error = caisson.fails(125, ["rmi", "app:1"]);
    assert!(error.contains("app:1"), "{error}");
    caisson.ok(["rm", "box"]);
    caisson.ok(["rmi", "app:1"]);
    assert_eq!(caisson.ok(["images", "-q"]).lines().count(), 1);
    let id = caisson.ok(["images", "-q"]);
    caisson.ok(["rmi", id.trim()]);
    let error = caisson.fails(125, ["rmi", "busybox"]);
    assert!(error.contains("busybox"), "{error}");
    let left: Vec<_> = std::fs::read_dir(caisson.root().join("images"))
        .expect("a folder")
        .flat_map(|entry| {
            let path = entry.expect("an entry").path();
            walk(&path)
        })
        .filter(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 4096))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).expect("a folder");
    entries
        .flat_map(|entry| walk(&entry.expect("an entry").path()))
        .collect()
}

#[test]
fn images_come_from_a_registry() {
    let caisson = Caisson::without_images();
    let registry = Registry::start(&caisson.folder("registry"), false);
    registry.push(&layered("x:1"), "group/app:1");
    let name = registry.name("group/app:1");
    let error = caisson.fails(125, ["run", "--rm", "--pull=never", &name]);
    assert!(error.contains("caisson pull"), "{error}");
    // Fetched by the first start, there for the second.
    assert_eq!(caisson.ok(["run", "--rm", &name]), CONTENT);
    let run = caisson.run(["run", "--rm", &name]);
    assert_eq!(
        (text(&run.stdout), text(&run.stderr)),
        (CONTENT.to_owned(), String::new())
    );
    assert_eq!(caisson.ok(["pull", "-q", &name]), format!("{name}\n"));
    let changed = Image::on_busybox("x:1").config("Cmd", json!(["echo", "changed"]));
    registry.push(&changed, "group/app:1");
    assert_eq!(caisson.ok(["run", "--rm", &name]), CONTENT);
    assert_eq!(
        caisson.ok(["run", "--rm", "--pull=always", "-q", &name]),
        "changed\n"
    );
    let error = caisson.fails(125, ["pull", &registry.name("group/app:none")]);
    assert!(error.contains("none"), "{error}");
}

#[test]
fn two_pulls_at_once_make_one_image() {
    let caisson = Caisson::without_images();
    let registry = Registry::start(&caisson.folder("registry"), false);
    registry.push(&layered("x:1"), "app:1");
    let name = registry.name("app:1");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| caisson.ok(["pull", "-q", &name]));
        }
    });
    assert_eq!(caisson.ok(["images", "-q"]).lines().count(), 1);
    assert_eq!(caisson.ok(["run", "--rm", &name]), CONTENT);
}

#[test]
fn a_locked_registry_wants_the_users_password() {
    let caisson = Caisson::without_images();
    let registry = Registry::start(&caisson.folder("registry"), true);
    registry.push(&layered("x:1"), "app:1");
    let name = registry.name("app:1");
    let home = caisson.folder("home");
    let pull = || {
        let mut command = caisson.command(["pull", "-q", &name]);
        command.env("HOME", &home).env_remove("DOCKER_CONFIG");
        output(command, b"")
    };
    let told = pull();
    assert_eq!(told.status.code(), Some(125));
    assert!(
        text(&told.stderr).contains(&registry.name("")[..9]),
        "{}",
        text(&told.stderr)
    );
    std::fs::create_dir(home.join(".docker")).expect("a folder");
    let address = registry.name("");
    // `user:secret`, as `docker login` writes it.
    let login = json!({"auths": {address.trim_end_matches('/'): {"auth": "dXNlcjpzZWNyZXQ="}}});
    std::fs::write(home.join(".docker/config.json"), login.to_string()).expect("written");
    let told = pull();
    assert!(told.status.success(), "{}", text(&told.stderr));
    assert_eq!(caisson.ok(["run", "--rm", &name]), CONTENT);
}
