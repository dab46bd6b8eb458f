//! Leaving a snapshot of a machine that runs, and goes on.
//!
//! QEMU neither saves nor loads the state of a machine with a device that another process
//! serves. The agent lets go of the vsock device first, so that it can be unplugged; a
//! new one, with a process of its own, is plugged in when the state is on the disk.
//!
//! The memory of a fork is its template's, but for the pages that it has written. QEMU
//! would write all of it into the state, from where each copy had to read it. It is
//! written to a file instead, which copies map as they map a template's, and
//! `xen-save-devices-state` writes the state of all else.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::arguments::{VSOCK, vsock_device};
use super::driver::Driver;
use super::interface::Interface;
use super::machine::Machine;
use super::monitor::Monitor;
use super::share::{self, Attached};
use super::{Qemu, file, fork, jail, memory, read, slot};
use crate::device::{self, Device, Guest};
use crate::template::{MEMORY, STATE, copy_written};
use crate::{Error, Result, VmConfig, WhileStill};

/// Name of the file with what the machine had, of a snapshot.
const DEVICES: &str = "devices.json";

/// How long the agent may take to let go of the vsock device, and QEMU to unplug it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Number of QEMU's set of descriptors with the file of the state. Those of disks are
/// counted from 0.
const STATE_SET: u32 = 100;

/// What of a machine is in its state, and what it takes to make a snapshot of it.
pub(super) struct Forked {
    /// Makes a vsock device.
    pub(super) qemu: Qemu,
    /// The memory that the machine began with.
    pub(super) memory: File,
    /// Whether what the guest has written is in QEMU alone; else it is in the file.
    pub(super) is_private: bool,
    pub(super) share: Option<Attached>,
    pub(super) run_directory: PathBuf,
    pub(super) guest: Guest,
    pub(super) disks: usize,
}

/// Devices whose state is in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Devices {
    pub(super) disks: usize,
    /// What the guest was promised of its network interfaces, by their slots.
    pub(super) interfaces: Vec<Option<Interface>>,
    /// How the guest's driver uses the file system device, if it has one.
    pub(super) share: Option<Driver>,
}

impl Devices {
    /// Those of a snapshot; none for a template.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        read(&directory.join(DEVICES))
    }

    /// Whether a machine can begin with this state.
    pub(super) fn check(&self, config: &VmConfig) -> Result<()> {
        let unsupported = |what| Error::Unsupported {
            driver: "qemu",
            what,
        };
        if self.disks != config.disks.len() {
            return Err(unsupported("copy a snapshot with another number of disks"));
        }
        if self.share.is_some() != config.share.is_some() {
            return Err(unsupported(
                "copy a snapshot with a share of the host into a machine without, or the reverse",
            ));
        }
        Ok(())
    }
}

/// See [`crate::RunningVm::snapshot`].
pub(super) async fn snapshot(machine: &Machine, directory: &Path, still: WhileStill) -> Result<()> {
    let Some(forked) = &machine.forked else {
        return Err(Error::Unsupported {
            driver: "qemu",
            what: "leave a snapshot of a machine that has booted; it must be a fork of a template",
        });
    };
    let failed = |doing: &'static str| {
        move |error: io::Error| Error::Process {
            program: "QEMU".to_owned(),
            doing,
            detail: error.to_string(),
        }
    };
    // One at a time.
    let mut taken = machine.snapshots.lock().await;
    let let_go = machine.console.has_let_go(*taken + 1);
    tokio::select! {
        waited = tokio::time::timeout(DEADLINE, let_go) => waited.map_err(|_| Error::Process {
            program: "the agent".to_owned(),
            doing: "letting go of the vsock device",
            detail: format!("it did not within {} s", DEADLINE.as_secs()),
        })?,
        _ = machine.end() => return Err(Error::Ended),
    }
    *taken += 1;
    let mut monitor = machine.monitor.lock().await;
    // Its end is no longer that of the machine.
    let retired = machine.retire(device::VSOCK).await?;
    let unplugged = async {
        let device = json!({ "id": VSOCK });
        monitor.execute("device_del", device.clone()).await?;
        monitor.deleted(VSOCK).await?;
        monitor.execute("chardev-remove", device).await
    };
    tokio::time::timeout(DEADLINE, unplugged)
        .await
        .map_err(io::Error::from)
        .flatten()
        .map_err(failed("unplugging the vsock device"))?;
    if let Some(mut retired) = retired {
        retired.kill().await;
    }
    let written = write(machine, forked, &mut monitor, directory, still).await;
    plug(machine, forked, &mut monitor).await?;
    drop(monitor);
    machine
        .to_guest
        .lock()
        .await
        .write_all(slot::wake_up().as_bytes())
        .await
        .map_err(|_| Error::Ended)?;
    let files = written?;
    // The guest need not stand still for the disk.
    tokio::task::spawn_blocking(move || files.iter().try_for_each(File::sync_all))
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(Error::host("cannot write the snapshot"))
}

