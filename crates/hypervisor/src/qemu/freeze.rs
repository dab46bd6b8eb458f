//! Making a template: a machine with at most disks boots, its agent calls, rehearses and is
//! called, and its memory and state stay in files, with the process that ran it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use caisson_protocol::LOG_PORT;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::arguments::{self, Begin, BootFiles, Inherited};
use super::console::Console;
use super::image::{ProcessImage, Role, Roles};
use super::jail::Beginning;
use super::monitor::Monitor;
use super::slot;
use super::snapshot;
use super::sockets::{self, Sockets};
use super::{
    Accelerator, Qemu, boot_files, file, guest, jail, make, medium, networks, pair, synchronise,
};
use crate::device::{self, Control};
use crate::process::{Descriptors, Process};
use crate::template::{self, FileIdentity, LOG_LIMIT, MEMORY, Recipe, STATE, TEMPLATE_MAC};
use crate::{Error, NetworkBackend, NetworkInterface, Ports, Result, VmConfig};

/// Changes whenever a template is made or used in another way.
const RECIPE: u32 = 8;

/// Most bytes that a guest may say before it is ready.
const CONSOLE_LIMIT: usize = 1 << 20;

/// Address of a template's guest: the first that is a guest's (virtio 1.2, 5.10.4).
const GUEST: u64 = 3;

/// What the guest has put off until it is idle is done once, not in each fork.
const SETTLE: Duration = Duration::from_millis(100);

/// What is said of a template that has no process.
const NO_COPIES: &str = "forks of a template will load its state: no copy of its QEMU can be made";

/// How often that is waited for: half a minute, as a host may be busy with other machines.
const SETTLE_ATTEMPTS: u32 = 300;

/// What a template for such machines depends on.
pub(super) fn recipe(qemu: &Qemu, config: &VmConfig) -> Result<Recipe> {
    slot::check(config)?;
    // The frequency is measured anew with each boot of the host. A difference of less
    // than a thousandth is noise.
    let tsc_khz = qemu.tsc_khz / 1000 * 1000;
    let Model { config: model, .. } = Model::of(config)?;
    let inherited = Inherited {
        console: 0,
        monitor: 0,
        begin: Begin::Template {
            files: BootFiles {
                kernel: 0,
                initramfs: 0,
            },
            memory: 0,
        },
        disks: vec![0; model.disks.len()],
        stand_ins: Vec::new(),
        devices: devices(0, vec![0; model.interfaces.len()]),
    };
    let arguments = arguments::arguments(&model, qemu.accelerator, tsc_khz, &inherited);
    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .collect();
    let mut recipe = Recipe::new("qemu", config);
    recipe.add("recipe", RECIPE);
    // What `-cpu max` is under TCG depends on QEMU alone; `-cpu host` is the host's.
    recipe.add("arguments", arguments.join(" "));
    if qemu.accelerator == Accelerator::Kvm {
        recipe.add("processor", &qemu.processor);
    }
    let files = [
        ("program", &qemu.program),
        ("kernel", &config.kernel),
        ("initramfs", &config.initramfs),
    ];
    let new_disk = model.new_disk().and_then(|disk| disk.new.as_ref());
    let new_disk = new_disk.map(|empty| ("new disk", empty));
    for (name, path) in files.into_iter().chain(new_disk) {
        recipe.add(name, FileIdentity::of(path).map_err(file(path))?);
    }
    Ok(recipe)
}

/// The machine that becomes a template: whatever is one sandbox's own is left out. Of
/// its disks, it has the places and a new file system; of streams of frames, QEMU's ends.
struct Model {
    config: VmConfig,
    /// Where the streams lead: nobody reads or writes there.
    _nowhere: Vec<UnixStream>,
}

