//! As much of FUSE as the tests speak (`include/uapi/linux/fuse.h`).

use std::os::unix::net::UnixStream;

use crate::guest::{Guest, wait};

const REQUESTS: usize = 1;

/// Who asks.
#[derive(Clone, Copy)]
pub struct User(pub u32);

/// The guest's kernel, with nothing cached.
pub struct Client {
    guest: Guest,
    unique: u64,
}

/// What a look-up gives.
#[derive(Debug)]
pub struct Entry {
    pub node: u64,
    pub mode: u32,
    pub uid: u32,
    /// The entry is where another mount starts.
    pub submount: bool,
}

pub const ROOT: u64 = 1;

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Client {
    pub fn new(connection: UnixStream) -> Self {
        let mut client = Self {
            guest: Guest::new(connection),
            unique: 0,
        };
        // FUSE_BIG_WRITES, FUSE_MAX_PAGES, FUSE_SUBMOUNTS, FUSE_HANDLE_KILLPRIV_V2,
        // FUSE_INIT_EXT; in the second word FUSE_CREATE_SUPP_GROUP.
        let flags = 1_u32 << 5 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 30;
        let mut init = vec![0; 64];
        for (at, value) in [(0, 7_u32), (4, 38), (8, 128 * 1024), (12, flags), (16, 4)] {
            init[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let answer = client.call(26, 0, User(0), &[&init]).unwrap();
        assert_eq!(number(&answer, 0), 7);
        client
    }

    /// Sends a request; an error is the number that the guest would see.
    pub fn call(
        &mut self,
        operation: u32,
        node: u64,
        user: User,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, i32> {
        let body = parts.concat();
        self.unique += 1;
        let mut request = Vec::new();
        request.extend((40 + body.len() as u32).to_le_bytes());
        request.extend(operation.to_le_bytes());
        request.extend(self.unique.to_le_bytes());
        request.extend(node.to_le_bytes());
        for id in [user.0, user.0, 1, 0] {
            request.extend(id.to_le_bytes());
        }
        request.extend(body);
        let queue = &mut self.guest.queues[REQUESTS];
        queue.add(0, &request, 0x1_1000);
        queue.kick();
        let answer = loop {
            match queue.take() {
                Some((_, answer)) => break answer,
                None => wait(&[queue]),
            }
        };
        assert_eq!(number(&answer, 0) as usize, answer.len());
        assert_eq!(long(&answer, 8), self.unique);
        match -(number(&answer, 4) as i32) {
            0 => Ok(answer[16..].to_vec()),
            error => Err(error),
        }
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<Entry, i32> {
        let answer = self.call(1, parent, User(0), &[name.as_bytes(), b"\0"])?;
        Ok(entry(&answer))
    }

    /// Opens a file; returns the handle.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let answer = self.call(14, node, User(0), &[&flags.to_le_bytes(), &[0; 4]])?;
        Ok(long(&answer, 0))
    }

    pub fn read(&mut self, node: u64, handle: u64) -> Result<Vec<u8>, i32> {
        let size = 4096_u32.to_le_bytes();
        let parts = [&handle.to_le_bytes()[..], &[0; 8], &size, &[0; 20]];
        self.call(15, node, User(0), &parts)
    }

    pub fn write(&mut self, node: u64, handle: u64, bytes: &[u8]) -> Result<(), i32> {
        let size = (bytes.len() as u32).to_le_bytes();
        let parts = [&handle.to_le_bytes()[..], &[0; 8], &size, &[0; 20], bytes];
        self.call(16, node, User(0), &parts).map(drop)
    }

    /// Makes a file and opens it.
    pub fn create(&mut self, parent: u64, name: &str, user: User) -> Result<(Entry, u64), i32> {
        let flags = (libc::O_RDWR | libc::O_CREAT).to_le_bytes();
        let mode = (libc::S_IFREG | 0o644).to_le_bytes();
        let parts = [&flags[..], &mode, &[0; 8], name.as_bytes(), b"\0"];
        let answer = self.call(35, parent, user, &parts)?;
        Ok((entry(&answer), long(&answer, 128)))
    }
}

fn entry(answer: &[u8]) -> Entry {
    // `struct fuse_entry_out` has the attributes after 40 bytes.
    let attributes = &answer[40..];
    Entry {
        node: long(answer, 0),
        mode: number(attributes, 60),
        uid: number(attributes, 68),
        submount: number(attributes, 84) & 1 != 0,
    }
}
