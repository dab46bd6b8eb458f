//! Disks as others see them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// Bytes that differ from block to block.
fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at / 7 + at / 4096) as u8 | 1)
        .collect()
}

/// A tree that needs every form of inode there is.
fn rich() -> Archive {
    let mut layer = Archive::new().folder_with("./", b"0000750\0");
    for size in [
        0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 6144, 6145, 65_536, 70_000, 300_000,
    ] {
        layer = layer.file(&format!("sizes/{size}"), &content(size));
    }
    for number in 0..3000 {
        layer = layer.file(
            &format!("many/!{number} with a name"),
            number.to_string().as_bytes(),
        );
    }
    let large = content(30_000);
    for (name, size) in [("tail", 2000), ("none", 0), ("block", 4096)] {
        layer = layer
            .pax(&[
                ("SCHILY.xattr.user.one", &large),
                ("SCHILY.xattr.user.two", &large),
                ("mtime", b"1234567890.5"),
            ])
            .file(&format!("xattrs/{name}"), &content(size));
    }
    let long = "t".repeat(4000);
    layer
        .pax(&[("SCHILY.xattr.user.on-folder", b"yes")])
        .folder("xattrs")
        .pax(&[("linkpath", long.as_bytes())])
        .symlink("long", "")
        .symlink("short", "sizes/1")
        .link("sizes/link", "sizes/70000")
        .file(
            "holes",
            &[
                content(65_536),
                vec![0; 200_000],
                content(10),
                vec![0; 100_000],
            ]
            .concat(),
        )
        .file("zeros", &vec![0; 200_000])
        .entry(
            b'3',
            b"null",
            &[(329, b"0000001\0"), (337, b"0000003\0")],
            b"",
        )
        .entry(b'6', b"fifo", &[], b"")
}

