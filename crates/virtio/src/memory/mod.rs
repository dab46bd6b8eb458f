//! The guest's memory, however it is reached.
//!
//! The trait of that name in `vm-memory` promises slices of mapped memory, and so do
//! the rings of `virtio-queue`. A fork's memory cannot be mapped by anybody but its
//! VMM, see [`ForeignMemory`], so models are written against the few operations that
//! both kinds have.

mod foreign;
mod mapped;
mod regions;

pub use foreign::ForeignMemory;
pub use regions::{Region, Regions};

use crate::Result;

/// What a device model does with guest memory. Addresses are guest physical.
///
/// Ordering is the caller's: it puts fences between accesses where the driver must
/// see one before the other.
pub trait GuestMemory {
    /// Whether all of these bytes are memory. No bytes are, wherever they lie.
    fn contains(&self, address: u64, length: u64) -> bool;

    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`](crate::Error::OutsideMemory), before anything is
    /// read, or [`Error::Access`](crate::Error::Access).
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()>;

    /// Writes `bytes`.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`](crate::Error::OutsideMemory), before anything is
    /// written, or [`Error::Access`](crate::Error::Access).
    fn write(&self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Reads a little-endian number at a multiple of 2 that the driver may be writing:
    /// all of what it writes, or nothing.
    ///
    /// # Errors
    /// Those of [`GuestMemory::read`].
    fn load_u16(&self, address: u64) -> Result<u16>;

    /// Writes a little-endian number at a multiple of 2 that the driver may be reading.
    /// It may see one byte of it before the other.
    ///
    /// # Errors
    /// Those of [`GuestMemory::write`].
    fn store_u16(&self, address: u64, value: u16) -> Result<()>;

    /// Writes a little-endian number at a multiple of 4, of which the driver sees all
    /// or nothing.
    ///
    /// # Errors
    /// Those of [`GuestMemory::write`].
    fn store_u32(&self, address: u64, value: u32) -> Result<()>;
}
