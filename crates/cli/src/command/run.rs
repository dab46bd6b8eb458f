//! `run` and `create`.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use caisson_sandbox::timing::Stage;
use caisson_storage::{Image, ImageStore};

use super::{block_on, lifecycle};
use crate::client::{Attachment, StdioWish};
use crate::config::Settings;
use crate::container::{Container, ContainerRecord, ContainerStore};
use crate::flags::{CreateFlags, RunFlags};
use crate::snapshot::SnapshotStore;
use crate::table::Table;
use crate::{names, spec};

/// Creates a container, starts it and, unless it is detached, waits for its
/// end. Returns the exit code for the command.
pub fn run(
    flags: &RunFlags,
    store: &ContainerStore,
    settings: &Settings,
    begin: Instant,
) -> Result<u8> {
    let create = &flags.create;
    let make = || match &flags.from.0 {
        None => make(create, store, settings),
        Some(snapshot) => copy(snapshot, create, store, settings),
    };
    if flags.detach {
        let container = make()?;
        lifecycle::start_detached(&container, settings)?;
        println!("{}", container.record.id);
        return Ok(0);
    }
    if create.tty && create.interactive && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        bail!("standard input is not a terminal; leave -t away, or run it from a terminal");
    }
    let container = make()?;
    let attachment = Attachment::new(StdioWish {
        stdin: create.interactive,
        terminal: lifecycle::has_terminal(&container),
    })?;
    let elapsed = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let outcome = block_on(lifecycle::start_attached(
        &container, settings, attachment, elapsed,
    ))?;
    if flags.timing {
        print_timing(&outcome.stages, &outcome.hypervisor, begin);
    }
    Ok(outcome.code)
}

/// Creates a container and prints its id.
pub fn create(flags: &CreateFlags, store: &ContainerStore, settings: &Settings) -> Result<()> {
    println!("{}", make(flags, store, settings)?.record.id);
    Ok(())
}

fn make(flags: &CreateFlags, store: &ContainerStore, settings: &Settings) -> Result<Container> {
    let image = image(flags, settings)?;
    let facts = spec::ImageFacts::from_image(&image, &flags.program.image);
    keep(flags, store, |id, name| {
        Ok(spec::build(flags, &facts, settings, id, name)?)
    })
}

/// Makes a container that is a copy of a snapshot.
fn copy(
    snapshot: &str,
    flags: &CreateFlags,
    store: &ContainerStore,
    settings: &Settings,
) -> Result<Container> {
    let name = super::snapshot::canonical(snapshot)?;
    let snapshot = SnapshotStore::new(&settings.root).find(&name)?;
    if !snapshot.record.container.image_disk.exists() {
        bail!(
            "snapshot {name} needs the image {}, which is gone; remove the snapshot and make \
             another",
            snapshot.record.container.image
        );
    }
    let container = keep(flags, store, |id, name| {
        Ok(spec::copy::copy(
            flags,
            &snapshot.record,
            settings,
            id,
            name,
        )?)
    })?;
    Ok(container)
}

/// Stores a new container.
fn keep(
    flags: &CreateFlags,
    store: &ContainerStore,
    record: impl FnOnce(&str, String) -> Result<ContainerRecord>,
) -> Result<Container> {
    let id = new_id()?;
    let name = flags.name.clone().unwrap_or_else(|| names::made_up(&id));
    let record = record(&id, name)?;
    if let Some(path) = &flags.cidfile {
        // As with Docker, a file that is there already belongs to somebody.
        let mut file = std::fs::File::create_new(path).with_context(|| {
            format!(
                "cannot write --cidfile {}: is another container using it?",
                path.display()
            )
        })?;
        file.write_all(id.as_bytes())?;
    }
    let created = store.create(&record);
    if let (Err(_), Some(path)) = (&created, &flags.cidfile) {
        // It names a container that does not exist.
        let _ = std::fs::remove_file(path);
    }
    Ok(created?)
}

fn image(flags: &CreateFlags, settings: &Settings) -> Result<Image> {
    let store = ImageStore::open(&settings.root)?;
    super::images::find_or_pull(&store, flags, settings)
}

fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Prints where the time went, on standard error: standard output is the program's.
fn print_timing(stages: &[Stage], hypervisor: &str, begin: Instant) {
    eprintln!("{hypervisor}");
    let mut table = Table::new(["STAGE", "BEGIN ms", "LENGTH ms"]);
    for stage in stages {
        table.row([
            &stage.name,
            &milliseconds(stage.start_us),
            &milliseconds(stage.duration_us),
        ]);
    }
    let total = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    table.row(["whole command", "0.0", &milliseconds(total)]);
    eprint!("{table}");
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{}", microseconds / 1000, microseconds % 1000 / 100)
}
