//! QEMU's own process, frozen with the machine of a template.
//!
//! A fork that begins with the machine's state needs a QEMU that starts, makes the same
//! machine, loads the state, and translates all that the guest executes. One that begins as
//! a copy of the template's QEMU has all that, translated code with it. It is given its own
//! of what the template's was given, under the same numbers: the ends of its sockets, its
//! disks, its memory.
//!
//! Of such a copy, in turn, copies can be made, with a snapshot of its machine. It has network
//! interfaces then, which may be in the middle of a frame: a guest lets go of them as it
//! wakes up.
//!
//! That is for TCG alone: a machine of the kernel's (KVM) cannot be copied with the process.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::jail::{self, Beginning};
use super::monitor::Monitor;
use super::{Qemu, file, freeze, interface, make, open, pair, read, synchronise};
use crate::process::{Descriptors, Process};
use crate::template::{FileIdentity, GIVEN, MEMORY, PAGES, PROCESS};
use crate::{Error, Result, VmConfig};

/// What one of QEMU's descriptors is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Console,
    Monitor,
    Kernel,
    Initramfs,
    Memory,
    /// Of a disk, by its number.
    Disk(usize),
    /// The frames of a network interface, by its number.
    Network(usize),
    /// The frames of one that the guest of a copy lets go of.
    Nowhere,
    /// A tap of such a one.
    DeadEnd,
}

/// How long a copy may take to say how its machine is, and a fork to have its machine go on.
/// That is tenths of a second; a host may be busy.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// How long a process may take to be written: a machine stands still meanwhile.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// What tells a file or a socket from every other: device and inode.
type Identity = (u64, u64);

/// What a template's QEMU is given, to be found again among its descriptors.
#[derive(Debug, Default)]
pub(super) struct Roles(Vec<(Role, Identity)>);

impl Roles {
    /// Notes what a descriptor that is about to be given is for.
    pub(super) fn note(&mut self, role: Role, descriptor: impl AsFd) -> Result<()> {
        let status = rustix::fs::fstat(descriptor)
            .map_err(|error| Error::host("cannot look at a descriptor")(error.into()))?;
        self.0.push((role, (status.st_dev, status.st_ino)));
        Ok(())
    }

    /// The numbers under which a process has them. The process may have network interfaces
    /// besides, if `interfaces` says so.
    fn numbers(&self, process: u32, interfaces: bool) -> io::Result<Vec<(i32, Role)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
            let entry = entry?;
            let looked = std::fs::metadata(entry.path())
                .and_then(|file| Ok((file, std::fs::read_link(entry.path())?)));
            let (file, link) = match looked {
                // It has been closed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                looked => looked?,
            };
            let identity = (file.dev(), file.ino());
            let known = self.0.iter().find(|(_, known)| *known == identity);
            let role = match known {
                Some((role, _)) => Some(*role),
                None if interfaces => frames(&link),
                None => None,
            };
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let (Some(role), Some(number)) = (role, number) {
                found.push((number, role));
            }
        }
        found.sort_by_key(|(number, _)| *number);
        Ok(found)
    }
}

/// What leads to a network, and what of it a copy is given.
fn frames(link: &Path) -> Option<Role> {
    let link = link.to_str()?;
    match link {
        "/dev/net/tun" => Some(Role::DeadEnd),
        _ => link.starts_with("socket:").then_some(Role::Nowhere),
    }
}

/// A QEMU that began as a copy of another one, and can be written for that.
#[derive(Debug)]
pub(super) struct Copied {
    roles: Roles,
    pages: File,
}

impl Copied {
    /// Writes it for a snapshot, when its machine stands still. Returns the files.
    pub(super) async fn write(
        &self,
        qemu: &Qemu,
        process: u32,
        directory: &Path,
    ) -> Result<Vec<File>> {
        let given = self.roles.numbers(process, true);
        ProcessImage::write(qemu, process, given, Some(&self.pages), directory).await
    }
}

/// A process that forks of a template begin as copies of.
#[derive(Debug)]
pub(super) struct ProcessImage {
    /// What a copy is given, by the numbers.
    given: Vec<(i32, Role)>,
    /// The file that says so, to tell it from another template's.
    identity: FileIdentity,
    process: File,
    pages: File,
}

