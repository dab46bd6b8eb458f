//! Starting in the middle: a machine that continues where its template stopped.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::arguments::{Begin, SHARE, VSOCK, approve, netdev, network_device, vhost_user_devices};
use super::descriptor_set::DescriptorSet;
use super::freeze;
use super::image::{self, ProcessImage};
use super::interface::Renewal;
use super::machine::{Machine, Parts};
use super::medium;
use super::monitor::Monitor;
use super::share::{self, Attached};
use super::slot::{self, Slot};
use super::snapshot::{Devices, Forked};
use super::sockets::Sockets;
use super::{Connections, Qemu, blocking, file, guest, open};
use crate::template::{DISK, MEMORY, STATE, Template, copy_written};
use crate::{Error, NetworkInterface, OpenDisk, Result, VmConfig};

/// The memory that a fork begins with.
enum Memory {
    /// The template's own: QEMU copies what its guest writes to, page by page.
    Template(File),
    /// A copy that device processes can share.
    Copy { template: File, copy: File },
}

/// Where the state of a machine is.
enum State {
    /// In a file, which QEMU has under this number.
    Load(i32),
    /// In QEMU, which is the copy of another one. It is not connected to its devices.
    There(Connections),
}

/// Forks a template, or copies a snapshot. The machine runs when this returns; the agent of
/// a copy has been told to go on.
pub(super) async fn fork(qemu: &Qemu, template: &Template, config: &VmConfig) -> Result<Machine> {
    let image = match qemu.process_copies && template.has_process {
        true => ProcessImage::read(&template.directory)?,
        false => None,
    };
    let Some(image) = image else {
        return begin(qemu, template, config, None).await;
    };
    let copy = begin(qemu, template, config, Some(&image));
    let begun = tokio::time::timeout(image::DEADLINE, copy).await;
    let error = match begun {
        Ok(Err(error @ Error::Process { .. })) => error.to_string(),
        Err(_) => format!("it was not there within {} s", image::DEADLINE.as_secs()),
        // Whatever else fails would fail again.
        Ok(begun) => return begun,
    };
    tracing::warn!(error, "no copy of QEMU's process came up; it is removed");
    let machine = begin(qemu, template, config, None).await?;
    image.discard(&template.directory);
    Ok(machine)
}

