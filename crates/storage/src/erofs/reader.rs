//! Reads disks back, for tests. Written from the kernel's `fs/erofs`, not from our
//! writer, and stricter than either: what it does not expect is an error.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: u64 = 4096;
/// Content beyond this is only measured.
const MAX_CONTENT: u64 = 1 << 20;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub number: u64,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub size: u64,
    pub device: u32,
    /// Content or target, if it is not very long.
    pub content: Vec<u8>,
    pub is_compact: bool,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// First bytes of the content that are on the disk, by offset; None where holes are.
    pub map: Vec<Option<u64>>,
}

/// Names of a folder, with the inode's number and the file type of each.
type Entries = Vec<(String, u64, u8)>;

/// A disk.
pub(crate) struct Reader {
    file: File,
    meta: u64,
    root: u64,
    time: (i64, u32),
    pub inodes: u64,
    pub blocks: u64,
}

fn le<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    (0..N)
        .rev()
        .fold(0, |number, at| number << 8 | u64::from(bytes[offset + at]))
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut block = vec![0; BLOCK as usize];
        file.read_exact_at(&mut block, 0).unwrap();
        let superblock = &block[1024..];
        assert_eq!(le::<4>(superblock, 0), 0xe0f5_e1e2, "magic");
        assert_eq!(superblock[12], 12, "block size");
        let blocks = le::<4>(superblock, 36);
        assert_eq!(blocks * BLOCK, file.metadata().unwrap().len(), "length");
        Self {
            meta: le::<4>(superblock, 40) * BLOCK,
            root: le::<2>(superblock, 14),
            time: (
                le::<8>(superblock, 24) as i64,
                le::<4>(superblock, 32) as u32,
            ),
            inodes: le::<8>(superblock, 16),
            blocks,
            file,
        }
    }

    /// Everything on the disk. The root's path is empty.
    pub(crate) fn tree(&self) -> BTreeMap<String, Node> {
        let mut tree = BTreeMap::new();
        let mut names: HashMap<u64, u32> = HashMap::new();
        let mut pending = vec![(String::new(), self.root, self.root)];
        while let Some((path, number, parent)) = pending.pop() {
            let (node, entries) = self.node(number);
            *names.entry(number).or_default() += 1;
            if let Some(entries) = entries {
                let mut folders = 0;
                for (name, child, kind) in entries {
                    let mode = self.node(child).0.mode;
                    let expected = [1, 2, 3, 4, 5, 7][[8, 4, 2, 6, 1, 10]
                        .iter()
                        .position(|format| *format == mode >> 12)
                        .unwrap()];
                    assert_eq!(kind, expected, "file type of {path}/{name}");
                    folders += u32::from(kind == 2);
                    match name.as_str() {
                        "." => assert_eq!(child, number, "{path}/."),
                        ".." => assert_eq!(child, parent, "{path}/.."),
                        _ => {
                            let slash = if path.is_empty() { "" } else { "/" };
                            pending.push((format!("{path}{slash}{name}"), child, number));
                        }
                    }
                }
                assert_eq!(node.links, folders, "links of {path:?}");
            }
            assert!(tree.insert(path, node).is_none(), "a name stands twice");
        }
        for (path, node) in &tree {
            if node.mode >> 12 != 4 {
                assert_eq!(node.links, names[&node.number], "links of {path:?}");
            }
        }
        assert_eq!(names.len() as u64, self.inodes, "inodes");
        tree
    }

    fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    fn node(&self, number: u64) -> (Node, Option<Entries>) {
        let place = self.meta + number * 32;
        let head = self.read(place, 32);
        let format = le::<2>(&head, 0);
        let is_compact = format & 1 == 0;
        let head = self.read(place, if is_compact { 32 } else { 64 });
        assert!(place % BLOCK + head.len() as u64 <= BLOCK || le::<2>(&head, 2) > 500);
        let mut node = Node {
            number,
            mode: le::<2>(&head, 4) as u16,
            uid: if is_compact {
                le::<2>(&head, 24)
            } else {
                le::<4>(&head, 24)
            } as u32,
            gid: if is_compact {
                le::<2>(&head, 26)
            } else {
                le::<4>(&head, 28)
            } as u32,
            links: if is_compact {
                le::<2>(&head, 6)
            } else {
                le::<4>(&head, 44)
            } as u32,
            seconds: if is_compact {
                self.time.0
            } else {
                le::<8>(&head, 32) as i64
            },
            nanoseconds: if is_compact {
                self.time.1
            } else {
                le::<4>(&head, 40) as u32
            },
            size: if is_compact {
                le::<4>(&head, 8)
            } else {
                le::<8>(&head, 8)
            },
            device: 0,
            content: Vec::new(),
            is_compact,
            xattrs: BTreeMap::new(),
            map: Vec::new(),
        };
        let union = le::<4>(&head, 16);
        let count = le::<2>(&head, 2);
        let mut end = place + head.len() as u64;
        if count > 0 {
            let length = 12 + 4 * (count - 1);
            node.xattrs = xattrs(&self.read(end, length)[12..]);
            end += length;
        }
        if matches!(node.mode >> 12, 2 | 6) {
            node.device = union as u32;
            return (node, None);
        }
        let block_count = node.size.div_ceil(BLOCK);
        node.map = match format >> 1 {
            0 => (0..block_count)
                .map(|block| Some((union + block) * BLOCK))
                .collect(),
            2 => {
                let tail = node.size % BLOCK;
                assert!(
                    tail > 0 && end % BLOCK + tail <= BLOCK,
                    "end of {number} crosses blocks"
                );
                let full = (0..block_count - 1).map(|block| Some((union + block) * BLOCK));
                full.chain([Some(end)]).collect()
            }
            4 => {
                let chunk = 1 << union;
                let chunks = block_count.div_ceil(chunk);
                let map = self.read(end, 4 * chunks);
                (0..block_count)
                    .map(|block| match le::<4>(&map, (block / chunk * 4) as usize) {
                        0xffff_ffff => None,
                        start => Some((start + block % chunk) * BLOCK),
                    })
                    .collect()
            }
            other => panic!("layout {other}"),
        };
        if node.size <= MAX_CONTENT {
            for (block, place) in node.map.iter().enumerate() {
                let length = BLOCK.min(node.size - block as u64 * BLOCK);
                node.content.extend(match place {
                    Some(place) => self.read(*place, length),
                    None => vec![0; length as usize],
                });
            }
        }
        let entries = (node.mode >> 12 == 4).then(|| entries(&node.content));
        (node, entries)
    }
}

