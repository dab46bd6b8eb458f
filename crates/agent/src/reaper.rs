//! Every process of the guest that loses its parent is ours to wait for, and the
//! containers' processes are our children anyway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::boot::realtime_ns;
use crate::error::{Error, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n if signal n ended it.
    pub code: u8,
    /// Wall clock, nanoseconds since the epoch.
    pub at_ns: i64,
}

/// Tells when a process has ended; any number of clones.
pub type ExitWatch = watch::Receiver<Option<Exit>>;

/// Waits for children.
#[derive(Debug, Default)]
pub struct Reaper {
    children: Mutex<HashMap<Pid, watch::Sender<Option<Exit>>>>,
}

impl Reaper {
    /// Registers a child that was made since the last `await`: nothing can have
    /// reaped it yet.
    pub fn expect(&self, child: Pid) -> ExitWatch {
        let (sender, receiver) = watch::channel(None);
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(child, sender);
        receiver
    }

    /// Begins to listen for ends, and returns the work of reaping.
    pub fn watch(self: &Arc<Self>) -> Result<impl Future<Output = Result<()>> + use<>> {
        let mut ends =
            signal(SignalKind::child()).map_err(Error::system("listen for the end of children"))?;
        let reaper = Arc::clone(self);
        Ok(async move {
            loop {
                // Signals merge: one may stand for several ends.
                reaper.reap();
                if ends.recv().await.is_none() {
                    return Err(Error::Invalid("no more signals arrive".to_owned()));
                }
            }
        })
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let sender = self
                .children
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&pid);
            if let Some(sender) = sender {
                sender.send_replace(Some(Exit {
                    code: code(status),
                    at_ns: realtime_ns(),
                }));
            }
        }
    }
}

/// As a shell would have it.
pub fn code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// The end, once it has come.
pub async fn ended(watch: &ExitWatch) -> Exit {
    let mut watch = watch.clone();
    match watch.wait_for(Option::is_some).await {
        Ok(exit) => exit.unwrap_or(LOST),
        Err(_) => LOST,
    }
}

/// What is said of a process whose end nobody saw; it cannot happen, as the
/// reaper lives as long as the agent.
const LOST: Exit = Exit {
    code: 255,
    at_ns: 0,
};
