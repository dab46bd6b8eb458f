//! Disks that come and go while a machine runs.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use serde_json::json;

use super::arguments::{approve, disk_device, disk_device_name, disk_file, disk_name, disk_node};
use super::descriptor_set::DescriptorSet;
use super::monitor::Monitor;
use super::slot::Slot;
use crate::OpenDisk;

/// How long QEMU may take to let go of a disk: its threads have to pass by (RCU).
const LET_GO: Duration = Duration::from_secs(10);

/// Puts a disk into an empty slot. The guest has to look at it.
pub(super) async fn plug(monitor: &mut Monitor, disk: &OpenDisk, slot: Slot) -> io::Result<()> {
    let number = number(slot)?;
    let set = DescriptorSet::Disk(number);
    monitor.add(set, disk.file.as_fd()).await?;
    let file = disk_file(number, driver(&disk.file)?, disk.read_only);
    let node = disk_node(number, file, disk.read_only);
    monitor.execute("blockdev-add", node).await?;
    monitor.execute("qom-set", approve(slot)).await?;
    let device = disk_device(number, &disk.serial, slot);
    monitor.execute("device_add", device).await?;
    Ok(())
}

/// Takes the disk out of a slot.
pub(super) async fn unplug(monitor: &mut Monitor, slot: Slot) -> io::Result<()> {
    let number = number(slot)?;
    monitor.execute("qom-set", approve(slot)).await?;
    let device = disk_device_name(number);
    let arguments = json!({ "id": device });
    monitor.execute("device_del", arguments).await?;
    // QEMU answers before it has let go of what is behind the device.
    tokio::time::timeout(LET_GO, monitor.deleted(&device)).await??;
    let node = json!({ "node-name": disk_name(number) });
    monitor.execute("blockdev-del", node).await?;
    monitor.remove(DescriptorSet::Disk(number)).await
}

fn number(slot: Slot) -> io::Result<usize> {
    slot.disk_number()
        .ok_or_else(|| io::Error::other("the slot is not one of disks"))
}

/// What QEMU reads a disk with.
fn driver(file: &File) -> io::Result<&'static str> {
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_block_device() {
        "host_device"
    } else {
        "file"
    })
}
