//! Layers that nobody thought of.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// How many disks of a test `fsck.erofs` is asked about: it is a process each.
const CHECKED: u32 = 20;

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(count)
    }
}

#[derive(Debug, Clone)]
enum Operation {
    File(String),
    Folder(String, u8),
    Symlink(String),
    Link(String, String),
    Whiteout(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => path().prop_map(Operation::File),
        3 => (path(), 0..8_u8).prop_map(|(path, mode)| Operation::Folder(path, mode)),
        1 => path().prop_map(Operation::Symlink),
        2 => (path(), path()).prop_map(|(path, target)| Operation::Link(path, target)),
        2 => path().prop_map(Operation::Whiteout),
        1 => path().prop_map(Operation::Opaque),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// Mode.
    Folder(u16),
    /// Content; the same for all names of an inode and for nothing else.
    File(String),
    /// Target; likewise.
    Symlink(String),
}

/// Paths with what they are and the layer that says so. Whether a layer has something
/// below a folder is looked for, not kept: what is slow is easily right.
#[derive(Debug, Default, Clone)]
struct Model(BTreeMap<String, (Item, usize)>);

impl Model {
    fn below(parent: &str, path: &str) -> bool {
        path.strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Makes the folders above a path. False if something else is in the way.
    fn make_parents(&mut self, path: &str, layer: usize) -> bool {
        let parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        let is_free =
            |parent: &&str| matches!(self.0.get(*parent), None | Some((Item::Folder(_), _)));
        if !parents.clone().all(|parent| is_free(&parent)) {
            return false;
        }
        for parent in parents {
            self.0
                .entry(parent.to_owned())
                .or_insert((Item::Folder(0o755), layer));
        }
        true
    }

    fn hide(&mut self, layer: usize, is_hidden: impl Fn(&str) -> bool) {
        let before = self.clone();
        let is_of_layer = |path: &str| {
            let is_of_it = |(other, (_, by)): (&String, &(Item, usize))| {
                *by == layer && (other == path || Self::below(path, other))
            };
            before.0.iter().any(is_of_it)
        };
        self.0
            .retain(|path, _| !is_hidden(path) || is_of_layer(path));
        for (path, (item, by)) in &mut self.0 {
            if is_hidden(path) && *by != layer {
                *item = Item::Folder(0o755);
            }
        }
    }

    fn put(&mut self, path: &str, item: Item, layer: usize) {
        if !matches!(item, Item::Folder(_)) {
            self.0.retain(|other, _| !Self::below(path, other));
        }
        self.0.insert(path.to_owned(), (item, layer));
    }

    /// Applies an operation and writes it down. One that is refused is left out.
    fn apply(
        &mut self,
        operation: &Operation,
        layer: usize,
        unique: usize,
        archive: Archive,
    ) -> Archive {
        let before = self.clone();
        let (path, item) = match operation {
            Operation::File(path) => (path, Item::File(unique.to_string())),
            Operation::Folder(path, mode) => (path, Item::Folder(0o700 + u16::from(*mode))),
            Operation::Symlink(path) => (path, Item::Symlink(unique.to_string())),
            Operation::Link(path, target) => {
                let parents_made = self.make_parents(path, layer);
                let (item, _) = match self.0.get(target) {
                    Some(target) if parents_made && !matches!(target.0, Item::Folder(_)) => {
                        target.clone()
                    }
                    _ => {
                        *self = before;
                        return archive;
                    }
                };
                self.put(path, item, layer);
                return archive.link(path, target);
            }
            Operation::Whiteout(path) | Operation::Opaque(path) => {
                if !self.clone().make_parents(&format!("{path}/x"), layer)
                    && !matches!(operation, Operation::Whiteout(_))
                    || !self.clone().make_parents(path, layer)
                {
                    return archive;
                }
                if let Operation::Opaque(path) = operation {
                    self.hide(layer, |other| Self::below(path, other));
                    return archive.file(&format!("{path}/.wh..wh..opq"), b"");
                }
                self.hide(layer, |other| other == path || Self::below(path, other));
                let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
                return archive.file(&format!("{parent}/.wh.{name}"), b"");
            }
        };
        if !self.make_parents(path, layer) {
            return archive;
        }
        self.put(path, item.clone(), layer);
        match item {
            Item::Folder(mode) => archive.folder_with(path, format!("{mode:07o}\0").as_bytes()),
            Item::File(content) => archive.file(path, content.as_bytes()),
            Item::Symlink(target) => archive.symlink(path, &target),
        }
    }
}

fn items(image: &Image) -> BTreeMap<String, Item> {
    let tree = image.tree();
    let item = |node: &Node| {
        let text = String::from_utf8(node.content.clone());
        match node.mode >> 12 {
            4 => Item::Folder(node.mode & 0o7777),
            8 => Item::File(text.unwrap()),
            _ => Item::Symlink(text.unwrap()),
        }
    };
    // The reader has compared links with names.
    for (path, node) in &tree {
        for other in tree.values().filter(|other| other.mode >> 12 != 4) {
            let is_same = other.content == node.content && other.mode == node.mode;
            assert_eq!(is_same, other.number == node.number, "{path}");
        }
    }
    tree.iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, node)| (path.clone(), item(node)))
        .collect()
}

