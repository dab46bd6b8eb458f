//! What archives can say, and in which ways.

use std::io::Write;

use super::*;
use crate::{Digest, Error};

/// One file of each kind.
fn sample() -> Archive {
    Archive::new()
        .entry(
            b'3',
            b"null",
            &[(329, b"0000001\0"), (337, b"0000003\0")],
            b"",
        )
        .entry(
            b'4',
            b"sda",
            &[(329, b"0000010\0"), (337, b"0000400\0")],
            b"",
        )
        .entry(b'6', b"fifo", &[], b"")
        .entry(
            b'7',
            b"su",
            &[
                (100, b"0004755\0"),
                (108, b"0001750\0"),
                (116, b"0001751\0"),
            ],
            b"x",
        )
        .symlink("s", "a/b")
        .entry(0, b"old/", &[], b"")
}

#[test]
fn every_kind_of_file() {
    let image = build(&[sample()]).unwrap();
    assert_eq!(
        image.listing(),
        [
            "fifo:1:0",
            "null:2:103",
            "old/",
            "s->a/b",
            "sda:6:100800",
            "su=x"
        ]
    );
    let tree = image.tree();
    assert_eq!(
        (tree["su"].mode, tree["su"].uid, tree["su"].gid),
        (0o104_755, 1000, 1001)
    );
    image.check();
}

#[test]
fn every_compression() {
    let plain = [sample().end(), vec![0; 10_000]].concat();
    let (one, two) = plain.split_at(1000);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let skipped = b"\x53\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    let expected = build_with(&Limits::default(), std::slice::from_ref(&plain))
        .unwrap()
        .bytes();
    for (what, layer) in [
        ("gzip", gzip(&plain)),
        ("gzip in two members", [gzip(one), gzip(two)].concat()),
        ("zstd", zstd(&plain)),
        (
            "zstd in two frames",
            [skipped, zstd(one), zstd(two)].concat(),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut builder = ImageBuilder::create(&path, Limits::default()).unwrap();
        // What follows the archive counts for the digest.
        let digest = Digest::of(&plain);
        let found = builder.add_layer(layer.as_slice(), Some(&digest)).unwrap();
        assert_eq!(found, digest, "{what}");
        builder.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected, "{what}");

        let cut = &layer[..layer.len() - 5];
        assert!(
            build_with(&Limits::default(), &[cut.to_vec()]).is_err(),
            "{what}, cut off"
        );
    }
    let xz = b"\xfd7zXZ\0\0\0".to_vec();
    let said = build_with(&Limits::default(), &[xz])
        .err()
        .unwrap()
        .to_string();
    assert!(said.contains("xz"), "{said}");
}

#[test]
fn a_wrong_digest_ends_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = ImageBuilder::create(&folder.path().join("disk"), Limits::default()).unwrap();
    let layer = sample().end();
    let error = builder
        .add_layer(layer.as_slice(), Some(&Digest::of(b"other")))
        .unwrap_err();
    assert!(matches!(error, Error::LayerDigest { .. }), "{error}");
    assert!(builder.add_layer(layer.as_slice(), None).is_err());
    assert!(builder.finish().is_err());
}

#[test]
fn an_image_may_be_empty() {
    for layers in [vec![], vec![vec![]], vec![vec![0; 1024]]] {
        let image = build_with(&Limits::default(), &layers).unwrap();
        assert_eq!(image.listing(), [""; 0]);
        image.check();
    }
}

#[test]
fn long_names_in_every_form() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let layer = Archive::new()
        .file(&format!("{long}.gnu"), b"1")
        .pax(&[("path", format!("{long}.pax").as_bytes())])
        .file("short", b"2")
        .entry(b'K', b"././@LongLink", &[], long.as_bytes())
        .symlink("s1", "short")
        .pax(&[("linkpath", long.as_bytes()), ("path", b"s2")])
        .symlink("short", "short")
        // Two such headers: the last one counts. A global one counts for nothing.
        .entry(b'g', b"pax", &[], b"18 path=elsewhere\n")
        .pax(&[("path", b"lost")])
        .pax(&[("path", b"")])
        .file("kept", b"3");
    let folder = format!("{}/", "d".repeat(120));
    assert_eq!(
        build(&[layer]).unwrap().listing(),
        [
            folder,
            format!("{long}.gnu=1"),
            format!("{long}.pax=2"),
            "kept=3".to_owned(),
            format!("s1->{long}"),
            format!("s2->{long}"),
        ]
    );
}

