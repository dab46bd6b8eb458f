//! Archives in the "newc" form of cpio, which the kernel unpacks as initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive in the making. All files belong to root and carry no time, so
/// that the same input gives the same bytes.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// File types of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// Name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

impl Archive {
    /// Adds a folder. Parents come first.
    pub fn directory(&mut self, name: &str, mode: u32) {
        self.entry(name, DIRECTORY | mode, 2, (0, 0), &[]);
    }

    /// Adds a character device.
    pub fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | mode, 1, (major, minor), &[]);
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, REGULAR | mode, 1, (0, 0), content);
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry(TRAILER, 0, 1, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, device: (u32, u32), content: &[u8]) {
        let length = |bytes: usize| {
            u32::try_from(bytes).expect("a file of an initramfs is smaller than 4 GiB")
        };
        let inode = if name == TRAILER { 0 } else { self.entries + 1 };
        self.entries = inode;
        let fields = [
            inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            length(content.len()),
            0, // device of the archive's file system
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0, // checksum, unused in this form
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_contents_are_aligned_and_whole() {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, b"12345");
        let bytes = archive.finish();

        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                let digits = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name_size) = (field(6), field(11));
            let name_start = at + 110;
            let name = &bytes[name_start..name_start + name_size - 1];
            let content_start = (name_start + name_size).next_multiple_of(4);
            names.push((
                String::from_utf8(name.to_vec()).unwrap(),
                field(1),
                (field(9), field(10)),
                bytes[content_start..content_start + size].to_vec(),
            ));
            at = (content_start + size).next_multiple_of(4);
        }
        assert_eq!(
            names,
            [
                ("dev".to_owned(), 0o040_755, (0, 0), vec![]),
                ("dev/console".to_owned(), 0o020_600, (5, 1), vec![]),
                ("init".to_owned(), 0o100_755, (0, 0), b"12345".to_vec()),
                (TRAILER.to_owned(), 0, (0, 0), vec![]),
            ]
        );
    }
}
