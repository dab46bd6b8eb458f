//! Layers that must not be taken, and limits.

use std::io::Write;

use super::*;
use crate::Error;

fn error(limits: &Limits, layer: Vec<u8>) -> Error {
    match build_with(limits, &[layer]) {
        Err(error) => error,
        Ok(image) => panic!("was not refused: {:?}", image.listing()),
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let limits = Limits {
        image_bytes: 1 << 20,
        ..Limits::default()
    };
    let bomb = Archive::new().file("zeros", &vec![0; 64 << 20]).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&bomb).unwrap();
    // What follows the archive counts as well.
    let behind = [Archive::new().end(), vec![0; 64 << 20]].concat();
    for layer in [
        gzip.finish().unwrap(),
        zstd::encode_all(bomb.as_slice(), 1).unwrap(),
        zstd::encode_all(behind.as_slice(), 1).unwrap(),
        bomb,
    ] {
        let error = error(&limits, layer);
        assert!(matches!(error, Error::Limit(_)), "{error}");
    }
    // The layers count together.
    let layer = Archive::new().file("a", &vec![1; 600 << 10]).end();
    assert!(build_with(&limits, std::slice::from_ref(&layer)).is_ok());
    let error = build_with(&limits, &[layer.clone(), layer]).err().unwrap();
    assert!(matches!(error, Error::Limit(_)), "{error}");
}

#[test]
fn every_limit_holds() {
    let file = |name: &str| Archive::new().file(name, b"x");
    let limit = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    let sparse = |size: &[u8]| {
        Archive::new()
            .pax(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", size)])
            .file("a", b"x")
    };
    let attribute = Archive::new()
        .pax(&[("SCHILY.xattr.user.a", &[b'x'; 100])])
        .file("a", b"");
    for (limits, layer) in [
        (limit(|limits| limits.entries = 4), file("a/b/c/d/e")),
        (limit(|limits| limits.tree_bytes = 1000), file("a/b/c/d/e")),
        (limit(|limits| limits.path_depth = 3), file("a/b/c/d/e")),
        (limit(|limits| limits.path_bytes = 8), file("a/b/c/d/e")),
        (
            limit(|limits| limits.path_depth = 2),
            file("a/b/c").symlink("s", "a/b").file("s/d/e", b""),
        ),
        (
            limit(|limits| limits.symlink_bytes = 3),
            Archive::new().symlink("a", "abcd"),
        ),
        (limit(|limits| limits.xattr_bytes = 99), attribute),
        (limit(|limits| limits.file_bytes = 1000), sparse(b"1001")),
        // More than any limit allows.
        (
            limit(|limits| limits.file_bytes = u64::MAX),
            sparse(b"17592186044417"),
        ),
        // The map of the chunks would take more than the disk.
        (
            limit(|limits| limits.image_bytes = 1 << 20),
            sparse(b"17592186044416"),
        ),
    ] {
        let said = error(&limits, layer.end()).to_string();
        assert!(
            said.contains("limit") || said.contains("more than"),
            "{said}"
        );
    }
    assert!(build(&[sparse(b"17592186044416")]).is_ok());
}

#[test]
fn archives_that_are_cut_off() {
    let layer = Archive::new()
        .file(&"n".repeat(150), b"x")
        .pax(&[("path", b"p")])
        .file("a", &[1; 2000])
        .0;
    // Where an entry ends, an archive may end.
    let ends = [0, 512 * 4, layer.len()];
    for length in (0..=layer.len()).step_by(128) {
        let result = build_with(&Limits::default(), &[layer[..length].to_vec()]);
        let is_between_headers = [512 * 2, 512 * 6].contains(&length);
        let is_good = ends.contains(&length) || is_between_headers;
        assert_eq!(result.is_ok(), is_good, "{length} of {}", layer.len());
    }
}

#[test]
fn archives_that_are_none() {
    let good = Archive::new().file("a", b"x");
    let mut damaged = good.clone().end();
    damaged[3] ^= 1;
    let lone_zeros = [vec![0; 512], good.clone().end()].concat();
    let long_name = Archive::new()
        .entry(b'L', b"l", &[], &vec![b'x'; (1 << 20) + 1])
        .file("a", b"");
    let huge = Archive::new().entry(
        b'0',
        b"a",
        &[(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")],
        b"",
    );
    let negative = Archive::new().entry(
        b'0',
        b"a",
        &[(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")],
        b"",
    );
    let pax = Archive::new()
        .pax(&[("size", b"18446744073709551615")])
        .file("a", b"");
    for (layer, expected) in [
        (damaged, "damaged"),
        (b"this is no archive".to_vec(), "cut off"),
        (vec![b'x'; 5000], "no tar header"),
        (lone_zeros, "block of zeros"),
        (long_name.end(), "1 MiB"),
        (huge.end(), "limit"),
        (negative.end(), "no number"),
        (pax.end(), "beyond all measure"),
    ] {
        let said = error(&Limits::default(), layer).to_string();
        assert!(said.contains(expected), "{said}, not {expected}");
    }
}

#[test]
fn long_chains_of_headers_are_not_kept() {
    let mut layer = Archive::new();
    for number in 0..2000 {
        layer = layer.pax(&[("SCHILY.xattr.user.a", number.to_string().as_bytes())]);
    }
    let tree = build(&[layer.file("a", b"")]).unwrap().tree();
    assert_eq!(tree["a"].xattrs["user.a"], b"1999");
}
