//! `caisson exec`.

use anyhow::{Result, bail};

use super::block_on;
use crate::client::{self, Attachment, StdioWish};
use crate::container::{ContainerStore, Status};
use crate::flags::ExecFlags;
use crate::spec;
use crate::supervisor::control::{Request, Response};

/// Runs one more process in a container. Returns the exit code for the command.
pub fn exec(flags: &ExecFlags, store: &ContainerStore) -> Result<u8> {
    let container = store.find(&flags.container)?;
    let state = container.state()?;
    match state.status {
        Status::Running => {}
        Status::Paused => bail!(
            "container {} is paused; `caisson unpause` it first",
            container.record.name
        ),
        _ => bail!(
            "container {} is not running ({})",
            container.record.name,
            state.told()
        ),
    }
    let process = Box::new(spec::exec_process(flags, &container.record)?);
    block_on(async {
        let connection = client::connect(&container)?;
        if flags.detach {
            let request = Request::Exec {
                process,
                privileged: flags.privileged,
                streams: None,
            };
            connection.send(&request, &[]).await?;
            return match client::answer(&container, &connection).await? {
                Response::Started => Ok(0),
                other => bail!("the supervisor answered {other:?} to an exec"),
            };
        }
        let mut attachment = Attachment::new(StdioWish {
            stdin: flags.interactive,
            terminal: flags.tty,
        })?;
        let request = Request::Exec {
            process,
            privileged: flags.privileged,
            streams: Some(attachment.streams),
        };
        attachment.send(&connection, &request).await?;
        Ok(attachment.run(&container, &connection).await?.code)
    })
}
