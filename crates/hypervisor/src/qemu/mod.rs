//! Machines made by QEMU: with TCG where there is no KVM that runs a kernel, and
//! with KVM where QEMU is preferred.

mod arguments;
mod console;
mod machine;
mod monitor;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::net::UnixStream;

use self::arguments::Inherited;
use self::console::Console;
use self::machine::{Machine, Parts};
use self::monitor::Monitor;
use crate::process::{Descriptors, Process};
use crate::{Error, Hypervisor, Result, RunningVm, Template, VmConfig, device};

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
}

#[async_trait]
impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn boot(&self, config: &VmConfig) -> Result<Box<dyn RunningVm>> {
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
        if !config.interfaces.is_empty() {
            return Err(Error::Unsupported {
                driver: "qemu",
                what: "attach network interfaces yet",
            });
        }

        let (vsock, control) = device::vsock(
            &self.devices_program,
            &config.run_directory,
            config.cid,
            &config.host_ports,
        )?;
        let share = config
            .share
            .as_ref()
            .map(|share| device::fs(&self.devices_program, &config.run_directory, share))
            .transpose()?;
        let (share, share_connection) = share
            .map(|device| (device.process, device.connection))
            .unzip();

        let (console_stream, qemu_console) = pair()?;
        let (monitor, qemu_monitor) = pair()?;
        let console_file = File::create(&config.console).map_err(file(&config.console))?;

        let mut descriptors = Descriptors::default();
        let inherited = Inherited {
            console: descriptors.add(qemu_console),
            monitor: descriptors.add(qemu_monitor),
            vsock: descriptors.add(vsock.connection),
            share: share_connection.map(|connection| descriptors.add(connection)),
            disks: disks(config, &mut descriptors)?,
            kernel: descriptors.add(open(&config.kernel, true)?),
            initramfs: descriptors.add(open(&config.initramfs, true)?),
        };
        let arguments = arguments::arguments(config, self.accelerator, self.tsc_khz, &inherited);
        let qemu = Process::spawn("QEMU", &self.program, arguments, descriptors)?;

        let console = Console::default();
        let recorder = tokio::spawn(console.clone().record(console_stream, console_file));
        Ok(Box::new(Machine::start(Parts {
            qemu,
            devices: std::iter::once(vsock.process).chain(share).collect(),
            control,
            monitor: Monitor::new(monitor),
            console,
            recorder,
            host_ports: config.host_ports.clone(),
        })))
    }

    async fn fork(&self, _: &Template, _: &VmConfig) -> Result<Box<dyn RunningVm>> {
        Err(Error::Unsupported {
            driver: "qemu",
            what: "fork a machine from a template yet",
        })
    }
}

fn disks(config: &VmConfig, descriptors: &mut Descriptors) -> Result<Vec<i32>> {
    let open = |disk: &crate::Disk| open(&disk.path, disk.read_only);
    config
        .disks
        .iter()
        .map(|disk| open(disk).map(|file| descriptors.add(file)))
        .collect()
}

fn open(path: &Path, read_only: bool) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    |source| Error::File {
        path: path.to_owned(),
        source,
    }
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
