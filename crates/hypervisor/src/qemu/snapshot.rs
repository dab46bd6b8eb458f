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
use super::descriptor_set::DescriptorSet;
use super::driver::Driver;
use super::image::{Copied, ProcessImage};
use super::interface::Interface;
use super::machine::Machine;
use super::monitor::Monitor;
use super::share::{self, Attached};
use super::{Qemu, blocking, fork, jail, make, memory, read, slot, synchronise};
use crate::device::{self, Device, Guest};
use crate::template::{MEMORY, STATE, copy_written};
use crate::{Copies, Error, Result, VmConfig, WhileStill};

/// Name of the file with what the machine had, of a snapshot.
const DEVICES: &str = "devices.json";

/// What is said of a snapshot without a process.
const NO_PROCESS: &str =
    "copies of a snapshot will load its state: no copy of its QEMU can be made";

/// How long the agent may take to let go of the vsock device, and QEMU to unplug it.
const DEADLINE: Duration = Duration::from_secs(30);

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
    /// The process, if it can be written with the machine.
    pub(super) copied: Option<Copied>,
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
pub(super) async fn snapshot(
    machine: &Machine,
    directory: &Path,
    copies: Copies,
    still: WhileStill,
) -> Result<()> {
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
    let unplugged = fork::unplug(&mut monitor, slot::VSOCK, VSOCK);
    tokio::time::timeout(DEADLINE, unplugged)
        .await
        .map_err(io::Error::from)
        .flatten()
        .map_err(failed("unplugging the vsock device"))?;
    if let Some(mut retired) = retired {
        retired.kill().await;
    }
    // What tells a share's device of its rings stays in the process: a copy would have two.
    let can_copy = copies == Copies::OnThisHost && forked.share.is_none();
    let copied = forked.copied.as_ref().filter(|_| can_copy);
    let written = write(machine, forked, &mut monitor, directory, copied, still).await;
    plug(machine, forked, &mut monitor).await?;
    drop(monitor);
    machine
        .to_guest
        .lock()
        .await
        .write_all(slot::wake_up().as_bytes())
        .await
        .map_err(|_| Error::Ended)?;
    let Written { mut files, process } = written?;
    let has_process = process.is_some();
    files.extend(process.into_iter().flatten());
    // The guest need not stand still for the disk, nor for a copy that is tried out.
    synchronise(files, "cannot write the snapshot").await?;
    if has_process && let Err(error) = ProcessImage::prove(&forked.qemu, directory).await {
        tracing::warn!(%error, "{NO_PROCESS}");
        ProcessImage::remove(directory)?;
    }
    Ok(())
}

/// The files of a snapshot.
struct Written {
    files: Vec<File>,
    /// Those of the process.
    process: Option<Vec<File>>,
}

/// Stops the machine, writes its state, and lets it go on.
async fn write(
    machine: &Machine,
    forked: &Forked,
    monitor: &mut Monitor,
    directory: &Path,
    copied: Option<&Copied>,
    still: WhileStill,
) -> Result<Written> {
    let make = |name| make(&directory.join(name), false);
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
            return Ok(None);
        };
        let known = Devices {
            disks: forked.disks,
            interfaces: machine.promised(),
            share: detached.as_ref().map(|share| share.driver.clone()),
        };
        serde_json::to_writer(&devices, &known)?;
        let process = process(machine, forked, directory, copied);
        let memory = blocking(move || match pid {
            Some(pid) => memory::copy(pid, &from, &to),
            None => {
                to.set_len(from.metadata()?.len())?;
                copy_written(&from, &to)
            }
        });
        let (process, memory) = tokio::join!(process, memory);
        memory?;
        // A process that is written has no file open that its copies would not be given.
        save(monitor, &state).await?;
        blocking(still).await?;
        Ok(process)
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
    // While its machine stands still, QEMU keeps the file open all the same: the process could
    // not be written another time.
    let closed = monitor.remove(DescriptorSet::State).await;
    let saved = saved.and_then(|process| closed.map(|()| process).map_err(host));
    saved.map(|process| Written {
        files: vec![memory, state, devices],
        process,
    })
}

/// Writes the process of a machine that stands still, if it can be. Nothing is left of it else.
async fn process(
    machine: &Machine,
    forked: &Forked,
    directory: &Path,
    copied: Option<&Copied>,
) -> Option<Vec<File>> {
    let written = copied?.write(&forked.qemu, machine.qemu, directory).await;
    match written {
        Ok(files) => Some(files),
        Err(error) => {
            tracing::info!(%error, "{NO_PROCESS}");
            if let Err(error) = ProcessImage::remove(directory) {
                tracing::warn!(%error, "what was written of QEMU's process stays");
            }
            None
        }
    }
}

/// Has QEMU write the state of all but the memory. A copy will run, though this machine
/// stands still: `xen-save-devices-state` notes it so. QEMU has the file open, in its set,
/// until that is removed while the machine runs.
pub(super) async fn save(monitor: &mut Monitor, state: &File) -> io::Result<()> {
    monitor.add(DescriptorSet::State, state.as_fd()).await?;
    let arguments = json!({ "filename": DescriptorSet::State.path(), "live": false });
    let saved = monitor.execute("xen-save-devices-state", arguments).await;
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