impl ProcessImage {
    /// That of a template; none if it has none, or somebody is removing it.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(GIVEN);
        let Some(given) = read(&path)? else {
            return Ok(None);
        };
        let open = || -> io::Result<Self> {
            Ok(Self {
                given,
                identity: FileIdentity::of(&path)?,
                process: File::open(directory.join(PROCESS))?,
                pages: File::open(directory.join(PAGES))?,
            })
        };
        match open() {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file(directory)(error)),
        }
    }

    /// Removes it from its folder, unless that has been done already. A template is made anew
    /// then; copies of a snapshot load its state.
    pub(super) fn discard(&self, directory: &Path) {
        let is_this = FileIdentity::of(&directory.join(GIVEN)).is_ok_and(|it| it == self.identity);
        if is_this && let Err(error) = Self::remove(directory) {
            tracing::warn!(%error, "a process that cannot be copied stays");
        }
    }

    /// Makes that of a template, whose machine stands still. Whether copies come up on this
    /// host has been seen when this returns; if not, nothing is left of it.
    pub(super) async fn make(
        qemu: &Qemu,
        process: &Process,
        roles: &Roles,
        directory: &Path,
    ) -> Result<()> {
        let made = async {
            let id = process.id().ok_or(Error::Ended)?;
            let given = roles.numbers(id, false);
            let files = Self::write(qemu, id, given, None, directory).await?;
            synchronise(files, "cannot write QEMU's process").await?;
            Self::prove(qemu, directory).await
        };
        let made = made.await;
        if made.is_err() {
            Self::remove(directory)?;
        }
        made
    }

    /// Sees whether copies of the one in a folder come up on this host.
    pub(super) async fn prove(qemu: &Qemu, directory: &Path) -> Result<()> {
        let gone = || file(&directory.join(GIVEN))(io::ErrorKind::NotFound.into());
        let image = Self::read(directory)?.ok_or_else(gone)?;
        image.try_out(qemu, directory).await
    }

    /// Asks a copy how its machine is.
    async fn try_out(&self, qemu: &Qemu, directory: &Path) -> Result<()> {
        let (_console, its_console) = pair()?;
        let (monitor, its_monitor) = pair()?;
        let (_frames, its_frames) = pair()?;
        let (mut copy, _) = self.spawn(qemu, "template", true, None, |role| {
            let socket = match role {
                Role::Console => &its_console,
                Role::Monitor => &its_monitor,
                Role::Network(_) | Role::Nowhere => &its_frames,
                Role::DeadEnd => return interface::dead_end(),
                Role::Memory => return open(&directory.join(MEMORY), true).map(Into::into),
                // What it has mapped of the kernel is for a reset, and its disks for its guest.
                Role::Kernel | Role::Initramfs | Role::Disk(_) => {
                    return open(Path::new("/dev/zero"), true).map(Into::into);
                }
            };
            duplicate(socket)
        })?;
        drop((its_console, its_monitor, its_frames));
        let mut monitor = Monitor::resumed(monitor);
        let asked = monitor.execute("query-status", json!({}));
        let asked = tokio::time::timeout(DEADLINE, asked).await;
        match asked.map_err(io::Error::from).flatten() {
            Ok(_) => {
                copy.kill().await;
                Ok(())
            }
            Err(error) => Err(freeze::failed(copy, "copying its process", error).await),
        }
    }

    /// Writes a process that is given these, and may itself be a copy. Returns the files.
    async fn write(
        qemu: &Qemu,
        process: u32,
        given: io::Result<Vec<(i32, Role)>>,
        origin: Option<&File>,
        directory: &Path,
    ) -> Result<Vec<File>> {
        let given = given.map_err(Error::host("cannot look at QEMU's descriptors"))?;
        let make = |name| make(&directory.join(name), false);
        let (image, pages) = (make(PROCESS)?, make(PAGES)?);
        let mut descriptors = Descriptors::default();
        let mut arguments = vec!["checkpoint".into(), format!("--process={process}").into()];
        let files = [("--image-fd", &image), ("--pages-fd", &pages)];
        arguments.extend(pass(&files, &mut descriptors)?);
        if let Some(origin) = origin {
            arguments.extend(pass(&[("--origin-fd", origin)], &mut descriptors)?);
        }
        let memory = given.iter().find(|(_, role)| *role == Role::Memory);
        arguments.extend(memory.map(|(number, _)| format!("--memory={number}").into()));
        let standard = 0..3;
        let numbers = standard.chain(given.iter().map(|(number, _)| *number));
        arguments.extend(numbers.map(|number| format!("--given={number}").into()));
        let name = "the writer of QEMU's process";
        let program = &qemu.devices_program;
        let mut writer = Process::spawn(name, program, arguments, descriptors, None, &[])?;
        let failed = |detail| Error::Process {
            program: name.to_owned(),
            doing: "freezing QEMU",
            detail,
        };
        let Ok(status) = tokio::time::timeout(WRITE_DEADLINE, writer.wait()).await else {
            writer.kill().await;
            let seconds = WRITE_DEADLINE.as_secs();
            return Err(failed(format!("it was not done within {seconds} s")));
        };
        if !status.success() {
            return Err(failed(writer.obituary(status).await));
        }
        let list = make(GIVEN)?;
        serde_json::to_writer(&list, &given)
            .map_err(|error| file(&directory.join(GIVEN))(error.into()))?;
        Ok(vec![image, pages, list])
    }

    /// Removes what of one is there.
    pub(super) fn remove(directory: &Path) -> Result<()> {
        // Without the first, there is none.
        for name in [GIVEN, PROCESS, PAGES] {
            let path = directory.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file(&path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a copy of this name, which is given what `of` says for each role. What it writes
    /// to the machine's memory is for nobody else if that is `private`. What the copy was given
    /// is told, to be found again.
    pub(super) fn spawn(
        &self,
        qemu: &Qemu,
        name: &str,
        private: bool,
        network_namespace: Option<Arc<OwnedFd>>,
        of: impl Fn(Role) -> Result<OwnedFd>,
    ) -> Result<(Process, Copied)> {
        let mut descriptors = Descriptors::default();
        let mut roles = Roles::default();
        for (number, role) in &self.given {
            let given = of(*role)?;
            // A network's frames are never what they were.
            if !matches!(role, Role::Network(_) | Role::Nowhere | Role::DeadEnd) {
                roles.note(*role, &given)?;
            }
            descriptors.add_as(*number, given);
        }
        let files = [("--image-fd", &self.process), ("--pages-fd", &self.pages)];
        let mut arguments = pass(&files, &mut descriptors)?;
        if private {
            arguments.push("--private".into());
        }
        let beginning = Beginning::Copied {
            of: arguments,
            name: name.to_owned(),
        };
        let process = jail::spawn(qemu, beginning, descriptors, network_namespace)?;
        let pages = self.pages.try_clone();
        let pages = pages.map_err(Error::host("cannot keep the pages of QEMU's process"))?;
        Ok((process, Copied { roles, pages }))
    }
}

/// Gives `caisson-devices` files. Returns the arguments that tell it so.
fn pass(files: &[(&str, &File)], descriptors: &mut Descriptors) -> Result<Vec<OsString>> {
    let mut give = |(flag, file): &(&str, &File)| {
        let number = descriptors.add(duplicate(file)?);
        Ok(format!("{flag}={number}").into())
    };
    files.iter().map(&mut give).collect()
}

/// What a machine has in one of these roles, besides its console and its monitor.
pub(super) fn of_machine(config: &VmConfig, memory: &File, role: Role) -> Result<OwnedFd> {
    let missing = || Error::Unsupported {
        driver: "qemu",
        what: "copy a process that has another number of devices",
    };
    match role {
        Role::Console | Role::Monitor | Role::Nowhere => Err(missing()),
        Role::DeadEnd => interface::dead_end(),
        Role::Kernel => jail::open_for_all(&config.kernel).map(Into::into),
        Role::Initramfs => jail::open_for_all(&config.initramfs).map(Into::into),
        Role::Memory => duplicate(memory),
        Role::Disk(number) => {
            let disk = config.disks.get(number).ok_or_else(missing)?;
            open(&disk.path, disk.read_only).map(Into::into)
        }
        Role::Network(number) => {
            let interface = config.interfaces.get(number).ok_or_else(missing)?;
            duplicate(interface.backend.descriptor())
        }
    }
}

/// Another descriptor of the same.
pub(super) fn duplicate(descriptor: impl AsFd) -> Result<OwnedFd> {
    let copy = descriptor.as_fd().try_clone_to_owned();
    copy.map_err(Error::host("cannot duplicate a descriptor"))
}