/// Stops the machine, writes its state, and lets it go on.
async fn write(
    machine: &Machine,
    forked: &Forked,
    monitor: &mut Monitor,
    directory: &Path,
    still: WhileStill,
) -> Result<Vec<File>> {
    let make = |name: &str| {
        let path = directory.join(name);
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(file(&path))
    };
    // QEMU takes a descriptor only with the very access that it asks for.
    let (memory, state, devices) = (make(MEMORY)?, make(STATE)?, make(DEVICES)?);
    jail::share(&memory)?;
    let pid = forked.is_private.then_some(machine.qemu);
    let (from, to) = (
        forked.memory.try_clone().map_err(Error::host("memory"))?,
        memory.try_clone().map_err(Error::host("memory"))?,
    );
    let host = |error| Error::host("cannot write the snapshot")(error);
    monitor.execute("stop", json!({})).await.map_err(host)?;
    let detached = match &forked.share {
        Some(attached) => share::detach(machine, attached, monitor, directory)
            .await
            .map(Some),
        None => Ok(None),
    };
    let saved = async {
        let Ok(detached) = &detached else {
            return Ok(());
        };
        let known = Devices {
            disks: forked.disks,
            interfaces: machine.promised(),
            share: detached.as_ref().map(|share| share.driver.clone()),
        };
        serde_json::to_writer(&devices, &known)?;
        save(monitor, &state).await?;
        tokio::task::spawn_blocking(move || {
            match pid {
                Some(pid) => memory::copy(pid, &from, &to)?,
                None => {
                    to.set_len(from.metadata()?.len())?;
                    copy_written(&from, &to)?;
                }
            }
            still()
        })
        .await
        .map_err(io::Error::other)?
    };
    let saved = saved.await.map_err(host);
    let detached = detached.map(|share| (share, saved));
    let saved = match detached {
        Ok((share, saved)) => {
            if let Some(share) = share {
                share.attach(machine, forked, monitor).await?;
            }
            saved
        }
        Err(error) => Err(error),
    };
    monitor.execute("cont", json!({})).await.map_err(host)?;
    saved.map(|()| vec![memory, state, devices])
}

/// Has QEMU write the state of all but the memory. A copy will run, though this machine
/// stands still: `xen-save-devices-state` notes it so.
pub(super) async fn save(monitor: &mut Monitor, state: &File) -> io::Result<()> {
    let set = json!({ "fdset-id": STATE_SET });
    monitor.pass("add-fd", set.clone(), state.as_fd()).await?;
    let arguments = json!({ "filename": format!("/dev/fdset/{STATE_SET}"), "live": false });
    let saved = monitor.execute("xen-save-devices-state", arguments).await;
    monitor.execute("remove-fd", set).await?;
    saved.map(drop)
}

/// Plugs a new vsock device in.
async fn plug(machine: &Machine, forked: &Forked, monitor: &mut Monitor) -> Result<()> {
    let (
        Device {
            process,
            connection,
        },
        control,
    ) = device::vsock(
        &forked.qemu.devices_program,
        &forked.run_directory,
        &forked.guest,
        forked.is_private,
        None,
    )?;
    if forked.is_private {
        control
            .give_memory(&fork::process_memory(machine.qemu)?)
            .await?;
    }
    let plugged = async {
        monitor.connect(VSOCK, connection.as_fd()).await?;
        fork::plug(monitor, slot::VSOCK, vsock_device()).await
    };
    let plugged = tokio::time::timeout(DEADLINE, plugged).await;
    plugged
        .map_err(io::Error::from)
        .flatten()
        .map_err(|error| Error::Process {
            program: "QEMU".to_owned(),
            doing: "plugging the vsock device in again",
            detail: error.to_string(),
        })?;
    machine.adopt_vsock(process, control).await
}
