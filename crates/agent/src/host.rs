//! The connection that tells the host that the agent is there.

use std::sync::{Arc, Mutex, PoisonError};

use caisson_protocol::{HOST_CID, LOG_PORT};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::error::{Error, Result};
use crate::{log, template};

/// The host, as the agent knows it.
#[derive(Debug, Default)]
pub struct Host {
    /// Told when the program of a container runs, which comes before the log.
    busy: Arc<Notify>,
    log: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    /// Connects to the host. The connection carries the log from then on, in place of the
    /// one before.
    pub async fn call(&self) -> Result<()> {
        let stream = VsockStream::connect(VsockAddr::new(HOST_CID, LOG_PORT))
            .await
            .map_err(Error::system("connect to the host"))?;
        let forward = tokio::spawn(log::forward(stream, Arc::clone(&self.busy)));
        let before = self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(forward);
        if let Some(before) = before {
            before.abort();
        }
        Ok(())
    }

    /// A program runs, or nobody waits for one: the log may begin.
    pub fn program_runs(&self) {
        self.busy.notify_one();
    }

    /// Lets go of every connection while the host makes a snapshot, and calls it again.
    pub async fn let_go(&self) -> Result<()> {
        template::let_go()?;
        self.call().await
    }
}
