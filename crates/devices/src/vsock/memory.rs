//! The guest's memory as the frontend tells of it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Result, bail};
use caisson_virtio::memory::{ForeignMemory, GuestMemory, Region, Regions};
use vhost::vhost_user::Error as VhostUserError;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// How the memory is reached.
enum Way {
    /// By mapping the files that the frontend sends.
    Mapping,
    /// By the frontend's `/proc/PID/mem`, once the driver has sent it. The files stay
    /// unmapped: they hold a template's memory, not the guest's.
    Process(Option<Arc<OwnedFd>>),
}

/// What is known of the memory so far.
pub struct Memory {
    way: Way,
    regions: Option<Regions>,
    guest: Option<Box<dyn GuestMemory + Send>>,
}

impl Memory {
    /// Memory that is yet to be told of.
    pub fn new(foreign: bool) -> Self {
        Self {
            way: if foreign {
                Way::Process(None)
            } else {
                Way::Mapping
            },
            regions: None,
            guest: None,
        }
    }

    /// Takes the frontend's table, one file for each region.
    pub fn set_regions(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> Result<(), VhostUserError> {
        let failed = |error| VhostUserError::ReqHandlerError(io::Error::other(error));
        let regions = table.iter().map(|region| Region {
            guest: region.guest_phys_addr,
            user: region.user_addr,
            size: region.memory_size,
        });
        let regions = Regions::new(regions.collect()).map_err(failed)?;
        if let Way::Mapping = self.way {
            self.guest = Some(Box::new(map(table, files)?));
        }
        self.regions = Some(regions);
        self.open();
        Ok(())
    }

    /// Takes the frontend's `/proc/PID/mem` from the driver.
    pub fn set_process(&mut self, process: OwnedFd) -> Result<()> {
        match &mut self.way {
            Way::Process(known @ None) => *known = Some(Arc::new(process)),
            Way::Process(Some(_)) => bail!("the driver sent the VMM's memory twice"),
            Way::Mapping => bail!("the driver sent the VMM's memory to a device that maps it"),
        }
        self.open();
        Ok(())
    }

    /// The memory, when all is known of it.
    pub fn guest(&self) -> Option<&dyn GuestMemory> {
        Some(self.guest.as_deref()?)
    }

    /// The guest's address for one of the frontend's.
    pub fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.as_ref()?.guest_address(user)
    }

    fn open(&mut self) {
        if let (Way::Process(Some(process)), Some(regions)) = (&self.way, &self.regions) {
            let memory = ForeignMemory::new(Arc::clone(process), regions.clone());
            self.guest = Some(Box::new(memory));
        }
    }
}

fn map(
    table: &[VhostUserMemoryRegion],
    files: Vec<File>,
) -> Result<GuestMemoryMmap, VhostUserError> {
    let mut regions = Vec::with_capacity(table.len());
    for (region, file) in table.iter().zip(files) {
        let start = GuestAddress(region.guest_phys_addr);
        let mapped = GuestRegionMmap::new(region.mmap_region(file)?, start)
            .ok_or(VhostUserError::InvalidParam)?;
        regions.push(mapped);
    }
    regions.sort_unstable_by_key(vm_memory::GuestMemoryRegion::start_addr);
    GuestMemoryMmap::from_regions(regions)
        .map_err(|error| VhostUserError::ReqHandlerError(io::Error::other(error)))
}
