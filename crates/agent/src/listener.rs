//! The agent's vsock ports.

use std::sync::Arc;

use caisson_protocol::{AGENT_PORT, STREAM_PORT, agent_ttrpc};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::container::Spare;
use crate::disks::Disks;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::reaper::Reaper;
use crate::server::Server;
use crate::standby::stand_by;
use crate::streams::Streams;
use crate::template;

/// Serves the host until something that cannot fail does.
pub async fn serve(started_ns: i64) -> Result<()> {
    let streams = Arc::new(Streams::default());
    let reaper = Arc::new(Reaper::default());
    let reaping = reaper.watch()?;

    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, STREAM_PORT))
        .map_err(Error::system("listen on the stream port"))?;
    let host = Arc::new(Host::default());
    let disks = Arc::new(Disks::default());
    let spare = Arc::new(Spare::default());
    let service = agent_ttrpc::create_agent(Arc::new(Server::new(
        Arc::clone(&streams),
        Arc::clone(&reaper),
        started_ns,
        Arc::clone(&host),
        Arc::clone(&disks),
        Arc::clone(&spare),
    )));
    let mut server = ttrpc::asynchronous::Server::new()
        .bind(&format!("vsock://{VMADDR_CID_ANY}:{AGENT_PORT}"))
        .map_err(|error| Error::Invalid(format!("cannot listen on the agent's port: {error}")))?
        .register_service(service);
    server
        .start()
        .await
        .map_err(|error| Error::Invalid(format!("cannot serve the agent's port: {error}")))?;

    if let Some(wanted) = template::wanted()? {
        stand_by(&wanted, &disks, &spare, &reaper).await?;
        // What has been logged so far is the same for all forks: it is not theirs to send.
        host.program_runs();
    }
    // All ports listen: this connection is how the host learns that. In a template it is
    // there when the machine is frozen.
    host.call().await?;
    tokio::select! {
        ended = streams.accept(listener) => ended,
        ended = reaping => ended,
    }
}