fn xattrs(mut bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut xattrs = BTreeMap::new();
    while !bytes.is_empty() {
        let name_length = bytes[0] as usize;
        let value_length = le::<2>(bytes, 2) as usize;
        let prefix = match bytes[1] {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("attribute index {other}"),
        };
        let name = bytes[4..4 + name_length].escape_ascii();
        let value = bytes[4 + name_length..][..value_length].to_vec();
        assert!(xattrs.insert(format!("{prefix}{name}"), value).is_none());
        bytes = &bytes[(4 + name_length + value_length).next_multiple_of(4)..];
    }
    xattrs
}

/// The names of a folder, sorted as they must be.
fn entries(content: &[u8]) -> Entries {
    let mut entries = Vec::new();
    let mut names = Vec::new();
    for block in content.chunks(BLOCK as usize) {
        let count = le::<2>(block, 8) as usize / 12;
        for entry in 0..count {
            let start = le::<2>(block, entry * 12 + 8) as usize;
            let end = match entry + 1 < count {
                true => le::<2>(block, entry * 12 + 20) as usize,
                false => {
                    let used = block[start..].iter().position(|byte| *byte == 0);
                    used.map_or(block.len(), |used| start + used)
                }
            };
            names.push(&block[start..end]);
            let name = block[start..end].escape_ascii().to_string();
            entries.push((name, le::<8>(block, entry * 12), block[entry * 12 + 10]));
        }
    }
    assert!(
        names.is_sorted_by(|one, other| one < other),
        "names are not sorted"
    );
    entries
}
