//! Memory of another process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::{GuestMemory, Regions};
use crate::{Error, Result};

/// The guest's memory as its VMM sees it, through a descriptor of the VMM's
/// `/proc/PID/mem`.
///
/// A fork maps its template's memory copy-on-write. Pages that it has written exist
/// in its address space only: whoever maps the same file reads the template's and, by
/// writing, would change every fork. A write through `/proc/PID/mem` breaks the
/// sharing as a write of the VMM itself would (proc(5)).
///
/// The kernel copies with `memcpy`, which promises nothing about numbers that the
/// other side is changing, and moves two bytes one by one. Four that are aligned move
/// at once on x86-64, be it with one `mov` or with `rep movsb` on a processor that has
/// fast short ones (FSRM), so that is how numbers are read and, where it matters,
/// written.
#[derive(Debug, Clone)]
pub struct ForeignMemory {
    process: Arc<OwnedFd>,
    regions: Regions,
}

impl ForeignMemory {
    /// The memory in these regions of the process whose `/proc/PID/mem` this is. It
    /// must be open for reading and writing.
    pub fn new(process: Arc<OwnedFd>, regions: Regions) -> Self {
        Self { process, regions }
    }

    /// Calls `access` with pieces of `0..length` and their addresses in the process
    /// until each byte had its turn. It returns how many bytes it moved.
    fn each_piece(
        &self,
        address: u64,
        length: usize,
        mut access: impl FnMut(std::ops::Range<usize>, u64) -> rustix::io::Result<usize>,
    ) -> Result<()> {
        let outside = Error::OutsideMemory {
            address,
            length: length as u64,
        };
        if !self.regions.contains(address, length as u64) {
            return Err(outside);
        }
        let mut done = 0;
        while done < length {
            // Does not overflow: the sum was an address in a region.
            let here = address + done as u64;
            let Some((user, piece)) = self.regions.user_address(here) else {
                return Err(outside);
            };
            let piece = (length - done).min(usize::try_from(piece).unwrap_or(usize::MAX));
            let failed = |source: io::Error| Error::Access {
                address: here,
                source,
            };
            match access(done..done + piece, user) {
                // The address space is gone.
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => done += count.min(piece),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Ok(())
    }
}

impl GuestMemory for ForeignMemory {
    fn contains(&self, address: u64, length: u64) -> bool {
        self.regions.contains(address, length)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.each_piece(address, bytes.len(), |piece, user| {
            rustix::io::pread(self.process.as_fd(), &mut bytes[piece], user)
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.each_piece(address, bytes.len(), |piece, user| {
            rustix::io::pwrite(self.process.as_fd(), &bytes[piece], user)
        })
    }

    fn load_u16(&self, address: u64) -> Result<u16> {
        let around = address & !3;
        if address.is_multiple_of(2) && self.contains(around, 4) {
            let mut bytes = [0; 4];
            self.read(around, &mut bytes)?;
            let word = u32::from_le_bytes(bytes) >> (8 * (address - around));
            return Ok(word as u16);
        }
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn store_u16(&self, address: u64, value: u16) -> Result<()> {
        self.write(address, &value.to_le_bytes())
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<()> {
        self.write(address, &value.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap};

    use super::super::Region;
    use super::*;

    const PAGE: usize = 0x1000;
    /// Two neighbours, a gap, and a third.
    const PARTS: [(u64, usize); 3] = [(0x1000, PAGE), (0x2000, 2 * PAGE), (0x8000, PAGE)];

    /// The same memory as this process sees it and through its own `/proc/PID/mem`.
    fn both() -> (GuestMemoryMmap, ForeignMemory) {
        let ranges = PARTS.map(|(start, size)| (GuestAddress(start), size));
        let mapped = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let regions = PARTS.map(|(guest, size)| Region {
            guest,
            user: mapped.get_host_address(GuestAddress(guest)).unwrap() as u64,
            size: size as u64,
        });
        let own = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem")
            .unwrap();
        let regions = Regions::new(regions.to_vec()).unwrap();
        (mapped, ForeignMemory::new(Arc::new(own.into()), regions))
    }

    #[test]
    fn numbers_have_the_guests_byte_order() {
        let (mapped, foreign) = both();
        foreign.store_u16(0x1ffe, 0x1234).unwrap();
        foreign.store_u32(0x2000, 0x5678_9abc).unwrap();
        let mut bytes = [0; 6];
        mapped.read_slice(&mut bytes, GuestAddress(0x1ffe)).unwrap();
        assert_eq!(bytes, [0x34, 0x12, 0xbc, 0x9a, 0x78, 0x56]);
        assert_eq!(foreign.load_u16(0x1ffe).unwrap(), 0x1234);
        assert_eq!(foreign.load_u16(0x2000).unwrap(), 0x9abc);
        assert_eq!(foreign.load_u16(0x2001).unwrap(), 0x789a);
        assert_eq!(foreign.load_u16(0x2002).unwrap(), 0x5678);
        assert!(foreign.store_u32(0x3ffd, 1).is_err());
        assert!(foreign.load_u16(0x3fff).is_err());
    }

    /// The numbers of a ring while the other side moves them past a byte's end.
    #[test]
    fn numbers_are_never_seen_half_written() {
        const ROUNDS: u32 = 100_000;
        const VALUES: [u16; 2] = [0x00ff, 0x0100];
        let (mapped, foreign) = both();
        let guest = GuestAddress(0x1002);
        mapped.write_obj(VALUES[0], guest).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let seen: u16 = mapped.load(guest, Ordering::Relaxed).unwrap();
                    assert!(VALUES.contains(&seen), "{seen:#x}");
                }
            });
            for round in 0..ROUNDS {
                let value = u32::from(VALUES[(round % 2) as usize]);
                foreign.store_u32(0x1000, value << 16).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        done.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in VALUES.into_iter().cycle() {
                    mapped.store(value, guest, Ordering::Relaxed).unwrap();
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            for _ in 0..ROUNDS {
                let seen = foreign.load_u16(0x1002).unwrap();
                assert!(VALUES.contains(&seen), "{seen:#x}");
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn memory_that_the_process_does_not_have_is_an_error() {
        let (_, foreign) = both();
        // The first page of a process is never mapped.
        let regions = Regions::new(vec![Region {
            guest: 0,
            user: 0,
            size: 64,
        }])
        .unwrap();
        let foreign = ForeignMemory::new(foreign.process, regions);
        let error = foreign.read(0, &mut [0; 8]).unwrap_err();
        assert!(matches!(error, Error::Access { address: 0, .. }), "{error}");
        assert!(!error.is_end_of_memory());
    }

    #[test]
    fn the_end_of_the_process_is_told_apart() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let path = format!("/proc/{}/mem", child.id());
        let memory = File::options().read(true).write(true).open(path).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let (_, foreign) = both();
        let foreign = ForeignMemory::new(Arc::new(memory.into()), foreign.regions);
        let error = foreign.write(0x1000, &[1]).unwrap_err();
        assert!(error.is_end_of_memory(), "{error}");
    }

    proptest! {
        /// Any range gives what the mapping gives, and a range that is refused leaves
        /// every byte as it was.
        #[test]
        fn it_is_the_mapped_memory(
            address in prop_oneof![
                0x0f00u64..0x1100, 0x1f00u64..0x2100, 0x3f00u64..0x4100, 0x7f00u64..0x9100,
                Just(u64::MAX - 8), any::<u64>(),
            ],
            length in prop_oneof![0usize..0x300, 0usize..5 * PAGE],
            seed in any::<u8>(),
        ) {
            let (mapped, foreign) = both();
            let bytes: Vec<_> = (0..length).map(|i| (i as u8).wrapping_mul(7) ^ seed | 1).collect();
            let inside = GuestMemory::contains(&mapped, address, length as u64);
            prop_assert_eq!(foreign.contains(address, length as u64), inside);
            prop_assert_eq!(foreign.write(address, &bytes).is_ok(), inside);
            let mut copy = vec![0; length];
            prop_assert_eq!(foreign.read(address, &mut copy).is_ok(), inside);
            let mut all = Vec::new();
            for (start, size) in PARTS {
                let mut part = vec![0; size];
                mapped.read_slice(&mut part, GuestAddress(start)).unwrap();
                all.extend((start..).zip(part));
            }
            if inside {
                prop_assert_eq!(&copy, &bytes);
            }
            for (at, byte) in all {
                let written = at.checked_sub(address).filter(|offset| inside && *offset < length as u64);
                prop_assert_eq!(byte, written.map_or(0, |offset| bytes[offset as usize]));
            }
        }
    }
}
