//! Streams that the host opens by number, until the request comes that uses them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caisson_protocol::{HOST_CID, STREAM_HEADER_LEN};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio_vsock::{VsockListener, VsockStream};

use crate::error::{Error, Result};

/// Streams that nobody has asked for. More are closed as they come.
const WAITING_LIMIT: usize = 256;

/// How long a numbered stream is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

/// The streams that wait to be used.
#[derive(Debug, Default)]
pub struct Streams {
    waiting: Mutex<HashMap<u64, VsockStream>>,
    arrived: Notify,
}

impl Streams {
    /// Takes streams from the listener for ever.
    pub async fn accept(self: Arc<Self>, listener: VsockListener) -> Result<()> {
        loop {
            let (mut stream, peer) = listener
                .accept()
                .await
                .map_err(Error::system("accept a stream"))?;
            if peer.cid() != HOST_CID {
                continue;
            }
            let streams = Arc::clone(&self);
            tokio::spawn(async move {
                let mut number = [0; STREAM_HEADER_LEN];
                // However long it takes: the host opens some before it needs them.
                if stream.read_exact(&mut number).await.is_ok() {
                    streams.insert(u64::from_be_bytes(number), stream);
                }
            });
        }
    }

    fn insert(&self, number: u64, stream: VsockStream) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_LIMIT {
            waiting.insert(number, stream);
            self.arrived.notify_waiters();
        } else {
            eprintln!("agent: too many streams wait; number {number} is closed");
        }
    }

    /// The stream with that number; `None` for 0, which means that none is wanted.
    pub async fn take(&self, number: u64) -> Result<Option<VsockStream>> {
        if number == 0 {
            return Ok(None);
        }
        let taken = async {
            loop {
                let arrived = self.arrived.notified();
                let stream = self
                    .waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&number);
                if let Some(stream) = stream {
                    return stream;
                }
                arrived.await;
            }
        };
        match tokio::time::timeout(DEADLINE, taken).await {
            Ok(stream) => Ok(Some(stream)),
            Err(_) => Err(Error::Invalid(format!("stream {number} was not opened"))),
        }
    }
}
