//! Machines made by QEMU: with TCG where there is no KVM that runs a kernel, and
//! with KVM where QEMU is preferred.

mod arguments;
mod console;
mod descriptor_set;
mod disk;
mod driver;
mod fork;
mod freeze;
mod image;
mod interface;
mod jail;
mod machine;
mod medium;
mod memory;
mod monitor;
mod share;
mod slot;
mod snapshot;
mod sockets;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use self::arguments::{Begin, BootFiles, Inherited};
use self::console::Console;
use self::image::{Copied, ProcessImage, Role, Roles};
use self::interface::{Renewal, StandIn};
use self::jail::Beginning;
use self::machine::{Machine, Parts};
use self::monitor::Monitor;
use crate::device::{Control, Device, Guest, State};
use crate::process::{Descriptors, Process};
use crate::template::{Recipe, Template};
use crate::{Error, Hypervisor, Result, RunningVm, VmConfig, device};

/// Who runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The CPU.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// The QEMU driver.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// `qemu-system-x86_64`, version 7.2 or later.
    pub program: PathBuf,
    /// `caisson-devices`.
    pub devices_program: PathBuf,
    /// Who runs the guest's instructions.
    pub accelerator: Accelerator,
    /// Frequency of the host's time stamp counter, kHz, for TCG.
    pub tsc_khz: u32,
    /// Processor and kernel of the host, on which a guest depends with KVM.
    pub processor: String,
    /// Whether forks may begin as copies of their template's QEMU.
    pub process_copies: bool,
}

#[async_trait]
impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn boot(&self, config: &VmConfig) -> Result<Box<dyn RunningVm>> {
        self.check(config)?;
        medium::make_new(config, None)?;
        let devices = self.devices(config, &guest(config), false, None, None)?;
        let renewal = Renewal::none(config);
        let parts = self.start(config, devices, renewal, |descriptors| {
            let files = boot_files(config, descriptors, &mut Roles::default())?;
            Ok(Begin::Boot(files))
        })?;
        Ok(Box::new(Machine::start(parts)))
    }

    fn recipe(&self, config: &VmConfig) -> Result<Recipe> {
        freeze::recipe(self, config)
    }

    async fn make_template(&self, config: &VmConfig, directory: &Path) -> Result<()> {
        self.check(config)?;
        freeze::freeze(self, config, directory).await
    }

    async fn fork(&self, template: &Template, config: &VmConfig) -> Result<Box<dyn RunningVm>> {
        self.check(config)?;
        Ok(Box::new(fork::fork(self, template, config).await?))
    }
}

/// The device processes of a machine.
struct DeviceProcesses {
    vsock: Device,
    control: Control,
    share: Option<(Device, State)>,
}

/// The same, when QEMU is given their connections.
struct ConnectedDevices {
    processes: Vec<Process>,
    control: Control,
    /// What the file system device knows of the guest.
    files: Option<State>,
}

/// QEMU's ends of the connections to its device processes.
struct Connections {
    vsock: std::os::unix::net::UnixStream,
    share: Option<std::os::unix::net::UnixStream>,
}

impl DeviceProcesses {
    fn connections(self) -> (ConnectedDevices, Connections) {
        let (share, files) = self.share.unzip();
        let (share, share_connection) = share
            .map(|device| (device.process, device.connection))
            .unzip();
        let devices = ConnectedDevices {
            processes: std::iter::once(self.vsock.process).chain(share).collect(),
            control: self.control,
            files,
        };
        let connections = Connections {
            vsock: self.vsock.connection,
            share: share_connection,
        };
        (devices, connections)
    }
}

impl ConnectedDevices {
    /// The parts of a machine.
    fn with(
        self,
        config: &VmConfig,
        qemu: Process,
        monitor: Monitor,
        console_stream: UnixStream,
        renewal: Renewal,
    ) -> Result<Parts> {
        let console_file = File::create(&config.console).map_err(file(&config.console))?;
        let console = Console::default();
        let (from_guest, to_guest) = console_stream.into_split();
        let recorder = tokio::spawn(console.clone().record(from_guest, console_file));
        Ok(Parts {
            qemu,
            devices: self.processes,
            control: self.control,
            monitor,
            console,
            recorder,
            to_guest,
            occupied: slot::Occupied::of(config, &renewal.promised),
            renewal,
            host_ports: config.host_ports.clone(),
            files: self.files,
            forked: None,
            new_devices: Vec::new(),
        })
    }
}

impl Qemu {
    /// Whether such a machine can be made at all.
    fn check(&self, config: &VmConfig) -> Result<()> {
        present(
            "qemu-system-x86_64",
            &self.program,
            "install it with `apt-get install qemu-system-x86`",
        )?;
        present(
            "caisson-devices",
            &self.devices_program,
            "it belongs beside the caisson program",
        )?;
        slot::check(config)
    }

    /// Starts the device processes. With `foreign_memory`, the vsock device waits
    /// for a descriptor of the machine's memory. They go on with what others knew.
    fn devices(
        &self,
        config: &VmConfig,
        guest: &Guest,
        foreign_memory: bool,
        sockets: Option<File>,
        files: Option<File>,
    ) -> Result<DeviceProcesses> {
        let (vsock, control) = device::vsock(
            &self.devices_program,
            &config.run_directory,
            guest,
            foreign_memory,
            sockets,
        )?;
        let share = config
            .share
            .as_ref()
            .map(|share| {
                let files = files.map_or_else(State::none, Ok);
                let files = files.map_err(Error::host("cannot make a file for the share"))?;
                device::fs(&self.devices_program, &config.run_directory, share, files)
            })
            .transpose()?;
        Ok(DeviceProcesses {
            vsock,
            control,
            share,
        })
    }