impl Model {
    fn of(config: &VmConfig) -> Result<Self> {
        let disks = match config.new_disk() {
            Some(_) => config.disks.clone(),
            None => Vec::new(),
        };
        let mut nowhere = Vec::new();
        let mut interfaces = Vec::new();
        // What can come later does (see `netdev`). Nobody has a stream after a tap.
        let streams = config.interfaces.iter();
        for _ in streams.take_while(|interface| interface.is_stream()) {
            let (frames, other) =
                UnixStream::pair().map_err(Error::host("cannot make a socket pair"))?;
            nowhere.push(other);
            interfaces.push(NetworkInterface {
                mac: TEMPLATE_MAC,
                backend: NetworkBackend::Stream(Arc::new(frames.into())),
            });
        }
        let config = VmConfig {
            name: "template".to_owned(),
            disks,
            share: None,
            interfaces,
            network_namespace: None,
            host_ports: vec![LOG_PORT],
            cid: GUEST,
            ..config.clone()
        };
        Ok(Self {
            config,
            _nowhere: nowhere,
        })
    }
}

/// The only device that another process serves, and where frames go.
fn devices(vsock: i32, networks: Vec<i32>) -> arguments::Devices {
    arguments::Devices {
        vsock,
        share: None,
        networks,
    }
}

/// Makes a template's files in `directory`.
pub(super) async fn freeze(qemu: &Qemu, config: &VmConfig, directory: &Path) -> Result<()> {
    let model = Model::of(config)?;
    let config = &model.config;
    let make = |name, readable| make(&directory.join(name), readable);
    // QEMU takes a descriptor of a state only with the very access that it asks for.
    let (memory, state) = (make(MEMORY, true)?, make(STATE, false)?);
    jail::share(&memory)?;
    memory
        .set_len(config.memory.next_multiple_of(1 << 20))
        .map_err(file(&directory.join(MEMORY)))?;

    let (mut console, qemu_console) = pair()?;
    let (monitor, qemu_monitor) = pair()?;
    let sockets = sockets::state().map_err(Error::host("cannot make a file"))?;
    let given = sockets
        .try_clone()
        .map_err(Error::host("cannot pass a file on"))?;
    let (vsock, control) = device::vsock(
        &qemu.devices_program,
        directory,
        &guest(config),
        false,
        Some(given),
    )?;
    let mut descriptors = Descriptors::default();
    let mut roles = Roles::default();
    roles.note(Role::Console, &qemu_console)?;
    roles.note(Role::Monitor, &qemu_monitor)?;
    roles.note(Role::Memory, &memory)?;
    let (disks, disk) = medium::template(config, directory, &mut descriptors, &mut roles)?;
    for (number, interface) in config.interfaces.iter().enumerate() {
        roles.note(Role::Network(number), interface.backend.descriptor())?;
    }
    let files = boot_files(config, &mut descriptors, &mut roles)?;
    let inherited = Inherited {
        console: descriptors.add(qemu_console),
        monitor: descriptors.add(qemu_monitor),
        begin: Begin::Template {
            files,
            memory: descriptors.add(
                memory
                    .try_clone()
                    .map_err(Error::host("cannot pass the memory on"))?,
            ),
        },
        disks,
        stand_ins: Vec::new(),
        devices: devices(
            descriptors.add(vsock.connection),
            networks(config, &mut descriptors)?,
        ),
    };
    let arguments = arguments::arguments(config, qemu.accelerator, qemu.tsc_khz, &inherited);
    let mut process = jail::spawn(qemu, Beginning::Template(arguments), descriptors, None)?;
    let mut monitor = Monitor::new(monitor);

    // Whichever end is seen first, what the guest said before is known.
    let mut said = Vec::new();
    let connected = tokio::select! {
        connected = connected(config, &control) => match connected {
            Err(Error::Ended) => Err(end(&mut console, &mut said).await),
            connected => connected.map_err(io::Error::other),
        },
        ended = end(&mut console, &mut said) => Err(ended),
    };
    let (log, connections) = match connected {
        Ok(connected) => connected,
        Err(error) => return Err(failed(process, "booting a template", error).await),
    };
    tokio::time::sleep(SETTLE).await;
    if let Err(error) = settled(&control).await {
        return Err(failed(process, "waiting for a template's agent", error).await);
    }
    let frozen = async {
        monitor.execute("stop", json!({})).await?;
        let sockets = Sockets::detach(config, &mut monitor, &control, &sockets).await?;
        // A machine of the kernel's could not be copied with the process.
        if qemu.accelerator == Accelerator::Tcg {
            let made = ProcessImage::make(qemu, &process, &roles, directory).await;
            if let Err(error) = made {
                match rustix::process::geteuid().is_root() {
                    true => tracing::warn!(%error, "{NO_COPIES}"),
                    // To be expected: filters are shown to root alone.
                    false => tracing::info!(%error, "{NO_COPIES}"),
                }
            }
        }
        snapshot::save(&mut monitor, &state).await?;
        Ok(sockets)
    };
    match frozen.await {
        Ok(sockets) => {
            sockets.write(directory)?;
            let path = template::log(directory);
            keep(log, &path).map_err(file(&path))?;
        }
        Err(error) => return Err(failed(process, "freezing a template", error).await),
    }
    process.kill().await;
    drop(connections);
    let files = [Some(memory), Some(state), disk];
    let files = files.into_iter().flatten().collect();
    synchronise(files, "cannot write the template").await
}

