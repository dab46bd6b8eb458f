//! `start`, `stop`, `kill`, `rm`, `wait`, `pause`, `unpause`.

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{block_on, for_each};
use crate::client::{self, Attachment, StdioWish};
use crate::config::Settings;
use crate::container::{Container, ContainerStore, State, Status, StoreError, lease};
use crate::signal;
use crate::spec::limit;
use crate::supervisor::control::{Request, Response};

/// `caisson start`.
#[derive(Debug, Args)]
pub struct StartFlags {
    /// Wait for the container and show its output
    #[arg(short, long)]
    attach: bool,
    /// Connect standard input too
    #[arg(short, long)]
    interactive: bool,
    /// Names or ids of containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `caisson stop`.
#[derive(Debug, Args)]
pub struct StopFlags {
    /// Seconds to wait before the container is killed; -1 for ever
    #[arg(short = 't', long = "time", visible_alias = "timeout", allow_hyphen_values = true, value_parser = limit::stop_timeout)]
    time: Option<u64>,
    /// Signal to send instead of the container's own
    #[arg(short, long, value_parser = signal::parse)]
    signal: Option<i32>,
    /// Names or ids of containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `caisson kill`.
#[derive(Debug, Args)]
pub struct KillFlags {
    /// Signal to send
    #[arg(short, long, default_value = "KILL", value_parser = signal::parse)]
    signal: i32,
    /// Names or ids of containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// `caisson rm`.
#[derive(Debug, Args)]
pub struct RemoveFlags {
    /// Kill running containers first
    #[arg(short, long)]
    force: bool,
    /// Remove the anonymous volumes too (they live in the writable layer and go with it)
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids of containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Commands that only take names.
#[derive(Debug, Args)]
pub struct Names {
    /// Names or ids of containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Starts containers; returns the exit code for the command.
pub fn start(flags: &StartFlags, store: &ContainerStore, settings: &Settings) -> Result<u8> {
    if !flags.attach && !flags.interactive {
        for_each(&flags.containers, |name| {
            start_detached(&store.find(name)?, settings)
        })?;
        return Ok(0);
    }
    let [name] = flags.containers.as_slice() else {
        bail!("only one container can be attached to; start the others without -a");
    };
    let container = store.find(name)?;
    let attachment = Attachment::new(StdioWish {
        stdin: flags.interactive,
        terminal: has_terminal(&container),
    })?;
    let live = container.state()?.status.is_live();
    let outcome = block_on(async {
        if live {
            attach(&container, attachment).await
        } else {
            start_attached(&container, settings, attachment, 0).await
        }
    })?;
    Ok(outcome.code)
}

/// Whether the first process has a terminal.
pub fn has_terminal(container: &Container) -> bool {
    let process = container.record.spec.process().as_ref();
    process
        .and_then(|process| process.terminal())
        .unwrap_or(false)
}

/// What a copy had in memory has ended with it.
fn can_start(container: &Container, state: &State) -> Result<()> {
    if let (Some(copy), false) = (&container.record.copy_of, state.status == Status::Created) {
        bail!(
            "container {} was a copy of snapshot {}, and what it had in memory has ended with \
             it; make another with `caisson run --from {}`",
            container.record.name,
            copy.snapshot,
            copy.snapshot
        );
    }
    Ok(())
}

/// Joins a container that runs already to our streams.
async fn attach(container: &Container, mut attachment: Attachment) -> Result<client::Outcome> {
    let connection = client::connect(container)?;
    let request = Request::Attach(attachment.streams);
    attachment.send(&connection, &request).await?;
    attachment.run(container, &connection).await
}

/// Starts a container and returns once its program runs.
pub fn start_detached(container: &Container, settings: &Settings) -> Result<()> {
    let state = container.state()?;
    if state.status.is_live() {
        return Ok(());
    }
    can_start(container, &state)?;
    block_on(async {
        let connection = client::spawn(container, settings)?;
        connection
            .send(
                &Request::Start {
                    attach: None,
                    elapsed_us: 0,
                },
                &[],
            )
            .await?;
        match client::answer(container, &connection).await? {
            Response::Started => Ok(()),
            other => bail!("the supervisor answered {other:?} to a start"),
        }
    })
}

/// Starts a container joined to our streams and waits for its end.
pub async fn start_attached(
    container: &Container,
    settings: &Settings,
    mut attachment: Attachment,
    elapsed_us: u64,
) -> Result<client::Outcome> {
    can_start(container, &container.state()?)?;
    let connection = client::spawn(container, settings)?;
    let request = Request::Start {
        attach: Some(attachment.streams),
        elapsed_us,
    };
    attachment.send(&connection, &request).await?;
    attachment.run(container, &connection).await
}

/// Stops containers as they wish to be stopped.
pub fn stop(flags: &StopFlags, store: &ContainerStore) -> Result<()> {
    for_each(&flags.containers, |name| {
        let container = store.find(name)?;
        if !container.state()?.status.is_live() {
            return Ok(());
        }
        let request = Request::Stop {
            signal: flags.signal,
            timeout: flags.time,
        };
        end(&container, &request)
    })
}

/// Asks for a container's end.
fn end(container: &Container, request: &Request) -> Result<()> {
    match block_on(client::ask(container, request)) {
        // It may have ended by itself, or be beyond an answer.
        Err(_) if !container.state()?.status.is_live() => Ok(()),
        asked => asked.map(drop),
    }
}

/// Sends a signal.
pub fn kill(flags: &KillFlags, store: &ContainerStore) -> Result<()> {
    for_each(&flags.containers, |name| {
        let container = store.find(name)?;
        block_on(client::ask(&container, &Request::Signal(flags.signal))).map(drop)
    })
}

/// Removes containers.
pub fn remove(flags: &RemoveFlags, store: &ContainerStore) -> Result<()> {
    for_each(&flags.containers, |name| match store.find(name) {
        Ok(container) => remove_one(&container, flags.force),
        // As with Docker, force makes the goal count, not the way.
        Err(StoreError::NotFound(_)) if flags.force => Ok(()),
        Err(error) => Err(error.into()),
    })
}

fn remove_one(container: &Container, force: bool) -> Result<()> {
    if container.state()?.status.is_live() {
        if !force {
            return Err(StoreError::Live(container.record.name.clone()).into());
        }
        let request = Request::Stop {
            signal: Some(libc::SIGKILL),
            timeout: Some(0),
        };
        end(container, &request)?;
        if container.record.auto_remove {
            return Ok(());
        }
    }
    container.wait_free()?;
    let lock = container.hold()?;
    lease::release(container)?;
    container
        .remove(lock)
        .with_context(|| format!("container {} is not wholly removed", container.record.name))
}

/// Waits for containers and prints their exit codes.
pub fn wait(flags: &Names, store: &ContainerStore) -> Result<()> {
    for name in &flags.containers {
        println!("{}", exit_code(&store.find(name)?)?);
    }
    Ok(())
}

/// Waits for a container's end.
fn exit_code(container: &Container) -> Result<u8> {
    let ended = || match container.state() {
        Ok(state) if !state.status.is_live() => Some(state.exit_code),
        _ => None,
    };
    if let Some(code) = ended() {
        return Ok(code);
    }
    match block_on(client::ask(container, &Request::Wait)) {
        Ok(Response::Exited { code, .. }) => Ok(code),
        Ok(other) => bail!("the supervisor answered {other:?} to a wait"),
        // It may have ended, and its supervisor with it, before that was asked.
        Err(error) => match ended() {
            Some(code) => Ok(code),
            None => Ok(error.downcast::<client::Refused>()?.code),
        },
    }
}

/// Freezes containers.
pub fn pause(flags: &Names, store: &ContainerStore) -> Result<()> {
    for_each(&flags.containers, |name| {
        block_on(client::ask(&store.find(name)?, &Request::Pause)).map(drop)
    })
}

/// Lets frozen containers run.
pub fn unpause(flags: &Names, store: &ContainerStore) -> Result<()> {
    for_each(&flags.containers, |name| {
        block_on(client::ask(&store.find(name)?, &Request::Unpause)).map(drop)
    })
}
