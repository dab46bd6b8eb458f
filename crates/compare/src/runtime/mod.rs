//! The runtimes under comparison, each driven through a front door that its users have.
//!
//! An [`Engine`] says which command runs a container; everything else (deadlines, output, what
//! is typed by hand, what is left behind) is the same for all of them, so that no runtime is
//! measured in another way than the next.

mod bundle;
mod caisson;
mod container;
mod containerd;
mod ctr;
mod docker;
mod engine;
mod host;
mod installed;
mod interrupt;
mod leftover;
mod network;
mod process;
mod rootfs;
mod running;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use container::{Container, Mount, Publish};
use containerd::Containerd;
pub use engine::{Engine, EngineName, Image, Invocation};
pub use host::{descendants, processes_with_argument};
pub use installed::{Absent, Kind, Program};
pub use interrupt::Interrupt;
pub use network::Network;
pub use process::{Ending, Outcome, output};
pub use running::Running;

use crate::error::{Error, Result};

/// One runtime on the engine that all of them share.
#[derive(Clone)]
pub struct Runtime {
    /// Which one.
    pub kind: Kind,
    engine: Arc<dyn Engine>,
    interrupt: Interrupt,
}

/// The runtimes of one comparison.
pub struct Runtimes {
    /// Those that are installed, in the order in which they were named.
    pub present: Vec<Runtime>,
    /// Those that are not, with the command that installs them.
    pub absent: Vec<Absent>,
    engine: Arc<dyn Engine>,
}

impl Runtimes {
    /// Starts the engine, in a folder of its own below `scratch`, and looks for the runtimes.
    pub fn open(
        engine: EngineName,
        wanted: &[Kind],
        caisson: &Path,
        scratch: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let engine: Arc<dyn Engine> = match engine {
            EngineName::Containerd => Arc::new(Containerd::start(caisson, scratch, interrupt)?),
            EngineName::Docker => Arc::new(docker::Docker::open(caisson, scratch, interrupt)?),
            EngineName::Caisson => Arc::new(caisson::Direct::new(caisson, scratch, interrupt)?),
        };
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for kind in wanted {
            match engine.missing(*kind) {
                None => present.push(Runtime {
                    kind: *kind,
                    engine: engine.clone(),
                    interrupt: interrupt.clone(),
                }),
                Some(missing) => absent.push(missing),
            }
        }
        Ok(Self {
            present,
            absent,
            engine,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Makes the image of an OCI archive known to the engine.
    pub fn load(&self, archive: &Path) -> Result<Image> {
        self.engine.load(archive)
    }

    /// The one that does best what a comparison needs: containerd, since only the same engine for
    /// all runtimes is a fair comparison; none where it is not installed.
    pub fn best_engine() -> (EngineName, &'static str) {
        if Containerd::installed() {
            let reason = "containerd, ctr and runc are installed, and all runtimes have the same engine in front of them";
            (EngineName::Containerd, reason)
        } else {
            let reason = "containerd, ctr or runc is not installed (apt-get install containerd runc), so each runtime is started directly";
            (EngineName::Caisson, reason)
        }
    }

    /// One of them by its name, if it is installed.
    pub fn get(&self, kind: Kind) -> Option<&Runtime> {
        self.present.iter().find(|runtime| runtime.kind == kind)
    }
}

impl Runtime {
    /// Runs a container to its end and removes what is left of it.
    ///
    /// A runtime that refuses or fails is an [`Outcome`], not an error: that is what is compared.
    pub fn run(&self, container: &Container) -> Result<Outcome> {
        let id = new_id();
        let invocation = self.engine.invocation(self.kind, &id, container, false)?;
        let outcome = process::run(
            invocation,
            &container.stdin,
            container.deadline,
            &self.interrupt,
        );
        let ended = matches!(&outcome, Ok(outcome) if matches!(outcome.ending, Ending::Exited(_)));
        self.engine.remove(self.kind, &id, ended);
        outcome
    }

    /// Starts a container that runs until it is stopped.
    pub fn start(&self, container: &Container) -> Result<Running> {
        let id = new_id();
        let invocation = self.engine.invocation(self.kind, &id, container, true)?;
        // From here on whatever has been made is removed when this value is dropped.
        let mut running = Running::new(self.clone(), id, container.clone());
        let outcome = process::run_detached(invocation, container.deadline, &self.interrupt)?;
        if !outcome.success() {
            return Err(Error::NotStarted {
                runtime: self.kind,
                outcome: Box::new(outcome),
            });
        }
        running.started(outcome);
        Ok(running)
    }
}

/// A name that no other comparison on this machine uses.
fn new_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{number}", id_prefix())
}

/// How the names of this comparison's containers begin.
fn id_prefix() -> String {
    format!("compare-{}-", std::process::id())
}
