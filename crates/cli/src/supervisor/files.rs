//! Copies in and out of a container's files.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caisson_sandbox::timing::Timing;
use caisson_sandbox::{self as sandbox, Sandbox};
use tokio::net::unix::pipe;

use super::control::{Connection, Request, Response};
use super::machine;
use crate::config::Settings;
use crate::container::Container;

/// Boots a sandbox for a container that does not run and serves copies until
/// the command goes away.
pub(super) async fn hold(
    container: &Container,
    settings: &Settings,
    control: &Connection,
) -> Result<()> {
    container.make_run_directory()?;
    let served = serve(container, settings, control).await;
    container.remove_run_directory()?;
    served
}

async fn serve(container: &Container, settings: &Settings, control: &Connection) -> Result<()> {
    let timing = Timing::started(Duration::ZERO);
    let machine = machine::prepare(container, settings, &timing)?;
    let sandbox = Sandbox::start(machine.hypervisor.as_ref(), machine.sandbox, &timing).await?;
    let guest = sandbox
        .mount_container(&machine::container(container, None, None)?)
        .await?;
    control.send(&Response::Done, &[]).await?;
    while let Some((request, descriptors)) = control.receive::<Request>().await? {
        let response = match copy(&guest, request, descriptors).await {
            Ok(()) => Response::Done,
            Err(error) => Response::Failed {
                message: format!("{error:#}"),
                code: 1,
            },
        };
        control.send(&response, &[]).await?;
    }
    // What was copied in must be on the disk.
    guest.delete().await?;
    sandbox.kill().await?;
    Ok(())
}

/// Carries out a copy between the guest and the one descriptor.
pub(super) async fn copy(
    guest: &sandbox::Container,
    request: Request,
    descriptors: Vec<OwnedFd>,
) -> Result<()> {
    let end = descriptors
        .into_iter()
        .next()
        .context("a descriptor is missing in the request")?;
    // The agent's word on what went wrong is better than that of a broken stream.
    let (copied, moved) = match request {
        Request::CopyOut { path, follow_link } => {
            let (mut from, copied) = guest.copy_out(&path, follow_link).await?;
            let mut to = pipe::Sender::from_owned_fd(end)?;
            tokio::join!(copied, async { tokio::io::copy(&mut from, &mut to).await })
        }
        Request::CopyIn { path, archive } => {
            let (to, copied) = guest.copy_in(&path, archive).await?;
            let mut from = pipe::Receiver::from_owned_fd(end)?;
            let (_, mut to) = to.into_split();
            let moved = async move { tokio::io::copy(&mut from, &mut to).await };
            tokio::join!(copied, moved)
        }
        other => bail!("{other:?} cannot be answered for a container that does not run"),
    };
    copied?;
    moved.context("the copy broke off")?;
    Ok(())
}