/// As [`fork`], with a QEMU that is executed or the copy of another.
async fn begin(
    qemu: &Qemu,
    template: &Template,
    config: &VmConfig,
    image: Option<&ProcessImage>,
) -> Result<Machine> {
    // The file system device maps the memory, which must then be this machine's own. The
    // vsock device can do without.
    let private = config.share.is_none();
    let known = Devices::read(&template.directory)?;
    if let Some(known) = &known {
        known.check(config)?;
    }
    let mounted = config.new_disk().map(|_| template.directory.join(DISK));
    medium::make_new(config, mounted.as_deref())?;
    let memory = memory(&template.directory.join(MEMORY), private)?;
    let driver = known.as_ref().and_then(|known| known.share.clone());
    let files = match driver {
        Some(_) => Some(share::files(&template.directory)?),
        None => None,
    };
    let sockets = Sockets::read(&template.directory)?;
    let guest = match &sockets {
        Some(sockets) => sockets.guest(config),
        None => guest(config),
    };
    let connections = sockets.as_ref().map(Sockets::state).transpose()?;
    let devices = qemu.devices(config, &guest, private, connections, files)?;
    let own_memory = match &memory {
        Memory::Template(memory) => memory,
        Memory::Copy { copy, .. } => copy,
    };
    let (mut parts, state, copied) = match image {
        Some(image) => {
            let renewal = match &known {
                Some(known) => Renewal::copied(config, &known.interfaces),
                None => Renewal::none(config),
            };
            let (parts, connections, copied) =
                qemu.copy(config, devices, image, own_memory, private, renewal)?;
            (parts, State::There(connections), Some(copied))
        }
        None => {
            let state = open(&template.directory.join(STATE), true)?;
            let renewal = match &known {
                Some(known) => Renewal::plan(config, &known.interfaces)?,
                None => Renewal::none(config),
            };
            let mut state_number = 0;
            let parts = qemu.start(config, devices, renewal, |descriptors| {
                state_number = descriptors.add(state);
                let memory = own_memory
                    .try_clone()
                    .map_err(Error::host("cannot pass the memory on"))?;
                Ok(Begin::Fork {
                    memory: descriptors.add(memory),
                    private,
                })
            })?;
            (parts, State::Load(state_number), None)
        }
    };
    let memory = match memory {
        Memory::Template(memory) => memory,
        // While QEMU makes its machine.
        Memory::Copy { template, copy } => {
            let begun = copy.try_clone().map_err(Error::host("memory"))?;
            blocking(move || copy_written(&template, &copy))
                .await
                .map_err(Error::host("cannot copy the template's memory"))?;
            begun
        }
    };
    if let (Some(files), Some(_)) = (&mut parts.files, &driver) {
        files.loaded().await?;
    }
    let resumed = async {
        let runs = matches!(state, State::Load(_));
        match state {
            State::Load(number) => resume(&mut parts, number, config, private).await?,
            State::There(connections) => {
                connect(&mut parts, connections, config, private).await?;
                match &known {
                    Some(known) => plug_new_networks(&mut parts, known, config).await?,
                    None => plug_missing(&mut parts, config).await?,
                }
            }
        }
        if let Some(sockets) = &sockets {
            sockets.tell(&mut parts.monitor).await?;
        }
        if let Some(driver) = &driver {
            driver.tell(&mut parts.monitor, slot::SHARE).await?;
        }
        if !runs {
            parts.monitor.execute("cont", json!({})).await?;
        }
        Ok(())
    };
    if let Err(error) = resumed.await {
        return Err(freeze::failed(parts.qemu, "continuing from the template", error).await);
    }
    let files = parts.files.take();
    parts.forked = Some(Forked {
        qemu: qemu.clone(),
        memory,
        is_private: private,
        share: config.share.clone().map(|share| Attached {
            share,
            state: tokio::sync::Mutex::new(files),
        }),
        run_directory: config.run_directory.clone(),
        guest,
        disks: config.disks.len(),
        copied,
    });
    match &known {
        None => parts.new_devices = slot::new(config),
        Some(known) => {
            let gone = parts.renewal.stand_ins.iter().map(|stand_in| stand_in.slot);
            let line = slot::wake_up_copy(config, &known.interfaces, gone);
            let told = parts.to_guest.write_all(line.as_bytes()).await;
            told.map_err(|_| Error::Ended)?;
        }
    }
    Ok(Machine::start(parts))
}

fn memory(path: &Path, private: bool) -> Result<Memory> {
    // QEMU opens it for reading and writing; it writes to its own copies.
    let template = open(path, true)?;
    if private {
        return Ok(Memory::Template(template));
    }
    let make = || {
        let copy = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)?);
        copy.set_len(template.metadata()?.len())?;
        Ok(copy)
    };
    let copy = make().map_err(Error::host("cannot make the machine's memory"))?;
    Ok(Memory::Copy { template, copy })
}

/// Lets the vsock device reach the memory of QEMU, which must have been executed.
async fn give_memory(parts: &Parts) -> Result<()> {
    let pid = parts.qemu.id().ok_or(Error::Ended)?;
    parts.control.give_memory(&process_memory(pid)?).await
}

/// The memory of a process, to be read and written.
pub(super) fn process_memory(pid: u32) -> Result<File> {
    let path = format!("/proc/{pid}/mem");
    File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(file(Path::new(&path)))
}

/// Connects a copy of a QEMU to its device processes. The CPUs stand still.
async fn connect(
    parts: &mut Parts,
    connections: Connections,
    config: &VmConfig,
    foreign_memory: bool,
) -> io::Result<()> {
    let monitor = &mut parts.monitor;
    monitor.connect(VSOCK, connections.vsock.as_fd()).await?;
    if let Some(share) = &connections.share {
        monitor.connect(SHARE, share.as_fd()).await?;
    }
    // It has answered: its memory is that of the copy.
    if foreign_memory {
        give_memory(parts).await.map_err(io::Error::other)?;
    }
    let monitor = &mut parts.monitor;
    for (slot, device) in vhost_user_devices(config) {
        plug(monitor, slot, device).await?;
    }
    Ok(())
}

