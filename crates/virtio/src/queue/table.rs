//! Tables of descriptors (virtio 1.2, section 2.7.5).

use crate::Result;
use crate::memory::GuestMemory;

/// Bytes of a descriptor.
pub const DESCRIPTOR_LEN: usize = 16;

/// Most descriptors that are copied at once. If more lie between those that are known
/// to be needed, each is copied when it is looked at.
const MAX_COPIED: usize = 256;

/// Descriptors behind the last known one that are copied with it: a chain is often in
/// one piece.
const COPIED_BEHIND: u16 = 3;

/// `VIRTQ_DESC_F_NEXT`: the chain goes on.
pub const F_NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the buffer is for the device to write.
pub const F_WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: the buffer is a table.
pub const F_INDIRECT: u16 = 4;

/// `struct virtq_desc` in host byte order.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    fn from_bytes(bytes: [u8; DESCRIPTOR_LEN]) -> Self {
        let [address @ .., l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        Self {
            address: u64::from_le_bytes(address),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

/// A table, part of which may be copied.
#[derive(Debug)]
pub struct Table {
    start: u64,
    count: u16,
    first_copied: u16,
    copied: Vec<u8>,
}

impl Table {
    /// A table of so many descriptors.
    pub fn new(start: u64, count: u16) -> Self {
        Self {
            start,
            count,
            first_copied: 0,
            copied: Vec::new(),
        }
    }

    /// Number of descriptors.
    pub fn len(&self) -> u16 {
        self.count
    }

    /// Copies these descriptors, the last included, and forgets what was copied before.
    pub fn copy(&mut self, memory: &dyn GuestMemory, first: u16, last: u16) -> Result<()> {
        self.copied.clear();
        let end = last.saturating_add(1 + COPIED_BEHIND).min(self.count);
        let copied = usize::from(end.saturating_sub(first));
        if copied <= MAX_COPIED {
            self.first_copied = first;
            self.copied.resize(copied * DESCRIPTOR_LEN, 0);
            memory.read(self.address(first), &mut self.copied)?;
        }
        Ok(())
    }

    /// The descriptor with this index, if there is one.
    pub fn get(&self, memory: &dyn GuestMemory, index: u16) -> Result<Option<Descriptor>> {
        if index >= self.count {
            return Ok(None);
        }
        let copied = index
            .checked_sub(self.first_copied)
            .and_then(|offset| self.copied.get(usize::from(offset) * DESCRIPTOR_LEN..))
            .and_then(<[u8]>::first_chunk);
        let bytes = match copied {
            Some(bytes) => *bytes,
            None => {
                let mut bytes = [0; DESCRIPTOR_LEN];
                memory.read(self.address(index), &mut bytes)?;
                bytes
            }
        };
        Ok(Some(Descriptor::from_bytes(bytes)))
    }

    fn address(&self, index: u16) -> u64 {
        // Does not overflow where the whole table is in memory, and does not matter
        // elsewhere.
        self.start
            .wrapping_add(DESCRIPTOR_LEN as u64 * u64::from(index))
    }
}