#[test]
fn numbers_beyond_the_header() {
    let layer = Archive::new()
        .pax(&[
            ("mtime", b"-1.25"),
            ("uid", b"4000000000"),
            ("gid", b"70000"),
            ("size", b"3"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n\n\0"),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.x", b"t"),
            ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
            ("SCHILY.xattr.system.nfs4_acl", b"n"),
        ])
        .file("a", b"abc")
        .file("b", b"");
    let image = build(&[layer]).unwrap();
    let tree = image.tree();
    let a = &tree["a"];
    assert_eq!((a.uid, a.gid, a.size), (4_000_000_000, 70000, 3));
    assert_eq!(
        (a.seconds, a.nanoseconds, a.is_compact),
        (-2, 750_000_000, false)
    );
    assert!(tree["b"].is_compact);
    let expected: [(&str, &[u8]); 4] = [
        ("security.capability", b"\x01\0\0\x02\n\n\0"),
        ("system.posix_acl_access", b"\x02\0\0\0"),
        ("trusted.x", b"t"),
        ("user.empty", b""),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_vec()));
    assert_eq!(a.xattrs, BTreeMap::from(expected));
    image.check();

    for record in [
        ("uid", &b"4294967295"[..]),
        ("gid", b"4294967296"),
        ("mtime", b"never"),
        ("size", b"-1"),
    ] {
        refusal(&[Archive::new().pax(&[record]).file("a", b"")]);
    }
}

#[test]
fn sparse_files_in_four_forms() {
    let content = vec![7; 70_000];
    let zeros = vec![0; 200_000];
    let expected = [&zeros[..], &content, &zeros].concat();
    let numbers = b"200000,70000,470000,0";
    let mut map = b"2\n200000\n70000\n470000\n0\n".to_vec();
    map.resize(512, 0);
    let layer = Archive::new()
        .entry(
            b'S',
            b"old",
            &[
                (386, b"00000606500\0"),
                (398, b"00000210560\0"),
                (483, b"00001625760\0"),
            ],
            &content,
        )
        .pax(&[
            ("GNU.sparse.size", b"470000"),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.offset", b"200000"),
            ("GNU.sparse.numbytes", b"70000"),
        ])
        .file("pax00", &content)
        .pax(&[
            ("GNU.sparse.map", numbers),
            ("GNU.sparse.size", b"470000"),
            ("GNU.sparse.name", b"pax01"),
            ("path", b"GNUSparseFile.0/pax01"),
        ])
        .file("x", &content)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"pax10"),
            ("GNU.sparse.realsize", b"470000"),
        ])
        .file("x", &[&map[..], &content].concat())
        .file("plain", &expected);
    let image = build(&[layer]).unwrap();
    let tree = image.tree();
    assert_eq!(tree.len(), 6);
    for name in ["old", "pax00", "pax01", "pax10", "plain"] {
        assert!(tree[name].content == expected, "{name}");
        // 64 KiB each: three chunks of zeros, two of content, three of zeros.
        let holes = tree[name]
            .map
            .iter()
            .filter(|block| block.is_none())
            .count();
        assert_eq!(holes, 115 - 32, "{name}");
    }
    image.check();

    let damaged: [&[(&str, &[u8])]; 6] = [
        &[("GNU.sparse.map", b"0,1,1"), ("GNU.sparse.size", b"9")],
        &[("GNU.sparse.map", b"5,1,4,0"), ("GNU.sparse.size", b"9")],
        &[("GNU.sparse.map", b"9,1"), ("GNU.sparse.size", b"9")],
        &[("GNU.sparse.map", b"0,2"), ("GNU.sparse.size", b"9")],
        &[
            ("GNU.sparse.map", b"18446744073709551615,1"),
            ("GNU.sparse.size", b"9"),
        ],
        &[("GNU.sparse.map", b"0,1")],
    ];
    for records in damaged {
        refusal(&[Archive::new().pax(records).file("a", b"x")]);
    }
}
