//! `caisson snapshot`: containers that run, frozen to be copied.

use anyhow::{Context, Result, bail};
use caisson_storage::Reference;
use clap::{Args, Subcommand};
use serde_json::json;

use super::ps::ago;
use super::stats::bytes;
use super::{block_on, for_each};
use crate::client;
use crate::config::Settings;
use crate::container::ContainerStore;
use crate::snapshot::SnapshotStore;
use crate::supervisor::control::Request;
use crate::table::Table;

/// `caisson snapshot`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SnapshotFlags {
    #[command(subcommand)]
    command: Option<SnapshotCommand>,
    /// Name or id of a container that runs; it goes on
    #[arg(required = true, value_name = "CONTAINER")]
    container: Option<String>,
    /// Name of the snapshot, as of an image: NAME or NAME:TAG
    #[arg(required = true, value_name = "IMAGE-NAME")]
    name: Option<String>,
}

/// What else can be done with snapshots.
#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        /// Print one JSON object a line
        #[arg(long, value_parser = ["table", "json"], default_value = "table")]
        format: String,
    },
    /// Remove snapshots; copies of them run on
    Rm {
        /// Names of snapshots
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Carries out the command.
pub fn snapshot(
    flags: &SnapshotFlags,
    containers: &ContainerStore,
    settings: &Settings,
) -> Result<()> {
    let store = SnapshotStore::new(&settings.root);
    match (&flags.command, &flags.container, &flags.name) {
        (Some(SnapshotCommand::Ls { format }), ..) => list(format, &store),
        (Some(SnapshotCommand::Rm { names }), ..) => {
            store.tidy()?;
            for_each(names, |name| store.remove(&canonical(name)?))
        }
        (None, Some(container), Some(name)) => {
            let name = canonical(name)?;
            let container = containers.find(container)?;
            block_on(client::ask(&container, &Request::Snapshot(name.clone())))?;
            println!("{name}");
            Ok(())
        }
        // The parser sees to it.
        _ => bail!("name a container and the snapshot to be made"),
    }
}

/// A snapshot's name as it is kept: `warm` is `warm:latest`.
pub fn canonical(name: &str) -> Result<String> {
    let reference: Reference = name
        .parse()
        .with_context(|| format!("a snapshot cannot be called {name}"))?;
    let Some(tag) = reference.tag() else {
        bail!("a snapshot cannot be called {name}: it has no digest; choose a tag");
    };
    Ok(format!("{}:{tag}", reference.familiar_name()))
}

fn list(format: &str, store: &SnapshotStore) -> Result<()> {
    store.tidy()?;
    let mut table = Table::new([
        "NAME",
        "CREATED",
        "IMAGE",
        "CONTAINER",
        "CPUS",
        "MEMORY",
        "ON DISK",
    ]);
    for snapshot in store.list()? {
        let record = &snapshot.record;
        let container = &record.container;
        let machine = &container.machine;
        if format == "json" {
            let command = [&container.entrypoint[..], &container.command].concat();
            let row = json!({
                "name": record.name,
                "created": record.created,
                "image": container.image,
                "imageId": container.image_id,
                "container": container.name,
                "command": command,
                "cpus": machine.cpus,
                "memory": machine.memory,
                "diskBytes": record.disk,
            });
            println!("{row}");
            continue;
        }
        table.row([
            &record.name,
            &ago(&record.created),
            &container.image,
            &container.name,
            &machine.cpus.to_string(),
            &bytes(machine.memory),
            &bytes(record.disk),
        ]);
    }
    if format == "table" {
        print!("{table}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn names_are_those_of_images() {
        assert_eq!(canonical("warm").expect("a name"), "warm:latest");
        assert_eq!(canonical("me/warm:2").expect("a name"), "me/warm:2");
        assert!(canonical("Warm").is_err());
        let digest = format!("warm@sha256:{}", "0".repeat(64));
        assert!(canonical(&digest).is_err());
    }
}