/// Waits for the agent's call, has it rehearse, and calls it.
async fn connected(config: &VmConfig, control: &Control) -> Result<(UnixStream, Vec<UnixStream>)> {
    let (_, log) = control.accept().await?;
    if let Some(rehearsal) = &config.rehearsal {
        let layer = config.new_disk().map(|disk| disk.serial.as_str());
        let rehearsed = rehearsal.rehearse(control, layer).await;
        rehearsed.map_err(|error| Error::Process {
            program: "the agent".to_owned(),
            doing: "rehearsing",
            detail: error,
        })?;
    }
    Ok((log, sockets::connect(control).await?))
}

/// Waits until the connections of a rehearsal are gone, and nothing is under way over others.
async fn settled(control: &Control) -> io::Result<()> {
    for _ in 0..SETTLE_ATTEMPTS {
        if control.note().await.map_err(io::Error::other)? {
            return Ok(());
        }
        tokio::time::sleep(SETTLE).await;
    }
    Err(io::Error::other("its connections do not come to rest"))
}

#[async_trait]
impl Ports for Control {
    async fn connect(&self, port: u32) -> Result<UnixStream> {
        self.connect(port).await
    }
}

/// Writes down what has come over a connection so far.
fn keep(log: UnixStream, path: &Path) -> io::Result<()> {
    let mut kept = File::create_new(path)?;
    log.set_nonblocking(true)?;
    match io::copy(&mut log.take(LOG_LIMIT), &mut kept) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Waits until the guest says no more, which it does not live to do.
async fn end(console: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> io::Error {
    let mut buffer = vec![0; 4096];
    while said.len() < CONSOLE_LIMIT {
        match console.read(&mut buffer).await {
            Ok(read @ 1..) => said.extend_from_slice(&buffer[..read]),
            Ok(0) => break,
            Err(error) => return error,
        }
    }
    io::Error::other(format!(
        "the guest did not get ready; it said: {}",
        Console::last_words(said)
    ))
}

/// Ends QEMU and says why it did not do what it was asked to.
pub(super) async fn failed(mut qemu: Process, doing: &'static str, error: io::Error) -> Error {
    // If it has ended by itself, its status and its words are what there is to know.
    let ended = tokio::time::timeout(Duration::from_millis(200), qemu.wait()).await;
    let detail = match ended {
        Ok(status) => format!("{error}; {}", qemu.obituary(status).await),
        Err(_) => error.to_string(),
    };
    qemu.kill().await;
    Error::Process {
        program: "QEMU".to_owned(),
        doing,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_guest_that_ends_is_quoted() {
        let (mut guest, mut host) = tokio::net::UnixStream::pair().expect("pair");
        let text = b"Kernel panic - not syncing: \x1b[2Jwhat\r\n";
        guest.write_all(text).await.expect("written");
        drop(guest);
        let mut said = b"before\r\n".to_vec();
        let error = end(&mut host, &mut said).await;
        assert!(
            error.to_string().ends_with("not syncing: [2Jwhat"),
            "{error}"
        );
    }
}