    /// Starts QEMU with its devices, and with stand-ins for network interfaces.
    fn start(
        &self,
        config: &VmConfig,
        devices: DeviceProcesses,
        renewal: Renewal,
        begin: impl FnOnce(&mut Descriptors) -> Result<Begin>,
    ) -> Result<Parts> {
        let (console, qemu_console) = pair()?;
        let (monitor, qemu_monitor) = pair()?;
        let (devices, connections) = devices.connections();
        let mut descriptors = Descriptors::default();
        let inherited = Inherited {
            console: descriptors.add(qemu_console),
            monitor: descriptors.add(qemu_monitor),
            begin: begin(&mut descriptors)?,
            disks: medium::all(config, &mut descriptors)?,
            stand_ins: stand_ins(&renewal, &mut descriptors)?,
            devices: arguments::Devices {
                vsock: descriptors.add(connections.vsock),
                share: connections
                    .share
                    .map(|connection| descriptors.add(connection)),
                networks: networks(config, &mut descriptors)?,
            },
        };
        let arguments = arguments::arguments(config, self.accelerator, self.tsc_khz, &inherited);
        let namespace = config.network_namespace.clone();
        let qemu = jail::spawn(self, Beginning::Executed(arguments), descriptors, namespace)?;
        let monitor = Monitor::new(monitor);
        devices.with(config, qemu, monitor, console, renewal)
    }

    /// Starts a copy of a template's QEMU, or a snapshot's, which has neither connections to
    /// devices nor interfaces that the other has not.
    fn copy(
        &self,
        config: &VmConfig,
        devices: DeviceProcesses,
        image: &ProcessImage,
        memory: &File,
        private: bool,
        mut renewal: Renewal,
    ) -> Result<(Parts, Connections, Copied)> {
        let (console, qemu_console) = pair()?;
        let (monitor, qemu_monitor) = pair()?;
        let (other, nowhere) = pair()?;
        let namespace = config.network_namespace.clone();
        let spawned = image.spawn(self, &config.name, private, namespace, |role| match role {
            Role::Console => image::duplicate(&qemu_console),
            Role::Monitor => image::duplicate(&qemu_monitor),
            Role::Nowhere => image::duplicate(&nowhere),
            role => image::of_machine(config, memory, role),
        });
        let (qemu, copied) = spawned?;
        renewal.nowhere = Some(other);
        let (devices, connections) = devices.connections();
        let monitor = Monitor::resumed(monitor);
        let parts = devices.with(config, qemu, monitor, console, renewal)?;
        Ok((parts, connections, copied))
    }
}

/// Who the socket device of a machine serves.
fn guest(config: &VmConfig) -> Guest {
    Guest {
        cid: config.cid,
        host_ports: config.host_ports.clone(),
    }
}

fn boot_files(
    config: &VmConfig,
    descriptors: &mut Descriptors,
    roles: &mut Roles,
) -> Result<BootFiles> {
    let mut open = |role, path| {
        let file = jail::open_for_all(path)?;
        roles.note(role, &file)?;
        Ok(descriptors.add(file))
    };
    Ok(BootFiles {
        kernel: open(Role::Kernel, &config.kernel)?,
        initramfs: open(Role::Initramfs, &config.initramfs)?,
    })
}

fn networks(config: &VmConfig, descriptors: &mut Descriptors) -> Result<Vec<i32>> {
    let interfaces = config.interfaces.iter();
    interfaces
        .map(|interface| {
            let copy = interface.backend.descriptor().try_clone_to_owned()?;
            Ok(descriptors.add(copy))
        })
        .collect::<std::io::Result<_>>()
        .map_err(Error::host("cannot pass a network interface on"))
}

fn stand_ins(renewal: &Renewal, descriptors: &mut Descriptors) -> Result<Vec<StandIn<i32>>> {
    let mut copy = |stand_in: &StandIn<OwnedFd>| {
        let tap = stand_in.tap.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(StandIn {
            slot: stand_in.slot,
            tap: tap.map(|tap| descriptors.add(tap)),
        })
    };
    let stand_ins = renewal.stand_ins.iter();
    stand_ins
        .map(&mut copy)
        .collect::<std::io::Result<_>>()
        .map_err(Error::host("cannot pass a network interface on"))
}

fn open(path: &Path, read_only: bool) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .map_err(file(path))
}

/// Makes a file, to be written and perhaps read. What is in it, of a guest or of QEMU, is
/// nobody else's business.
fn make(path: &Path, readable: bool) -> Result<File> {
    OpenOptions::new()
        .read(readable)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(file(path))
}

/// What a file says in JSON; none if there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file(path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| file(path)(error.into()))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    |source| Error::File {
        path: path.to_owned(),
        source,
    }
}

/// Waits until files are on the disk.
async fn synchronise(files: Vec<File>, failed: &'static str) -> Result<()> {
    let done = blocking(move || files.iter().try_for_each(File::sync_all)).await;
    done.map_err(Error::host(failed))
}

/// Waits for work of the file system's.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other).flatten()
}

/// A connection to QEMU: our end and its end.
fn pair() -> Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let make = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    };
    make().map_err(|source| Error::Host {
        doing: "cannot make a socket pair".to_owned(),
        source,
    })
}

fn present(name: &str, program: &Path, remedy: &str) -> Result<()> {
    if program.exists() {
        return Ok(());
    }
    Err(Error::ProgramMissing {
        program: name.to_owned(),
        searched: program.display().to_string(),
        remedy: remedy.to_owned(),
    })
}