#[test]
fn is_accepted_and_extracted_by_the_authors_own_program() {
    let image = build(&[rich()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let extracted = folder.path().join("extracted");
    erofs_tool(
        "fsck.erofs",
        &[
            &format!("--extract={}", extracted.display()),
            "--preserve-perms",
            image.path.to_str().unwrap(),
        ],
    );
    let mut compared = 0;
    for (path, node) in image.tree() {
        // Version 1.5 of the program leaves holes out of the files that it extracts, and
        // devices out altogether.
        let has_holes = node.map.contains(&None);
        if !matches!(node.mode >> 12, 4 | 8) || has_holes {
            continue;
        }
        let path = extracted.join(path);
        let found = path.symlink_metadata().unwrap();
        assert_eq!(
            found.permissions().mode(),
            u32::from(node.mode),
            "{}",
            path.display()
        );
        if found.is_file() {
            assert!(
                std::fs::read(&path).unwrap() == node.content,
                "{}",
                path.display()
            );
            assert_eq!(
                (found.mtime(), found.mtime_nsec()),
                (node.seconds, node.nanoseconds.into())
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 3000 + 14 + 3);
}

#[test]
fn holds_what_the_layers_say() {
    let image = build(&[rich()]).unwrap();
    let tree = image.tree();
    assert_eq!(tree[""].mode, 0o40750);
    for size in [0, 2048, 2049, 4097, 300_000] {
        assert!(
            tree[&format!("sizes/{size}")].content == content(size),
            "{size}"
        );
    }
    let large = content(30_000);
    for (name, size) in [("tail", 2000), ("none", 0), ("block", 4096)] {
        let node = &tree[&format!("xattrs/{name}")];
        assert_eq!(
            (node.seconds, node.nanoseconds),
            (1_234_567_890, 500_000_000)
        );
        assert!(
            node.content == content(size) && node.xattrs["user.two"] == large,
            "{name}"
        );
    }
    assert_eq!(tree["xattrs"].xattrs["user.on-folder"], b"yes");
    assert_eq!(tree["long"].content, "t".repeat(4000).into_bytes());
    assert_eq!(tree["sizes/link"].links, 2);
    // 64 KiB of content, three chunks of zeros, one with the rest of them and the
    // ten bytes, and the last one, which is short.
    let blocks: Vec<_> = tree["holes"].map.iter().map(Option::is_some).collect();
    assert_eq!(blocks.iter().filter(|is_stored| **is_stored).count(), 32);
    assert!(blocks[0] && !blocks[16] && blocks[64] && !blocks[80]);
    assert!(tree["zeros"].map.iter().all(Option::is_none));
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let layers = [
        rich(),
        Archive::new().file(".wh.many", b"").file("sizes/1", b"x"),
    ];
    let first = build(&layers).unwrap().bytes();
    assert!(first == build(&layers).unwrap().bytes());
}

#[test]
fn small_files_are_read_with_their_inodes() {
    let image = build(&[Archive::new().file("a", b"small")]).unwrap();
    let node = &image.tree()["a"];
    let place = node.map[0].unwrap();
    assert_ne!(place % 4096, 0);
    // Superblock and metadata.
    assert_eq!(image.reader().blocks, 2);
}

#[test]
fn space_of_replaced_content_is_given_back() {
    let large = content(8 << 20);
    let lower = Archive::new()
        .file("a", &large)
        .file("d/b", &large)
        .file("c", &large)
        .link("c2", "c");
    let upper = Archive::new()
        .file("a", b"new")
        .file(".wh.d", b"")
        .file(".wh.c", b"");
    let image = build(&[lower, upper]).unwrap();
    assert_eq!(image.listing().len(), 2);
    assert!(image.tree()["c2"].size == 8 << 20);
    let stored = std::fs::metadata(&image.path).unwrap().blocks() * 512;
    assert!(stored < 9 << 20, "{stored} bytes are stored");
    image.check();
}

#[test]
fn a_sparse_file_of_five_gibibytes_takes_no_space() {
    let mut map = b"2\n0\n5\n5368709120\n7\n".to_vec();
    map.resize(512, 0);
    let layer = Archive::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"5368709127"),
        ])
        .file("big", &[&map[..], b"startthe end"].concat());
    let image = build(&[layer]).unwrap();
    let node = &image.tree()["big"];
    assert_eq!(node.size, 5_368_709_127);
    let stored: Vec<_> = node
        .map
        .iter()
        .enumerate()
        .filter_map(|(at, place)| Some((at, (*place)?)))
        .collect();
    assert_eq!(stored.len(), 17);
    assert_eq!((stored[0].0, stored[16].0), (0, 5 << 18));
    let disk = image.bytes();
    assert_eq!(&disk[stored[0].1 as usize..][..5], b"start");
    assert_eq!(&disk[stored[16].1 as usize..][..7], b"the end");
    assert!(disk.len() < 1 << 20);
    image.check();
}

#[test]
fn a_deep_tree_is_as_good_as_any() {
    let path = ["d"; 1000].join("/");
    let image = build(&[Archive::new().file(&format!("{path}/f"), b"x")]).unwrap();
    assert_eq!(image.tree()[&format!("{path}/f")].content, b"x");
    image.check();
    let gone = build(&[
        Archive::new().file(&format!("{path}/f"), b"x"),
        Archive::new().file(".wh.d", b""),
    ]);
    assert_eq!(gone.unwrap().reader().blocks, 2);
}

/// Mounts the disk `$1` on `$2` and prints path, type, mode, owner, links, size and time
/// of everything, then the digests of all files.
const SCRIPT: &str = r#"set -e
    mount -t erofs -o ro,loop "$1" "$2"
    cd "$2"
    find . -printf '%P %y %m %U:%G %n %s %T@\n'
    find . -type f -exec sha256sum {} +"#;

#[test]
fn the_kernel_sees_what_we_wrote() {
    let image = build(&[rich()]).unwrap();
    let mount = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .args([&image.path, mount.path()])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut found: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    let mut expected: Vec<_> = image
        .tree()
        .iter()
        .map(|(path, node)| {
            let kind = match node.mode >> 12 {
                1 => 'p',
                2 => 'c',
                4 => 'd',
                8 => 'f',
                _ => 'l',
            };
            format!(
                "{path} {kind} {:o} {}:{} {} {} {}.{:09}0",
                node.mode & 0o7777,
                node.uid,
                node.gid,
                node.links,
                node.size,
                node.seconds,
                node.nanoseconds
            )
        })
        .collect();
    for (path, node) in image.tree().iter().filter(|(_, node)| node.mode >> 12 == 8) {
        expected.push(format!(
            "{}  ./{path}",
            crate::Digest::of(&node.content).hex()
        ));
    }
    expected.sort();
    assert_eq!(found, expected);
}