/// Plugs into a copy of a snapshot's QEMU the interfaces where its guest knows none.
async fn plug_new_networks(
    parts: &mut Parts,
    known: &Devices,
    config: &VmConfig,
) -> io::Result<()> {
    let wanted = config.interfaces.iter().zip(slot::networks()).enumerate();
    for (index, (interface, slot)) in wanted {
        if known.interfaces.get(index).copied().flatten().is_none() {
            plug_network(&mut parts.monitor, interface, slot).await?;
        }
    }
    Ok(())
}

/// Plugs into a copy of a template's QEMU the disks and interfaces that its template has not.
async fn plug_missing(parts: &mut Parts, config: &VmConfig) -> io::Result<()> {
    let monitor = &mut parts.monitor;
    if config.new_disk().is_none() {
        for (disk, slot) in config.disks.iter().zip(slot::disks()) {
            let file = open(&disk.path, disk.read_only).map_err(io::Error::other)?;
            let disk = OpenDisk {
                file: Arc::new(file),
                serial: disk.serial.clone(),
                read_only: disk.read_only,
            };
            super::disk::plug(monitor, &disk, slot).await?;
        }
    }
    if !config.has_plain_network() {
        let mut streams = true;
        for (interface, slot) in config.interfaces.iter().zip(slot::networks()) {
            streams &= interface.is_stream();
            match streams {
                // The template has its other end.
                true => plug(monitor, slot, network_device(interface, slot)).await?,
                false => plug_network(monitor, interface, slot).await?,
            }
        }
    }
    Ok(())
}

/// Plugs a network interface into a machine.
pub(super) async fn plug_network(
    monitor: &mut Monitor,
    interface: &NetworkInterface,
    slot: Slot,
) -> io::Result<()> {
    let descriptor = interface.backend.descriptor();
    // A stream is connected by a thread that asks no monitor for a name. It keeps the descriptor,
    // which must not be taken out of its set again.
    let known_as = match interface.is_stream() {
        true => monitor
            .add(DescriptorSet::Frames, descriptor)
            .await?
            .to_string(),
        false => {
            let name = slot.netdev();
            monitor.give(&name, descriptor).await?;
            name
        }
    };
    let netdev = netdev(interface, slot, &known_as);
    monitor.execute("netdev_add", netdev).await?;
    plug(monitor, slot, network_device(interface, slot)).await
}

/// Loads the state and plugs the other devices in. The CPUs run, but the agent sleeps.
async fn resume(
    parts: &mut Parts,
    state: i32,
    config: &VmConfig,
    foreign_memory: bool,
) -> io::Result<()> {
    let monitor = &mut parts.monitor;
    let arguments = json!({ "uri": format!("fd:{state}") });
    monitor.execute("migrate-incoming", arguments).await?;
    // QEMU has answered: the address space is its own, no longer that of the jail's program.
    if foreign_memory {
        give_memory(parts).await.map_err(io::Error::other)?;
    }
    let monitor = &mut parts.monitor;
    monitor.event("RESUME").await?;
    for (slot, device) in vhost_user_devices(config) {
        plug(monitor, slot, device).await?;
    }
    Ok(())
}

/// Plugs a device into a machine that runs.
pub(super) async fn plug(monitor: &mut Monitor, slot: Slot, device: Value) -> io::Result<()> {
    monitor.execute("qom-set", approve(slot)).await?;
    monitor.execute("device_add", device).await?;
    Ok(())
}

/// Takes a device and its connection, of the same name, away from a machine. Its guest does
/// not learn of it: it stands still, or has let go of the device.
pub(super) async fn unplug(monitor: &mut Monitor, slot: Slot, name: &str) -> io::Result<()> {
    let device = json!({ "id": name });
    monitor.execute("qom-set", approve(slot)).await?;
    monitor.execute("device_del", device.clone()).await?;
    monitor.deleted(name).await?;
    monitor.execute("chardev-remove", device).await.map(drop)
}
