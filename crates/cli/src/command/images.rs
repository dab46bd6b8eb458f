//! `pull`, `load`, `images`, `rmi`, and the image of a new container.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use caisson_storage::{Image, ImageStore, LoadSource, Platform, PullOptions, Reference};
use clap::Args;
use serde_json::json;

use super::block_on;
use super::stats::bytes;
use crate::config::Settings;
use crate::container::ContainerStore;
use crate::flags::{self, CreateFlags, PullPolicy};
use crate::progress::Bars;
use crate::snapshot::SnapshotStore;
use crate::table::Table;

/// `caisson pull`.
#[derive(Debug, Args)]
pub struct PullFlags {
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCHITECTURE", value_parser = flags::platform)]
    platform: Option<Platform>,
    /// Only print the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Name of an image, with registry, tag and digest as needed
    image: String,
}

/// `caisson load`.
#[derive(Debug, Args)]
pub struct LoadFlags {
    /// A docker-save or OCI archive, or an OCI layout folder; standard input if left out
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Only print what was loaded
    #[arg(short, long)]
    quiet: bool,
}

/// `caisson images`.
#[derive(Debug, Args)]
pub struct ImagesFlags {
    /// Only print ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Print one JSON object a line
    #[arg(long, value_parser = ["table", "json"], default_value = "table")]
    format: String,
    /// Only images of that name, with a tag or without
    name: Option<String>,
}

/// `caisson rmi`.
#[derive(Debug, Args)]
pub struct RemoveImageFlags {
    /// Remove an image that containers use, or that has several names
    #[arg(short, long)]
    force: bool,
    /// Names or ids of images
    #[arg(required = true)]
    images: Vec<String>,
}

/// Fetches an image.
pub fn pull(flags: &PullFlags, settings: &Settings) -> Result<()> {
    let store = ImageStore::open(&settings.root)?;
    let reference = Reference::parse(&flags.image)?;
    fetch(
        &store,
        &reference,
        flags.platform.clone(),
        flags.quiet,
        settings,
    )?;
    println!("{reference}");
    Ok(())
}

/// The image of a new container, fetched if the flags say so.
pub fn find_or_pull(store: &ImageStore, flags: &CreateFlags, settings: &Settings) -> Result<Image> {
    let name = &flags.program.image;
    if flags.pull != PullPolicy::Always
        && let Some(image) = store.get(name)?
    {
        if flags
            .platform
            .as_ref()
            .is_none_or(|wanted| wanted.matches(&platform(&image)))
        {
            return Ok(image);
        }
        if flags.pull == PullPolicy::Never {
            bail!(
                "the image {name} is for {}; `caisson pull --platform` fetches another",
                platform(&image)
            );
        }
    }
    if flags.pull == PullPolicy::Never {
        bail!(
            "there is no image {name}, and --pull=never forbids to fetch it; `caisson pull {name}` does"
        );
    }
    let reference = Reference::parse(name)?;
    if !flags.quiet && flags.pull != PullPolicy::Always {
        eprintln!(
            "the image {} is not here; fetching it",
            reference.familiar()
        );
    }
    fetch(
        store,
        &reference,
        flags.platform.clone(),
        flags.quiet,
        settings,
    )
}

fn platform(image: &Image) -> Platform {
    Platform {
        os: image.config.os.clone(),
        architecture: image.config.architecture.clone(),
        variant: image.config.variant.clone(),
    }
}

fn fetch(
    store: &ImageStore,
    reference: &Reference,
    platform: Option<Platform>,
    quiet: bool,
    settings: &Settings,
) -> Result<Image> {
    let options = PullOptions {
        platform: platform.unwrap_or_default(),
        insecure_registries: settings.insecure_registries.clone(),
        progress: Arc::new(Bars::new(quiet)),
        ..PullOptions::default()
    };
    block_on(async { Ok(store.pull(reference, &options).await?) })
}

