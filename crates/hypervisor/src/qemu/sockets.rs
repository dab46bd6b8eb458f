//! The socket device of a template, and of its forks.
//!
//! A template's guest is connected to its host before it is frozen: the agent has called,
//! and has taken a connection for what it will be asked and some for streams. A fork's
//! device goes on with them, so that its guest has no device to probe and nothing to
//! connect to. Streams that nobody asks for are for the first processes that are executed.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use caisson_protocol::{AGENT_PORT, STREAM_PORT};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::arguments::VSOCK;
use super::driver::Driver;
use super::monitor::Monitor;
use super::{file, fork, read, slot};
use crate::device::{Control, Guest};
use crate::template::SOCKETS;
use crate::{Error, Result, VmConfig};

/// Ports to which a template's guest is connected: one for the agent's calls, and a
/// stream for each of a process's standard ones.
const PORTS: [u32; 4] = [AGENT_PORT, STREAM_PORT, STREAM_PORT, STREAM_PORT];

/// What a fork's socket device goes on with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sockets {
    /// Address of the template's guest. It is that of all its forks: nobody but a
    /// machine's own device is told of it.
    cid: u64,
    driver: Driver,
    /// What the template's device noted.
    connections: Vec<u8>,
}

impl Sockets {
    /// Those of a template; none for a snapshot.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        read(&directory.join(SOCKETS))
    }

    /// Leaves them in a template.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(SOCKETS);
        let write = || {
            let mut file = File::create_new(&path)?;
            serde_json::to_writer(&mut file, self)?;
            file.sync_all()
        };
        write().map_err(file(&path))
    }

    /// Takes the device away from a template, which stands still.
    pub(super) async fn detach(
        config: &VmConfig,
        monitor: &mut Monitor,
        control: &Control,
        state: &File,
    ) -> io::Result<Self> {
        let noted = control.note().await.map_err(io::Error::other)?;
        if !noted {
            return Err(io::Error::other("something was sent to its agent"));
        }
        let mut connections = Vec::new();
        (&*state).rewind()?;
        (&*state).read_to_end(&mut connections)?;
        let driver = Driver::of(monitor, VSOCK).await?;
        fork::unplug(monitor, slot::VSOCK, VSOCK).await?;
        Ok(Self {
            cid: config.cid,
            driver,
            connections,
        })
    }

    /// Who a fork's device serves.
    pub(super) fn guest(&self, config: &VmConfig) -> Guest {
        Guest {
            cid: self.cid,
            host_ports: config.host_ports.clone(),
        }
    }

    /// What a fork's device is given.
    pub(super) fn state(&self) -> Result<File> {
        let make = || {
            let mut file = state()?;
            file.write_all(&self.connections)?;
            file.rewind()?;
            Ok(file)
        };
        make().map_err(Error::host("cannot make a file for the connections"))
    }

    /// Tells a fork's device, which has just been plugged in, of its rings.
    pub(super) async fn tell(&self, monitor: &mut Monitor) -> io::Result<()> {
        self.driver.tell(monitor, slot::VSOCK).await
    }
}

/// The file of a device that knows no guest yet.
pub(super) fn state() -> io::Result<File> {
    let file = rustix::fs::memfd_create("connections", MemfdFlags::CLOEXEC)?;
    Ok(file.into())
}

/// Connects to the agent of a template. The connections last as long as these.
pub(super) async fn connect(control: &Control) -> Result<Vec<UnixStream>> {
    let mut connections = Vec::new();
    for port in PORTS {
        connections.push(control.connect(port).await?);
    }
    Ok(connections)
}
