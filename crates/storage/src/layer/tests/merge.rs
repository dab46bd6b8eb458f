//! What layers mean together.

use super::*;

fn listing(layers: &[Archive]) -> Vec<String> {
    build(layers).unwrap().listing()
}

#[test]
fn upper_layers_replace_and_add() {
    let lower = Archive::new()
        .folder("a")
        .file("a/x", b"1")
        .file("f", b"1")
        .folder("d")
        .file("d/x", b"1")
        .symlink("s", "a");
    let upper = Archive::new()
        .file("./a//y", b"2")
        .file("/f", b"2")
        .file("d", b"2")
        .folder("s")
        .file("new/deep/file", b"2");
    assert_eq!(
        listing(&[lower, upper]),
        [
            "a/",
            "a/x=1",
            "a/y=2",
            "d=2",
            "f=2",
            "new/",
            "new/deep/",
            "new/deep/file=2",
            "s/"
        ]
    );
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = Archive::new()
        .file("a/x", b"1")
        .file("a/y", b"1")
        .file("b", b"1")
        .file("c/d/e", b"1");
    let upper = Archive::new()
        .file("a/y", b"2")
        .file("a/.wh.x", b"")
        .file("a/.wh.y", b"")
        .file(".wh.b", b"")
        .file("c/d/f", b"2")
        .file(".wh.c", b"")
        .file(".wh.missing", b"")
        .file("missing/.wh.x", b"")
        .file(".wh..wh.plnk/x", b"2")
        .file(".wh..wh.aufs", b"2");
    assert_eq!(
        listing(&[lower, upper]),
        ["a/", "a/y=2", "c/", "c/d/", "c/d/f=2"]
    );
}

#[test]
fn opaque_folders_do_not_depend_on_order() {
    let lower = || {
        Archive::new()
            .folder_with("a", b"0000700\0")
            .file("a/x", b"1")
            .file("a/b/y", b"1")
    };
    let first = Archive::new()
        .file("a/.wh..wh..opq", b"")
        .file("a/b/z", b"2");
    let last = Archive::new()
        .file("a/b/z", b"2")
        .file("a/.wh..wh..opq", b"");
    for upper in [first, last] {
        let image = build(&[lower(), upper]).unwrap();
        assert_eq!(image.listing(), ["a/", "a/b/", "a/b/z=2"]);
        // The folder itself is not hidden by what hides its content.
        assert_eq!(image.tree()["a"].mode, 0o40700);
    }
    let root = Archive::new().file(".wh..wh..opq", b"").file("c", b"2");
    assert_eq!(listing(&[lower(), root]), ["c=2"]);
}

#[test]
fn a_hidden_folder_is_hidden_with_its_attributes() {
    let lower = || {
        Archive::new()
            .folder_with("a", b"0000700\0")
            .file("a/x", b"1")
    };
    let upper = Archive::new().file("a/y", b"2").file(".wh.a", b"");
    assert_eq!(build(&[lower(), upper]).unwrap().tree()["a"].mode, 0o40755);
    let upper = Archive::new()
        .folder_with("a", b"0000711\0")
        .file("a/y", b"2")
        .file(".wh.a", b"");
    let image = build(&[lower(), upper]).unwrap();
    assert_eq!(image.tree()["a"].mode, 0o40711);
    assert_eq!(image.listing(), ["a/", "a/y=2"]);
}

#[test]
fn folders_take_the_attributes_of_the_highest_layer() {
    let lower = Archive::new()
        .folder_with("./", b"0000711\0")
        .folder_with("a", b"0001777\0")
        .file("a/x", b"");
    let upper = Archive::new().folder_with("a/", b"0002750\0");
    let tree = build(&[lower, upper]).unwrap().tree();
    assert_eq!((tree[""].mode, tree["a"].mode), (0o40711, 0o42750));
    assert!(tree.contains_key("a/x"));
}

#[test]
fn hard_links_are_one_inode_over_all_layers() {
    let lower = Archive::new()
        .file("a", b"1")
        .link("b", "./a")
        .symlink("s", "nowhere");
    let upper = Archive::new()
        .link("d/c", "b")
        .file("a", b"2")
        .link("a2", "a")
        .link("s2", "s")
        .link("b", "/b");
    let tree = build(&[lower, upper]).unwrap().tree();
    assert_eq!((tree["b"].links, tree["a"].links), (2, 2));
    assert_eq!(tree["b"].number, tree["d/c"].number);
    assert_eq!(tree["a"].number, tree["a2"].number);
    assert_eq!(tree["s"].number, tree["s2"].number);
    assert_eq!(
        (&*tree["b"].content, &*tree["a"].content),
        (&b"1"[..], &b"2"[..])
    );
}

