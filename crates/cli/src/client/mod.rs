//! The command's side of a conversation with a supervisor.

mod attach;
mod spawn;
mod terminal;

pub use attach::{Attachment, Outcome, StdioWish};
pub use spawn::spawn;

use anyhow::{Context, Result, bail};

use crate::container::{Container, Status, lease};
use crate::supervisor::control::{Connection, Request, Response};

/// Connects to the supervisor of a container that must be live.
pub fn connect(container: &Container) -> Result<Connection> {
    let state = container.state()?;
    if !state.status.is_live() {
        bail!(
            "container {} is not running ({})",
            container.record.name,
            state.told()
        );
    }
    connect_socket(container)
}

fn connect_socket(container: &Container) -> Result<Connection> {
    Connection::connect(&container.control_socket()).with_context(|| {
        format!(
            "cannot reach the supervisor of container {}",
            container.record.name
        )
    })
}

/// Sends a request and waits for its one answer.
pub async fn ask(container: &Container, request: &Request) -> Result<Response> {
    let connection = connect(container)?;
    connection.send(request, &[]).await?;
    answer(container, &connection).await
}

/// The next answer; a refusal is an error.
pub async fn answer(container: &Container, connection: &Connection) -> Result<Response> {
    match connection.receive::<Response>().await? {
        Some((Response::Failed { message, code }, _)) => Err(Refused { message, code }.into()),
        Some((response, _)) => Ok(response),
        None => {
            let reason = match container.state() {
                Ok(state) if state.status == Status::Dead => state.error.unwrap_or_default(),
                _ => format!("see {}", container.supervisor_log().display()),
            };
            if container.record.auto_remove {
                remove_lost(container);
            }
            Err(Refused {
                message: format!("container {} was lost: {reason}", container.record.name),
                code: 137,
            }
            .into())
        }
    }
}

/// With `--rm`, nothing shall be left, and the supervisor cannot see to it any more.
fn remove_lost(container: &Container) {
    if let Err(error) = lease::release(container) {
        tracing::warn!("a place in a network is not given back: {error:#}");
    }
    let removed = container
        .wait_free()
        .and_then(|()| container.hold())
        .and_then(|lock| container.remove(lock));
    if let Err(error) = removed {
        // Another command that was told of the loss may have been quicker.
        tracing::debug!(%error, "the lost container was not removed");
    }
}

/// A request that the supervisor refused, with the exit code for the command.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// For the user.
    pub message: String,
    /// Exit code of the command.
    pub code: u8,
}
