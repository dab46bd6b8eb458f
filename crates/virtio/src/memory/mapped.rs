//! Memory that is mapped into this process.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap};

use super::GuestMemory;
use crate::{Error, Result};

fn outside(address: u64, length: usize) -> Error {
    Error::OutsideMemory {
        address,
        length: length as u64,
    }
}

impl GuestMemory for GuestMemoryMmap {
    fn contains(&self, address: u64, length: u64) -> bool {
        usize::try_from(length).is_ok_and(|length| self.check_range(GuestAddress(address), length))
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        if !self.check_range(GuestAddress(address), bytes.len()) {
            return Err(outside(address, bytes.len()));
        }
        self.read_slice(bytes, GuestAddress(address))
            .map_err(|_| outside(address, bytes.len()))
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        if !self.check_range(GuestAddress(address), bytes.len()) {
            return Err(outside(address, bytes.len()));
        }
        self.write_slice(bytes, GuestAddress(address))
            .map_err(|_| outside(address, bytes.len()))
    }

    fn load_u16(&self, address: u64) -> Result<u16> {
        self.load(GuestAddress(address), Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|_| outside(address, 2))
    }

    fn store_u16(&self, address: u64, value: u16) -> Result<()> {
        self.store(value.to_le(), GuestAddress(address), Ordering::Relaxed)
            .map_err(|_| outside(address, 2))
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<()> {
        self.store(value.to_le(), GuestAddress(address), Ordering::Relaxed)
            .map_err(|_| outside(address, 4))
    }
}