#[test]
fn layers_mean_what_the_model_says() {
    let checked = Cell::new(0);
    proptest!(cases(400), |(layers in vec(vec(operation(), 0..14), 1..5))| {
        let mut model = Model::default();
        let mut archives = Vec::new();
        let mut unique = 0;
        for (number, operations) in layers.iter().enumerate() {
            let mut archive = Archive::new();
            for operation in operations {
                unique += 1;
                archive = model.apply(operation, number + 1, unique, archive);
            }
            archives.push(archive);
        }
        let image = build(&archives).unwrap();
        let expected: BTreeMap<_, _> = model.0.into_iter().map(|(path, (item, _))| (path, item)).collect();
        prop_assert_eq!(items(&image), expected);
        if checked.replace(checked.get() + 1) < CHECKED {
            image.check();
        }
    });
}

/// A layer with one of everything.
fn seed() -> Vec<u8> {
    Archive::new()
        .folder("a")
        .file("a/x", &[1; 700])
        .pax(&[
            ("path", b"a/y"),
            ("mtime", b"1.5"),
            ("SCHILY.xattr.user.a", b"b"),
        ])
        .file("short", b"y")
        .symlink("s", "a")
        .link("s/z", "a/x")
        .pax(&[
            ("GNU.sparse.map", b"0,1,70000,2"),
            ("GNU.sparse.size", b"200000"),
        ])
        .file("sparse", b"xyz")
        .entry(
            b'S',
            b"old",
            &[
                (386, b"00000606500\0"),
                (398, b"00000000001\0"),
                (483, b"00001625760\0"),
            ],
            b"x",
        )
        .file(&"n".repeat(150), b"long")
        .entry(
            b'3',
            b"null",
            &[(329, b"0000001\0"), (337, b"0000003\0")],
            b"",
        )
        .file("a/.wh.x", b"")
        .file("a/.wh..wh..opq", b"")
        .end()
}

/// Makes the checksums of headers right again, so that what is in them is looked at.
fn mend(layer: &mut [u8]) {
    for block in layer.as_chunks_mut::<512>().0 {
        if block[257..262] == *b"ustar" {
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

#[test]
fn damaged_layers_do_no_harm() {
    let limits = Limits {
        image_bytes: 4 << 20,
        entries: 200,
        ..Limits::default()
    };
    let seed = seed();
    let checked = Cell::new(0);
    let change = (
        any::<Index>(),
        prop_oneof![Just(0_u8), Just(b'0'), Just(b'/'), Just(0x80), any::<u8>()],
    );
    proptest!(cases(1500), |(changes in vec(change, 1..12), is_mended in any::<bool>())| {
        let mut layer = seed.clone();
        for (place, byte) in changes {
            let place = place.index(layer.len());
            layer[place] = byte;
        }
        if is_mended {
            mend(&mut layer);
        }
        let Ok(image) = build_with(&limits, &[layer]) else { return Ok(()) };
        let length = std::fs::metadata(&image.path).unwrap().len();
        prop_assert!(length <= limits.image_bytes);
        prop_assert!(image.tree().len() as u64 <= limits.entries + 1);
        if checked.replace(checked.get() + 1) < CHECKED {
            image.check();
        }
    });
    assert!(checked.get() > CHECKED, "hardly any layer was accepted");
}

#[test]
fn noise_is_refused() {
    proptest!(cases(300), |(noise in vec(any::<u8>(), 1..3000), start in select(vec![&b""[..], b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"]))| {
        let layer = [start, &noise].concat();
        if noise.iter().any(|byte| *byte != 0) {
            prop_assert!(build_with(&Limits::default(), &[layer]).is_err());
        }
    });
}