#[test]
fn a_hard_link_may_replace_the_folder_of_its_target() {
    let layer = Archive::new()
        .file("a/x", b"1")
        .file("a/y", b"1")
        .link("a", "a/x");
    assert_eq!(listing(&[layer]), ["a=1"]);
}

#[test]
fn links_on_the_way_lead_nowhere_but_into_the_tree() {
    let lower = Archive::new()
        .folder("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("up", "../../../usr")
        .symlink("usr/abs", "/usr/lib/../lib")
        .symlink("dangling", "made/here");
    let upper = Archive::new()
        .file("lib/a", b"2")
        .file("up/b", b"2")
        .file("up/abs/c", b"2")
        .file("dangling/d", b"2")
        .link("up/e", "lib/a")
        .file("usr/lib/gone", b"")
        .file("lib/.wh.gone", b"");
    let third = Archive::new().file("lib/.wh.gone", b"");
    let links = [
        "lib->usr/lib",
        "made/",
        "made/here/",
        "made/here/d=2",
        "up->../../../usr",
    ];
    let rest = [
        "usr/",
        "usr/abs->/usr/lib/../lib",
        "usr/b=2",
        "usr/e=2",
        "usr/lib/",
        "usr/lib/a=2",
        "usr/lib/c=2",
    ];
    let expected: Vec<_> = ["dangling->made/here"]
        .into_iter()
        .chain(links)
        .chain(rest)
        .collect();
    assert_eq!(listing(&[lower, upper, third]), expected);
}

#[test]
fn refuses_what_has_no_place() {
    let below = |layer: Archive| refusal(&[layer]);
    let long = format!("{}next", "./".repeat(2000));
    let long_ways = ["a", "b", "c"].iter().fold(Archive::new(), |layer, name| {
        layer
            .pax(&[(
                "linkpath",
                long.replace("next", &format!("{name}x")).as_bytes(),
            )])
            .symlink(name, "")
    });
    let long_ways = long_ways
        .symlink("ax", "b")
        .symlink("bx", "c")
        .file("a/f", b"");
    for (said, expected) in [
        (below(Archive::new().file("a/../../x", b"")), "`..`"),
        (below(Archive::new().link("a", "../x")), "`..`"),
        (
            below(Archive::new().file("f", b"").file("f/x", b"")),
            "no folder",
        ),
        (
            below(Archive::new().symlink("l", "l").file("l/x", b"")),
            "40 symbolic links",
        ),
        (below(long_ways), "too long"),
        (below(Archive::new().link("a", "missing")), "does not exist"),
        (
            below(Archive::new().folder("d").link("a", "d")),
            "link to a folder",
        ),
        (below(Archive::new().link("a", "/")), "link to a folder"),
        (below(Archive::new().file("/", b"")), "no name"),
        (below(Archive::new().file("a/.wh..", b"")), "no name"),
        (below(Archive::new().file("a/.wh...", b"")), "no name"),
        (below(Archive::new().file("a/.wh.", b"")), "no name"),
        (below(Archive::new().file(".wh.a/x", b"")), "reserved"),
        (
            below(Archive::new().file(&"n".repeat(256), b"")),
            "255 bytes",
        ),
        (below(Archive::new().symlink("s", "")), "link to nothing"),
        (below(Archive::new().entry(b'M', b"a", &[], b"")), "type"),
        (
            below(Archive::new().entry(b'3', b"a", &[(329, b"0010000\0")], b"")),
            "device number",
        ),
    ] {
        assert!(said.contains(expected), "{said}, not {expected}");
    }
    let said = refusal(&[Archive::new().file("evil\u{1b}[2J/../x", b"")]);
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn what_is_put_over_in_every_container_is_there() {
    let image = |layer: Archive| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.erofs");
        let mut builder = ImageBuilder::create(&path, Limits::default()).unwrap();
        builder.add_layer(layer.end().as_slice(), None).unwrap();
        builder.add_mount_points().unwrap();
        builder.finish().unwrap();
        let image = Image {
            _folder: folder,
            path,
        };
        image.listing()
    };
    assert_eq!(
        image(Archive::new().file("etc/hosts", b"1").file("dev", b"2")),
        [
            "dev=2",
            "etc/",
            "etc/hostname=",
            "etc/hosts=1",
            "etc/resolv.conf=",
            "proc/",
            "sys/"
        ]
    );
    let linked = image(Archive::new().symlink("etc", "usr/etc"));
    assert_eq!(linked.len(), 4, "nothing is put behind a link: {linked:?}");
}
