//! Making a template: a machine with at most disks boots, its agent waits, and its
//! memory and state stay in two files.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use caisson_protocol::TEMPLATE_READY;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::arguments::{self, Begin, BootFiles, Inherited, Medium};
use super::console::Console;
use super::monitor::Monitor;
use super::{Accelerator, Qemu, boot_files, file, jail, medium, pair};
use crate::process::{Descriptors, Process};
use crate::template::{FileIdentity, MEMORY, Recipe, STATE};
use crate::{Error, Result, VmConfig};

/// Changes whenever a template is made or used in another way.
const RECIPE: u32 = 3;

/// Most bytes that a guest may say before it is ready.
const CONSOLE_LIMIT: usize = 1 << 20;

/// What the guest has put off until it is idle is done once, not in each fork.
const SETTLE: Duration = Duration::from_millis(100);

/// How often QEMU is asked whether its state is written, which takes milliseconds.
const POLL: Duration = Duration::from_millis(2);

/// What a template for such machines depends on.
pub(super) fn recipe(qemu: &Qemu, config: &VmConfig) -> Result<Recipe> {
    super::slot::check(config)?;
    // The frequency is measured anew with each boot of the host. A difference of less
    // than a thousandth is noise.
    let tsc_khz = qemu.tsc_khz / 1000 * 1000;
    let model = model(config);
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
        disks: vec![Medium::Nothing; model.disks.len()],
        networks: usize::from(config.has_plain_network()),
        devices: None,
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
/// its disks, it has the places and a new file system.
fn model(config: &VmConfig) -> VmConfig {
    let disks = match config.new_disk() {
        Some(_) => config.disks.clone(),
        None => Vec::new(),
    };
    VmConfig {
        name: "template".to_owned(),
        disks,
        share: None,
        interfaces: Vec::new(),
        network_namespace: None,
        ..config.clone()
    }
}

/// Makes a template's files in `directory`.
pub(super) async fn freeze(qemu: &Qemu, config: &VmConfig, directory: &Path) -> Result<()> {
    let networks = usize::from(config.has_plain_network());
    let config = model(config);
    let make = |name: &str| {
        let path = directory.join(name);
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(file(&path))
    };
    let (memory, state) = (make(MEMORY)?, make(STATE)?);
    jail::share(&memory)?;
    memory
        .set_len(config.memory.next_multiple_of(1 << 20))
        .map_err(file(&directory.join(MEMORY)))?;

    let (mut console, qemu_console) = pair()?;
    let (monitor, qemu_monitor) = pair()?;
    let mut descriptors = Descriptors::default();
    let (disks, disk) = medium::template(&config, directory, &mut descriptors)?;
    let inherited = Inherited {
        console: descriptors.add(qemu_console),
        monitor: descriptors.add(qemu_monitor),
        begin: Begin::Template {
            files: boot_files(&config, &mut descriptors)?,
            memory: descriptors.add(
                memory
                    .try_clone()
                    .map_err(Error::host("cannot pass the memory on"))?,
            ),
        },
        disks,
        networks,
        devices: None,
    };
    let arguments = arguments::arguments(&config, qemu.accelerator, qemu.tsc_khz, &inherited);
    let mut process = jail::spawn(qemu, arguments, descriptors, None)?;
    let mut monitor = Monitor::new(monitor);

    if let Err(error) = ready(&mut console).await {
        return Err(failed(process, "booting a template", error).await);
    }
    tokio::time::sleep(SETTLE).await;
    if let Err(error) = save(&mut monitor, &state).await {
        return Err(failed(process, "freezing a template", error).await);
    }
    process.kill().await;
    let files = [Some(memory), Some(state), disk];
    let synchronise = move || files.iter().flatten().try_for_each(File::sync_all);
    tokio::task::spawn_blocking(synchronise)
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(Error::host("cannot write the template"))
}

/// Waits until the agent says that it can be frozen.
async fn ready(console: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut said = Vec::new();
    let mut buffer = vec![0; 4096];
    while said.len() < CONSOLE_LIMIT {
        let read = console.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        said.extend_from_slice(&buffer[..read]);
        let lines = String::from_utf8_lossy(&said);
        if lines.lines().any(|line| line == TEMPLATE_READY) {
            return Ok(());
        }
    }
    Err(io::Error::other(format!(
        "the guest did not get ready; it said: {}",
        Console::last_words(&said)
    )))
}

/// Writes the state of the machine, which stops for that.
async fn save(monitor: &mut Monitor, state: &File) -> io::Result<()> {
    monitor
        .execute("migrate-set-capabilities", capabilities())
        .await?;
    monitor
        .give("state", std::os::fd::AsFd::as_fd(state))
        .await?;
    monitor
        .execute("migrate", json!({ "uri": "fd:state" }))
        .await?;
    loop {
        let progress = monitor.execute("query-migrate", json!({})).await?;
        match progress["status"].as_str().unwrap_or_default() {
            "completed" => return Ok(()),
            "failed" | "cancelled" => {
                let reason = progress["error-desc"].as_str().unwrap_or("no reason given");
                return Err(io::Error::other(reason.to_owned()));
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Memory that is a file is not part of the state.
pub(super) fn capabilities() -> Value {
    json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] })
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

    async fn said(text: &str) -> io::Result<()> {
        let (mut guest, mut host) = tokio::net::UnixStream::pair().expect("pair");
        guest.write_all(text.as_bytes()).await.expect("written");
        drop(guest);
        ready(&mut host).await
    }

    #[tokio::test]
    async fn an_agent_is_ready_when_it_says_so() {
        said(&format!("noise\r\n{TEMPLATE_READY}\n"))
            .await
            .expect("ready");
        let error = said("Kernel panic - not syncing: \x1b[2Jwhat\r\n")
            .await
            .expect_err("not ready");
        assert!(
            error.to_string().ends_with("not syncing: [2Jwhat"),
            "{error}"
        );
    }
}
