//! `caisson cp`, by Docker's rules.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use caisson_end_to_end::image::Layer;
use caisson_end_to_end::{Caisson, text};

fn running(caisson: &Caisson) {
    caisson.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn a_file_is_copied_in_and_out_unchanged() {
    let caisson = Caisson::new();
    running(&caisson);
    let folder = caisson.folder("files");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 5) as u8).collect();
    let file = folder.join("data");
    std::fs::write(&file, &bytes).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o750)).expect("a mode");
    caisson.ok(["cp", &path(&file), "box:/tmp"]);
    caisson.ok(["cp", &path(&file), "box:/tmp/other-name"]);
    let printed = caisson.ok([
        "exec",
        "box",
        "stat",
        "-c",
        "%s %a %u",
        "/tmp/data",
        "/tmp/other-name",
    ]);
    assert_eq!(printed, "3000000 750 0\n3000000 750 0\n");
    caisson.ok(["cp", "box:/tmp/data", &path(&folder.join("back"))]);
    assert!(std::fs::read(folder.join("back")).expect("a file") == bytes);
    assert_eq!(
        folder.join("back").metadata().expect("a file").mode() & 0o777,
        0o750
    );
}

#[test]
fn folders_are_copied_whole_with_their_links() {
    let caisson = Caisson::new();
    running(&caisson);
    let folder = caisson.folder("tree");
    std::fs::create_dir(folder.join("empty")).expect("a folder");
    std::fs::write(folder.join("file"), "content").expect("written");
    symlink("file", folder.join("link")).expect("a link");
    symlink("/nowhere", folder.join("dangling")).expect("a link");
    // Into a folder that exists, under a new name, and the content alone.
    caisson.ok(["cp", &path(&folder), "box:/tmp"]);
    caisson.ok(["cp", &path(&folder), "box:/tmp/new"]);
    caisson.ok(["exec", "box", "mkdir", "/tmp/content"]);
    caisson.ok(["cp", &format!("{}/.", path(&folder)), "box:/tmp/content"]);
    for place in ["/tmp/tree", "/tmp/new", "/tmp/content"] {
        let script = format!("cd {place}; ls -A; readlink link; readlink dangling; cat link");
        let printed = caisson.ok(["exec", "box", "sh", "-c", &script]);
        assert_eq!(
            printed, "dangling\nempty\nfile\nlink\nfile\n/nowhere\ncontent",
            "{place}"
        );
    }
    let back = caisson.folder("back");
    caisson.ok(["cp", "box:/tmp/new", &path(&back)]);
    assert_eq!(
        std::fs::read_link(back.join("new/link")).expect("a link"),
        Path::new("file")
    );
    assert!(back.join("new/empty").is_dir());
    caisson.ok(["cp", "box:/tmp/new/.", &path(&back)]);
    assert_eq!(
        std::fs::read_to_string(back.join("file")).expect("a file"),
        "content"
    );
    // The link itself, or what it leads to.
    caisson.ok(["cp", "box:/tmp/new/link", &path(&back.join("as-link"))]);
    assert!(back.join("as-link").is_symlink());
    caisson.ok([
        "cp",
        "-L",
        "box:/tmp/new/link",
        &path(&back.join("as-file")),
    ]);
    assert!(!back.join("as-file").is_symlink());
}

#[test]
fn a_stopped_container_can_be_copied_to_and_from() {
    let caisson = Caisson::new();
    let folder = caisson.folder("files");
    std::fs::write(
        folder.join("script"),
        "echo from the host\necho left > /left\n",
    )
    .expect("written");
    caisson.ok(["create", "--name", "box", "busybox", "sh", "/script"]);
    caisson.ok(["cp", &path(&folder.join("script")), "box:/script"]);
    assert_eq!(caisson.inspect("box")["State"]["Status"], "created");
    assert_eq!(caisson.ok(["start", "-a", "box"]), "from the host\n");
    caisson.ok(["cp", "box:/left", &path(&folder)]);
    assert_eq!(
        std::fs::read_to_string(folder.join("left")).expect("a file"),
        "left\n"
    );
    assert_eq!(caisson.inspect("box")["State"]["Status"], "exited");
}

#[test]
fn archives_come_and_go_through_pipes() {
    let caisson = Caisson::new();
    running(&caisson);
    let archive = Layer::new()
        .folder("a", 0o755)
        .owned_file("a/b", 0o600, 1234, "content")
        .symlink("a/c", "b")
        .archive();
    let output = caisson.run_with_input(["cp", "-a", "-", "box:/tmp"], &archive);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = caisson.ok([
        "exec", "box", "stat", "-c", "%a %u %N", "/tmp/a/b", "/tmp/a/c",
    ]);
    assert!(printed.starts_with("600 1234 "), "{printed}");
    let output = caisson.run(["cp", "box:/tmp/a", "-"]);
    let mut names: Vec<_> = tar::Archive::new(output.stdout.as_slice())
        .entries()
        .expect("an archive")
        .map(|entry| path(&entry.expect("an entry").path().expect("a path")))
        .map(|name| name.trim_end_matches('/').to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "a/b", "a/c"]);
}

#[test]
fn what_cannot_be_copied_is_said() {
    let caisson = Caisson::new();
    running(&caisson);
    let folder = caisson.folder("files");
    for (arguments, words) in [
        (["/no/such/file", "box:/tmp"], "/no/such/file"),
        (["box:/no/such/file", &path(&folder)], "/no/such/file"),
        (["box:/etc/passwd", "/no/such/folder/x"], "/no/such/folder"),
        (["/etc/passwd", "box:/no/such/folder/x"], "/no/such/folder"),
        (["/etc/passwd", "nobody:/tmp"], "no such container: nobody"),
        (["box:/a", "box:/b"], "two steps"),
        (["/a", "/b"], "CONTAINER:PATH"),
    ] {
        let output = caisson.run(["cp"].iter().chain(&arguments));
        let error = text(&output.stderr);
        assert!(
            !output.status.success() && error.contains(words),
            "{arguments:?}: {error}"
        );
    }
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0);
}

#[test]
fn a_copy_never_leaves_the_containers_files() {
    let caisson = Caisson::new();
    running(&caisson);
    caisson.ok([
        "exec",
        "box",
        "ln",
        "-s",
        "/proc/1/root/../../..",
        "/tmp/out",
    ]);
    caisson.ok(["exec", "box", "sh", "-c", "echo own > /etc/mark"]);
    let folder = caisson.folder("files");
    // Seen from the container, this is its own root, whatever the link says.
    caisson.ok(["cp", "box:/tmp/out/etc/mark", &path(&folder)]);
    assert_eq!(
        std::fs::read_to_string(folder.join("mark")).expect("a file"),
        "own\n"
    );
    caisson.ok(["cp", "box:/../../etc/mark", &path(&folder.join("again"))]);
    assert_eq!(
        std::fs::read_to_string(folder.join("again")).expect("a file"),
        "own\n"
    );
}