/// Loads an archive.
pub fn load(flags: &LoadFlags, settings: &Settings) -> Result<()> {
    let store = ImageStore::open(&settings.root)?;
    let source = match &flags.input {
        Some(path) => LoadSource::Path(path.clone()),
        None => LoadSource::Reader(Box::new(std::io::stdin())),
    };
    let bars = Bars::new(flags.quiet);
    for image in store.load(source, &bars)? {
        match image.references.first() {
            Some(reference) => println!("Loaded image: {}", reference.familiar()),
            None => println!("Loaded image ID: {}", image.id),
        }
    }
    Ok(())
}

/// Lists images.
pub fn images(flags: &ImagesFlags, settings: &Settings) -> Result<()> {
    let store = ImageStore::open(&settings.root)?;
    let mut table = Table::new(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    let wanted = flags.name.as_deref().map(Reference::parse).transpose()?;
    for image in store.list()? {
        let id = if flags.no_trunc {
            image.id.to_string()
        } else {
            short_id(&image)
        };
        let names: Vec<_> = names(&image)
            .into_iter()
            .filter(|name| is_wanted(name, flags, wanted.as_ref()))
            .collect();
        if flags.quiet && !names.is_empty() {
            println!("{id}");
            continue;
        }
        let date = image.created.as_deref().unwrap_or_default();
        let created = super::ps::ago(date);
        for (repository, tag) in names {
            if flags.format == "json" {
                let row = json!({
                    "Repository": repository, "Tag": tag, "ID": id, "CreatedAt": date, "CreatedSince": created,
                    "Size": bytes(image.size), "Bytes": image.size,
                });
                println!("{row}");
            } else {
                table.row([&repository, &tag, &id, &created, &bytes(image.size)]);
            }
        }
    }
    if !flags.quiet && flags.format == "table" {
        print!("{table}");
    }
    Ok(())
}

const NO_NAME: &str = "<none>";

/// Repository and tag of each of an image's names.
fn names(image: &Image) -> Vec<(String, String)> {
    let with_tag = image.references.iter();
    // A name with a digest is shown if no tag of the same repository stands for it.
    let with_digest = image.digests.iter().filter(|digest| {
        !image
            .references
            .iter()
            .any(|reference| reference.name() == digest.name())
    });
    let mut names: Vec<_> = with_tag
        .chain(with_digest)
        .map(|name| {
            (
                name.familiar_name(),
                name.tag().unwrap_or(NO_NAME).to_owned(),
            )
        })
        .collect();
    if names.is_empty() {
        names.push((NO_NAME.to_owned(), NO_NAME.to_owned()));
    }
    names
}

/// A name without a tag means all of them.
fn is_wanted(
    (repository, tag): &(String, String),
    flags: &ImagesFlags,
    wanted: Option<&Reference>,
) -> bool {
    let (Some(given), Some(wanted)) = (&flags.name, wanted) else {
        return true;
    };
    let tag_given = given
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'));
    wanted.familiar_name() == *repository && (!tag_given || wanted.tag() == Some(tag))
}

/// The first 12 digits of an image's id.
fn short_id(image: &Image) -> String {
    image.id.hex().chars().take(12).collect()
}

/// Removes images.
pub fn remove(
    flags: &RemoveImageFlags,
    containers: &ContainerStore,
    settings: &Settings,
) -> Result<()> {
    let store = ImageStore::open(&settings.root)?;
    let snapshots = SnapshotStore::new(&settings.root).list()?;
    let of_snapshots = snapshots
        .into_iter()
        .map(|snapshot| snapshot.record.container.image_id);
    let used: Vec<_> = containers
        .list()?
        .into_iter()
        .map(|container| container.record.image_id)
        .chain(of_snapshots)
        .collect();
    let in_use = |image: &Image| used.contains(&image.id.to_string());
    for name in &flags.images {
        let lines = store
            .remove(name, flags.force, &in_use)
            .with_context(|| format!("cannot remove {name}"))?;
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}
