//! Where the guest's memory lies in the address space of its VMM.

use crate::{Error, Result};

/// A piece of guest memory that is in one piece in the VMM's address space as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Guest physical address of its start.
    pub guest: u64,
    /// Address of its start in the VMM.
    pub user: u64,
    /// Bytes.
    pub size: u64,
}

impl Region {
    /// Where these bytes, which start at a guest's address, lie in the VMM, and how
    /// many of them are in this region.
    fn user_address(&self, guest: u64) -> Option<(u64, u64)> {
        let offset = guest
            .checked_sub(self.guest)
            .filter(|offset| *offset < self.size)?;
        // Neither overflows: the region was checked.
        Some((self.user + offset, self.size - offset))
    }
}

/// All of a guest's memory, in the order of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regions(Vec<Region>);

impl Regions {
    /// Takes a table in any order. Two regions may be the same memory of the VMM, as
    /// aliases are, but not the same addresses of the guest.
    ///
    /// # Errors
    /// [`Error::Regions`] for a region that is empty or reaches beyond the address
    /// space, and for two that overlap.
    pub fn new(mut regions: Vec<Region>) -> Result<Self> {
        for region in &regions {
            if region.size == 0 {
                return Err(Error::Regions("a region is empty"));
            }
            let user_end = region.user.checked_add(region.size);
            // File offsets are signed, and a process's memory is a file.
            if region.guest.checked_add(region.size).is_none()
                || user_end.is_none_or(|end| i64::try_from(end).is_err())
            {
                return Err(Error::Regions("a region ends beyond the address space"));
            }
        }
        regions.sort_unstable_by_key(|region| region.guest);
        let overlap = regions
            .windows(2)
            .any(|pair| pair[0].guest + pair[0].size > pair[1].guest);
        if overlap {
            return Err(Error::Regions("two regions overlap"));
        }
        Ok(Self(regions))
    }

    /// Where a guest's address lies in the VMM, and how many bytes from there on are
    /// in one piece.
    pub fn user_address(&self, guest: u64) -> Option<(u64, u64)> {
        let after = self.0.partition_point(|region| region.guest <= guest);
        self.0[..after].last()?.user_address(guest)
    }

    /// The guest's address for one of the VMM's.
    pub fn guest_address(&self, user: u64) -> Option<u64> {
        self.0.iter().find_map(|region| {
            let offset = user.checked_sub(region.user)?;
            (offset < region.size).then_some(region.guest + offset)
        })
    }

    /// Whether all of these bytes are memory.
    pub fn contains(&self, address: u64, length: u64) -> bool {
        if address.checked_add(length).is_none() {
            return false;
        }
        let (mut address, mut length) = (address, length);
        while length > 0 {
            let Some((_, piece)) = self.user_address(address) else {
                return false;
            };
            let piece = piece.min(length);
            address += piece;
            length -= piece;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn region(guest: u64, user: u64, size: u64) -> Region {
        Region { guest, user, size }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for regions in [
            vec![region(0, 0x1000, 0)],
            vec![region(u64::MAX - 9, 0, 11)],
            vec![region(0, u64::MAX - 9, 11)],
            vec![region(0, i64::MAX as u64 - 9, 11)],
            vec![region(0, 0, u64::MAX), region(0, 0, u64::MAX)],
            vec![region(0, 0x1000, 11), region(10, 0x2000, 5)],
            vec![region(10, 0x2000, 5), region(0, 0x1000, 11)],
            vec![region(0, 0x1000, 100), region(10, 0x2000, 5)],
            vec![region(7, 0x1000, 1), region(7, 0x2000, 1)],
        ] {
            assert!(
                matches!(Regions::new(regions.clone()), Err(Error::Regions(_))),
                "{regions:?}"
            );
        }
        assert!(Regions::new(vec![region(0, i64::MAX as u64 - 10, 10)]).is_ok());
        assert!(Regions::new(vec![region(10, 0x1000, 5), region(0, 0x1000, 10)]).is_ok());
    }

    #[test]
    fn neighbours_are_one_range_and_gaps_are_none() {
        let regions = Regions::new(vec![
            region(0x1000, 0x70_0000, 0x1000),
            region(0x2000, 0x10_0000, 0x10),
        ])
        .unwrap();
        assert_eq!(regions.user_address(0x1fff), Some((0x70_0fff, 1)));
        assert_eq!(regions.user_address(0x2000), Some((0x10_0000, 0x10)));
        assert_eq!(regions.user_address(0x2010), None);
        assert_eq!(regions.user_address(0xfff), None);
        assert_eq!(regions.guest_address(0x10_000f), Some(0x200f));
        assert_eq!(regions.guest_address(0x10_0010), None);
        assert!(regions.contains(0x1fff, 0x11));
        assert!(!regions.contains(0x1fff, 0x12));
        assert!(!regions.contains(0x1fff, u64::MAX));
        assert!(regions.contains(u64::MAX, 0) && regions.contains(0, 0));
    }

    proptest! {
        /// Against a table of single bytes.
        #[test]
        fn every_byte_is_where_the_table_says(
            table in vec((0u64..64, 1000u64..2000, 0u64..24), 0..5),
            address in 0u64..96,
            length in 0u64..96,
        ) {
            let table: Vec<_> = table
                .into_iter()
                .map(|(guest, user, size)| region(guest, user, size))
                .collect();
            let owners = |address: u64| {
                let owns = |r: &&Region| address >= r.guest && address - r.guest < r.size;
                table.iter().filter(owns).collect::<Vec<_>>()
            };
            let sensible = table.iter().all(|r| r.size > 0)
                && (0..96).all(|address| owners(address).len() <= 1);
            let regions = Regions::new(table.clone());
            prop_assert_eq!(regions.is_ok(), sensible);
            let Ok(regions) = regions else { return Ok(()) };
            let expected = owners(address)
                .first()
                .map(|r| (r.user + address - r.guest, r.guest + r.size - address));
            prop_assert_eq!(regions.user_address(address), expected);
            let all = (address..address + length).all(|address| owners(address).len() == 1);
            prop_assert_eq!(regions.contains(address, length), all);
        }
    }
}
