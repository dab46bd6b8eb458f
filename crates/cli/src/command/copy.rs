//! `caisson cp`.

mod pack;
mod unpack;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;

use super::block_on;
use crate::client;
use crate::config::Settings;
use crate::container::{Container, ContainerStore};
use crate::supervisor::control::{Connection, Request, Response};

/// `caisson cp`.
#[derive(Debug, Args)]
pub struct CopyFlags {
    /// Keep owners
    #[arg(short, long)]
    archive: bool,
    /// Follow a link at the end of the source's path
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, a path of the host, or - for a tar archive on standard input
    source: String,
    /// CONTAINER:PATH, a path of the host, or - for a tar archive on standard output
    destination: String,
}

/// One side of a copy.
enum Side<'a> {
    Container(&'a str, &'a str),
    Host(&'a str),
    Stream,
}

/// As Docker reads it: a path that begins with `.` or `/` is the host's, whatever follows.
fn side(text: &str) -> Side<'_> {
    if text == "-" {
        return Side::Stream;
    }
    match text.split_once(':') {
        Some((container, path)) if !text.starts_with(['.', '/']) && !container.contains('/') => {
            Side::Container(container, path)
        }
        _ => Side::Host(text),
    }
}

/// Copies files in or out of a container, whether it runs or not.
pub fn copy(flags: &CopyFlags, store: &ContainerStore, settings: &Settings) -> Result<()> {
    match (side(&flags.source), side(&flags.destination)) {
        (Side::Container(name, path), Side::Host(to)) => {
            let target = unpack::Target::new(path, Path::new(to))?;
            let archive = flags.archive;
            block_on(copy_out(
                &store.find(name)?,
                settings,
                path,
                flags,
                move |read| target.unpack(read, archive),
            ))
        }
        (Side::Container(name, path), Side::Stream) => block_on(copy_out(
            &store.find(name)?,
            settings,
            path,
            flags,
            |mut read| {
                io::copy(&mut read, &mut io::stdout())?;
                Ok(())
            },
        )),
        (Side::Host(from), Side::Container(name, path)) => {
            let source = pack::Source::new(Path::new(from), flags.follow_link)?;
            block_on(copy_in(&store.find(name)?, settings, path, flags, source))
        }
        (Side::Stream, Side::Container(name, path)) => block_on(async {
            let container = store.find(name)?;
            let opened = Opened::new(&container, settings).await?;
            let copied = send_in(&opened, path, flags, |mut write| {
                io::copy(&mut io::stdin(), &mut write)?;
                Ok(())
            })
            .await;
            copied.and(opened.close())
        }),
        (Side::Container(..), Side::Container(..)) => {
            bail!("copying from container to container takes two steps: copy to the host first")
        }
        _ => bail!("one side of a copy is a container: CONTAINER:PATH"),
    }
}

async fn copy_out(
    container: &Container,
    settings: &Settings,
    path: &str,
    flags: &CopyFlags,
    take: impl FnOnce(io::PipeReader) -> Result<()> + Send + 'static,
) -> Result<()> {
    let opened = Opened::new(container, settings).await?;
    let (read, write) = io::pipe()?;
    let taken = tokio::task::spawn_blocking(move || take(read));
    let request = Request::CopyOut {
        path: path.to_owned(),
        follow_link: flags.follow_link,
    };
    let copied = opened.ask(&request, write).await;
    // The guest's word on what went wrong comes first: without it there is no archive.
    copied.and(taken.await?).and(opened.close())
}

/// Copies into `path` if that is a folder, else into its parent under its own name.
async fn copy_in(
    container: &Container,
    settings: &Settings,
    path: &str,
    flags: &CopyFlags,
    source: pack::Source,
) -> Result<()> {
    let opened = Opened::new(container, settings).await?;
    let whole = source.clone();
    let Err(first) = send_in(&opened, path, flags, move |write| whole.pack(None, write)).await
    else {
        return opened.close();
    };
    let (parent, name) = match path.trim_end_matches("/.").rsplit_once('/') {
        Some((parent, name)) if !name.is_empty() => (format!("{parent}/"), name.to_owned()),
        _ => return Err(first),
    };
    // What is said of the folder is what the user meant, if this fails too.
    let second = send_in(&opened, &parent, flags, move |write| {
        source.pack(Some(&name), write)
    })
    .await;
    second.map_err(|_| first).and(opened.close())
}

async fn send_in(
    opened: &Opened<'_>,
    path: &str,
    flags: &CopyFlags,
    give: impl FnOnce(io::PipeWriter) -> Result<()> + Send + 'static,
) -> Result<()> {
    let (read, write) = io::pipe()?;
    let given = tokio::task::spawn_blocking(move || give(write));
    let request = Request::CopyIn {
        path: path.to_owned(),
        archive: flags.archive,
    };
    let copied = opened.ask(&request, read).await;
    copied.and(given.await?)
}

/// The supervisor of a container; for one that does not run, one that only
/// holds its files for as long as the connection lasts.
struct Opened<'a> {
    container: &'a Container,
    connection: Connection,
    /// The container does not run.
    files_only: bool,
}

impl<'a> Opened<'a> {
    async fn new(container: &'a Container, settings: &Settings) -> Result<Self> {
        if container.state()?.status.is_live() {
            let connection = client::connect(container)?;
            return Ok(Self {
                container,
                connection,
                files_only: false,
            });
        }
        let connection = client::spawn(container, settings)?;
        connection.send(&Request::Open, &[]).await?;
        match client::answer(container, &connection).await? {
            Response::Done => Ok(Self {
                container,
                connection,
                files_only: true,
            }),
            other => bail!("the supervisor answered {other:?} to an opening"),
        }
    }

    async fn ask(&self, request: &Request, end: impl Into<OwnedFd>) -> Result<()> {
        let end = end.into();
        self.connection.send(request, &[end.as_fd()]).await?;
        drop(end);
        match client::answer(self.container, &self.connection).await? {
            Response::Done => Ok(()),
            other => bail!("the supervisor answered {other:?} to a copy"),
        }
    }

    /// Waits until what was copied is on the disk and the container can be started.
    fn close(self) -> Result<()> {
        drop(self.connection);
        if self.files_only {
            self.container.wait_free()?;
        }
        Ok(())
    }
}
