//! Split virtqueues (virtio 1.2, section 2.7) as the device sees them.
//!
//! Each access to foreign memory is a system call, so the ring is read in batches: the
//! index of the available ring tells how many chains wait; their entries and the
//! descriptors that they start with are then copied together. The driver may not change
//! them before the chains are used; one that does changes nothing that was copied.

mod chain;
mod table;
#[cfg(test)]
mod tests;

pub use chain::Chain;
use table::{DESCRIPTOR_LEN, Table};

use std::sync::atomic::{Ordering, fence};

use crate::memory::GuestMemory;
use crate::{Error, Result};

/// Largest queue. QEMU offers no larger ones, and that size over virtio-mmio whatever
/// the device asked for.
pub const MAX_SIZE: u16 = 1024;

/// Used entries that are collected before the driver is shown them, so that it can
/// work on those while more are made.
const PUBLISHED_TOGETHER: usize = 16;

/// Of both rings: flags and index.
const RING_HEADER: u64 = 4;
const AVAILABLE_LEN: usize = 2;
const USED_LEN: usize = 8;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` and `VIRTQ_USED_F_NO_NOTIFY`.
const QUIET: u16 = 1;

/// Where the driver put a queue, in guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Entries.
    pub size: u16,
    /// The table of descriptors.
    pub descriptors: u64,
    /// The available ring, which the driver writes.
    pub available: u64,
    /// The used ring, which the device writes.
    pub used: u64,
}

impl Layout {
    fn check(&self, memory: &dyn GuestMemory) -> Result<()> {
        if !self.size.is_power_of_two() || self.size > MAX_SIZE {
            return Err(Error::Ring("a queue's size is not one that is offered"));
        }
        let size = u64::from(self.size);
        // Each ring ends with an event index.
        for (address, alignment, length) in [
            (self.descriptors, 16, DESCRIPTOR_LEN as u64 * size),
            (
                self.available,
                2,
                AVAILABLE_LEN as u64 * size + RING_HEADER + 2,
            ),
            (self.used, 4, USED_LEN as u64 * size + RING_HEADER + 2),
        ] {
            if !address.is_multiple_of(alignment) {
                return Err(Error::Ring("a part of a queue is not aligned"));
            }
            if !memory.contains(address, length) {
                return Err(Error::OutsideMemory { address, length });
            }
        }
        Ok(())
    }

    /// How many chains have been given back, wrapping. Nobody but a device writes it, so
    /// that it is where the last one left it.
    ///
    /// # Errors
    /// [`Error::Ring`] and [`Error::OutsideMemory`] for a layout that is not allowed.
    pub fn used_index(&self, memory: &dyn GuestMemory) -> Result<u16> {
        self.check(memory)?;
        memory.load_u16(self.used + 2)
    }

    fn used_event(&self) -> u64 {
        self.available + RING_HEADER + AVAILABLE_LEN as u64 * u64::from(self.size)
    }

    fn available_event(&self) -> u64 {
        self.used + RING_HEADER + USED_LEN as u64 * u64::from(self.size)
    }
}

/// A queue in use.
#[derive(Debug)]
pub struct Queue {
    layout: Layout,
    event_index: bool,
    /// Index of the next chain to take.
    next_available: u16,
    /// The entries up to this index are copied.
    copied: u16,
    /// Copied entries of the available ring, each in its place.
    entries: Box<[u8]>,
    table: Table,
    /// A chain that was taken and put back.
    kept: Option<Chain>,
    /// Index of the next used entry, those in `unpublished` included.
    next_used: u16,
    unpublished: Vec<u8>,
    /// Used entries since the driver was last thought of.
    used: u16,
    /// The flags or the event index that the driver was told last.
    told: Option<u16>,
}

impl Queue {
    /// A queue that the driver has set up. `next_available` is where it was left, 0 if
    /// it is new; `event_index` whether `VIRTIO_F_EVENT_IDX` was negotiated.
    ///
    /// # Errors
    /// [`Error::Ring`] and [`Error::OutsideMemory`] for a layout that is not allowed.
    pub fn new(
        memory: &dyn GuestMemory,
        layout: Layout,
        next_available: u16,
        event_index: bool,
    ) -> Result<Self> {
        let next_used = layout.used_index(memory)?;
        Ok(Self {
            layout,
            event_index,
            next_available,
            copied: next_available,
            entries: vec![0; AVAILABLE_LEN * usize::from(layout.size)].into(),
            table: Table::new(layout.descriptors, layout.size),
            kept: None,
            next_used,
            unpublished: Vec::new(),
            used: 0,
            told: None,
        })
    }

    /// Where the driver put it.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Index of the next chain to take.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Takes the next chain. One that is malformed is empty: it must be given back like
    /// the others.
    ///
    /// # Errors
    /// [`Error::Ring`] if the ring itself is malformed, and those of the memory.
    pub fn take(&mut self, memory: &dyn GuestMemory) -> Result<Option<Chain>> {
        if let Some(chain) = self.kept.take() {
            self.next_available = self.next_available.wrapping_add(1);
            return Ok(Some(chain));
        }
        if self.copied == self.next_available && !self.copy(memory)? {
            return Ok(None);
        }
        let chain = Chain::parse(memory, &self.table, self.head(self.next_available))?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts the chain back that was taken last.
    pub fn put_back(&mut self, chain: Chain) {
        self.kept = Some(chain);
        self.next_available = self.next_available.wrapping_sub(1);
    }

    /// Gives a chain back with so many bytes written. The driver may see that only
    /// after [`Queue::publish`].
    ///
    /// # Errors
    /// Those of the memory.
    pub fn give_back(
        &mut self,
        memory: &dyn GuestMemory,
        chain: &Chain,
        written: u32,
    ) -> Result<()> {
        self.unpublished
            .extend_from_slice(&u32::from(chain.head()).to_le_bytes());
        self.unpublished.extend_from_slice(&written.to_le_bytes());
        self.next_used = self.next_used.wrapping_add(1);
        self.used = self.used.wrapping_add(1);
        if self.unpublished.len() >= PUBLISHED_TOGETHER * USED_LEN {
            self.publish(memory)?;
        }
        Ok(())
    }

    /// Shows the driver every chain that was given back.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn publish(&mut self, memory: &dyn GuestMemory) -> Result<()> {
        if self.unpublished.is_empty() {
            return Ok(());
        }
        let count = self.unpublished.len() / USED_LEN;
        let first = usize::from(self.next_used.wrapping_sub(count as u16) % self.layout.size);
        let before_end = (usize::from(self.layout.size) - first).min(count) * USED_LEN;
        let (before, after) = self.unpublished.split_at(before_end);
        let entries = self.layout.used + RING_HEADER;
        memory.write(entries + (first * USED_LEN) as u64, before)?;
        memory.write(entries, after)?;
        self.unpublished.clear();
        // The driver must see the entries before the index.
        fence(Ordering::Release);
        self.store_used_header(memory)
    }

    /// Asks the driver not to tell of new chains.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn disable_kicks(&mut self, memory: &dyn GuestMemory) -> Result<()> {
        // With event indexes it is the index that is no longer moved.
        if self.event_index || self.told == Some(QUIET) {
            return Ok(());
        }
        self.told = Some(QUIET);
        self.store_used_header(memory)
    }

    /// Asks the driver to tell of new chains, and returns whether there are any that it
    /// may not have told of.
    ///
    /// # Errors
    /// [`Error::Ring`] if the ring is malformed, and those of the memory.
    pub fn enable_kicks(&mut self, memory: &dyn GuestMemory) -> Result<bool> {
        let tell = if self.event_index {
            self.next_available
        } else {
            0
        };
        if self.told != Some(tell) {
            self.told = Some(tell);
            if self.event_index {
                // A driver that sees half of it kicks in vain, or has added its chain
                // before this is done and is seen below.
                memory.store_u16(self.layout.available_event(), tell)?;
            } else {
                self.store_used_header(memory)?;
            }
        }
        if self.copied != self.next_available {
            return Ok(true);
        }
        // What the driver adds without a look at the above is seen here.
        fence(Ordering::SeqCst);
        Ok(self.load_available(memory)? != self.next_available)
    }

    /// Whether the driver wants to hear of what was published since the last call.
    ///
    /// # Errors
    /// Those of the memory.
    pub fn needs_interrupt(&mut self, memory: &dyn GuestMemory) -> Result<bool> {
        let used = std::mem::take(&mut self.used);
        if used == 0 {
            return Ok(false);
        }
        // The driver looks at the ring after it has said what it wants to hear.
        fence(Ordering::SeqCst);
        if !self.event_index {
            return Ok(memory.load_u16(self.layout.available)? & QUIET == 0);
        }
        // Whether the event is among the entries (virtio 1.2, 2.7.7.2).
        let event = memory.load_u16(self.layout.used_event())?;
        Ok(self.next_used.wrapping_sub(event).wrapping_sub(1) < used)
    }

    /// Copies what waits. Returns whether that is anything.
    fn copy(&mut self, memory: &dyn GuestMemory) -> Result<bool> {
        let available = self.load_available(memory)?;
        let count = available.wrapping_sub(self.next_available);
        if count == 0 {
            return Ok(false);
        }
        // What the driver wrote before the index is read after it.
        fence(Ordering::Acquire);
        let size = usize::from(self.layout.size);
        let first = usize::from(self.next_available) % size;
        let end = first + usize::from(count);
        for slots in [first..end.min(size), 0..end.saturating_sub(size)] {
            if !slots.is_empty() {
                let address = self.layout.available + RING_HEADER;
                let bytes = slots.start * AVAILABLE_LEN..slots.end * AVAILABLE_LEN;
                memory.read(address + bytes.start as u64, &mut self.entries[bytes])?;
            }
        }
        let (mut low, mut high) = (u16::MAX, 0);
        for step in 0..count {
            let head = self.head(self.next_available.wrapping_add(step));
            if head >= self.layout.size {
                return Err(Error::Ring("an available descriptor does not exist"));
            }
            (low, high) = (low.min(head), high.max(head));
        }
        self.table.copy(memory, low, high)?;
        self.copied = available;
        Ok(true)
    }

    /// The copied entry with this index.
    fn head(&self, index: u16) -> u16 {
        let at = usize::from(index % self.layout.size) * AVAILABLE_LEN;
        u16::from_le_bytes([self.entries[at], self.entries[at + 1]])
    }

    /// The driver's index.
    fn load_available(&self, memory: &dyn GuestMemory) -> Result<u16> {
        let available = memory.load_u16(self.layout.available + 2)?;
        if available.wrapping_sub(self.next_available) > self.layout.size {
            return Err(Error::Ring("more descriptors are available than exist"));
        }
        Ok(available)
    }

    /// Flags and index, at once so that the driver never sees half of an index.
    fn store_used_header(&self, memory: &dyn GuestMemory) -> Result<()> {
        let flags = match self.told {
            Some(flags) if !self.event_index => flags,
            _ => 0,
        };
        let unpublished = (self.unpublished.len() / USED_LEN) as u16;
        let index = self.next_used.wrapping_sub(unpublished);
        memory.store_u32(self.layout.used, u32::from(flags) | u32::from(index) << 16)
    }
}
