//! File systems that come as disks with their containers, and go with them.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use caisson_hypervisor::OpenDisk;
use caisson_protocol::agent as api;

use crate::{Result, Sandbox};

/// A file system that is a container's rootfs.
#[derive(Debug, Clone)]
pub struct RootfsDisk {
    /// Block device or file with it, opened for what the guest may do.
    pub file: Arc<File>,
    /// Whether it is opened for reading only.
    pub read_only: bool,
    /// Its kind, which the guest's kernel must have.
    pub file_system: String,
    /// `MS_*` of mount(2).
    pub flags: u32,
    /// What the file system itself is told.
    pub options: String,
}

impl Sandbox {
    /// Gives the machine a container's disk. Returns what its guest is told.
    pub(crate) async fn plug_rootfs(&self, disk: &RootfsDisk) -> Result<api::RootfsDisk> {
        let number = self.inner.next_disk.fetch_add(1, Ordering::Relaxed);
        let open = OpenDisk {
            file: Arc::clone(&disk.file),
            // A new one each time: the guest may remember an old one.
            serial: format!("rootfs-{number}"),
            read_only: disk.read_only,
        };
        let device = self.inner.vm.plug_disk(&open).await?;
        Ok(api::RootfsDisk {
            device,
            serial: open.serial,
            file_system: disk.file_system.clone(),
            flags: disk.flags,
            options: disk.options.clone(),
            ..Default::default()
        })
    }

    /// Takes a container's disk away, which its guest has let go of.
    pub(crate) async fn unplug_rootfs(&self, serial: &str) {
        match self.inner.vm.unplug_disk(serial).await {
            Ok(()) | Err(caisson_hypervisor::Error::Ended) => {}
            Err(error) => tracing::warn!(%error, serial, "a disk stays until the machine ends"),
        }
    }
}
