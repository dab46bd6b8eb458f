//! Chains of descriptors (virtio 1.2, section 2.7.5).

use super::table::{DESCRIPTOR_LEN, F_INDIRECT, F_NEXT, F_WRITE, Table};
use crate::memory::GuestMemory;
use crate::{Error, Result};

/// Bytes of the guest's memory.
#[derive(Debug, Clone, Copy)]
struct Piece {
    address: u64,
    length: u32,
}

/// Buffers that belong together: some that the device may read, some that it may
/// write.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<Piece>,
    writable: Vec<Piece>,
    /// Of all buffers. No chain has more bytes than this can say.
    length: u32,
}

impl Chain {
    /// The chain that starts with a descriptor of the table.
    pub(super) fn parse(memory: &dyn GuestMemory, table: &Table, head: u16) -> Result<Self> {
        let mut chain = Self {
            head,
            ..Self::default()
        };
        if !chain.follow(memory, table, head)? {
            // Nothing in it can be trusted.
            chain = Self {
                head,
                ..Self::default()
            };
        }
        Ok(chain)
    }

    /// Collects the buffers. Returns whether all is as it must be.
    fn follow(&mut self, memory: &dyn GuestMemory, table: &Table, head: u16) -> Result<bool> {
        let Some(first) = table.get(memory, head)? else {
            return Ok(false);
        };
        if first.flags & F_INDIRECT == 0 {
            return self.collect(memory, table, head);
        }
        // An indirect table ends the chain, and has no more descriptors than the queue.
        let length = first.length as usize;
        let count = length / DESCRIPTOR_LEN;
        if first.flags & F_NEXT != 0
            || !length.is_multiple_of(DESCRIPTOR_LEN)
            || count > usize::from(table.len())
            || !memory.contains(first.address, first.length.into())
        {
            return Ok(false);
        }
        // Lossless: it is not more than the queue has.
        let mut indirect = Table::new(first.address, count as u16);
        indirect.copy(memory, 0, indirect.len())?;
        self.collect(memory, &indirect, 0)
    }

    fn collect(&mut self, memory: &dyn GuestMemory, table: &Table, first: u16) -> Result<bool> {
        let mut next = Some(first);
        // A chain with more links than the table has entries goes round in circles.
        for _ in 0..table.len() {
            let Some(index) = next else { break };
            let Some(descriptor) = table.get(memory, index)? else {
                return Ok(false);
            };
            let length = self.length.checked_add(descriptor.length);
            let (Some(length), 0) = (length, descriptor.flags & F_INDIRECT) else {
                return Ok(false);
            };
            self.length = length;
            let pieces = if descriptor.flags & F_WRITE == 0 {
                &mut self.readable
            } else {
                &mut self.writable
            };
            if descriptor.length > 0 {
                pieces.push(Piece {
                    address: descriptor.address,
                    length: descriptor.length,
                });
            }
            next = (descriptor.flags & F_NEXT != 0).then_some(descriptor.next);
        }
        Ok(next.is_none())
    }

    /// Index of its first descriptor, which names it.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Copies what the driver wrote, as far as there is room, one piece at a time.
    /// Returns how much that is.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`] if not all of the chain is memory, and
    /// [`Error::Access`].
    pub fn read(&self, memory: &dyn GuestMemory, bytes: &mut [u8]) -> Result<usize> {
        check(memory, &self.readable)?;
        let mut done = 0;
        for piece in &self.readable {
            let count = (bytes.len() - done).min(piece.length as usize);
            memory.read(piece.address, &mut bytes[done..done + count])?;
            done += count;
        }
        Ok(done)
    }

    /// Bytes that [`Chain::write`] has room for: none if not all of it is memory.
    pub fn room(&self, memory: &dyn GuestMemory) -> usize {
        match check(memory, &self.writable) {
            Ok(()) => self
                .writable
                .iter()
                .map(|piece| piece.length as usize)
                .sum(),
            Err(_) => 0,
        }
    }

    /// Writes as much as there is room for, one piece at a time.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`] and [`Error::Access`].
    pub fn write(&self, memory: &dyn GuestMemory, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for piece in &self.writable {
            let (now, later) = rest.split_at(rest.len().min(piece.length as usize));
            if now.is_empty() {
                break;
            }
            memory.write(piece.address, now)?;
            rest = later;
        }
        Ok(())
    }
}

fn check(memory: &dyn GuestMemory, pieces: &[Piece]) -> Result<()> {
    let outside = pieces
        .iter()
        .find(|piece| !memory.contains(piece.address, piece.length.into()));
    match outside {
        None => Ok(()),
        Some(piece) => Err(Error::OutsideMemory {
            address: piece.address,
            length: piece.length.into(),
        }),
    }
}
