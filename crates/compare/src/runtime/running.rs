//! A container in the background.

use std::net::SocketAddr;
use std::time::Duration;

use super::Runtime;
use super::container::Container;
use super::process::{self, Outcome};
use crate::error::Result;

/// A container that runs; it is ended and removed when this value is dropped.
pub struct Running {
    runtime: Runtime,
    id: String,
    container: Container,
    started: Option<Outcome>,
}

impl Running {
    pub(super) fn new(runtime: Runtime, id: String, container: Container) -> Self {
        Self {
            runtime,
            id,
            container,
            started: None,
        }
    }

    pub(super) fn started(&mut self, outcome: Outcome) {
        self.started = Some(outcome);
    }

    /// The command that started it, and what it took.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.started.as_ref()
    }

    /// Runs a program in it.
    pub fn exec(&self, command: &[&str], deadline: Duration) -> Result<Outcome> {
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let runtime = &self.runtime;
        let invocation = runtime.engine.exec(runtime.kind, &self.id, &words);
        process::run(invocation, b"", deadline, &runtime.interrupt)
    }

    /// Where its published port is reached from the host.
    pub fn address(&self) -> Option<SocketAddr> {
        let runtime = &self.runtime;
        runtime
            .engine
            .address(runtime.kind, &self.id, &self.container)
    }

    /// The processes that the host has because of it, the engine's own not among them.
    pub fn processes(&self) -> Vec<u32> {
        let runtime = &self.runtime;
        self.started.as_ref().map_or(Vec::new(), |started| {
            runtime.engine.processes(runtime.kind, &self.id, started)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let runtime = &self.runtime;
        runtime.engine.remove(runtime.kind, &self.id, false);
    }
}
