//! A machine that runs: QEMU and its device processes, watched until the end.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::console::Console;
use super::monitor::Monitor;
use crate::device::Control;
use crate::process::Process;
use crate::{Error, ExitReason, PausedVm, Result, RunningVm, Template};

/// A device process ends when QEMU does, and may be seen to end first: how long
/// QEMU's own end is waited for before the device is called the cause.
const QEMU_FOLLOWS: Duration = Duration::from_secs(2);

/// What a machine consists of.
pub(super) struct Parts {
    pub(super) qemu: Process,
    pub(super) devices: Vec<Process>,
    pub(super) control: Control,
    pub(super) monitor: Monitor,
    pub(super) console: Console,
    pub(super) recorder: JoinHandle<()>,
    /// The way to the guest's serial port. When it is dropped, QEMU takes the port for
    /// unplugged, and what the guest writes is lost.
    pub(super) to_guest: OwnedWriteHalf,
    pub(super) host_ports: Vec<u32>,
}

/// A QEMU machine. Whether its CPUs run is said by the trait object that it is
/// handed out as.
pub(super) struct Machine {
    control: Control,
    monitor: Mutex<Monitor>,
    host_ports: Vec<u32>,
    processes: Vec<u32>,
    kill: mpsc::Sender<()>,
    ended: watch::Receiver<Option<ExitReason>>,
    watcher: JoinHandle<()>,
}

impl Machine {
    pub(super) fn start(parts: Parts) -> Self {
        let processes = std::iter::once(&parts.qemu)
            .chain(&parts.devices)
            .filter_map(Process::id)
            .collect();
        let (kill, killed) = mpsc::channel(1);
        let (sender, ended) = watch::channel(None);
        let watcher = Watcher {
            qemu: parts.qemu,
            devices: parts.devices,
            console: parts.console,
            recorder: parts.recorder,
            _to_guest: parts.to_guest,
        };
        let watcher = tokio::spawn(async move {
            let reason = watcher.run(killed).await;
            // Nobody may be left to learn it.
            drop(sender.send(Some(reason)));
        });
        Self {
            control: parts.control,
            monitor: Mutex::new(parts.monitor),
            host_ports: parts.host_ports,
            processes,
            kill,
            ended,
            watcher,
        }
    }

    async fn execute(&self, command: &'static str, doing: &'static str) -> Result<()> {
        match self.monitor.lock().await.execute(command, json!({})).await {
            Ok(_) => Ok(()),
            Err(_) if self.ended.borrow().is_some() => Err(Error::Ended),
            Err(error) => Err(Error::Process {
                program: "QEMU".to_owned(),
                doing,
                detail: error.to_string(),
            }),
        }
    }

    async fn end(&self) -> ExitReason {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(ExitReason::Killed),
            // The watcher was aborted, which only `drop` does.
            Err(_) => ExitReason::Killed,
        }
    }

    async fn kill_now(&self) -> ExitReason {
        // A full channel holds the same request, a closed one says that it has ended.
        let _ = self.kill.try_send(());
        self.end().await
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its processes go with the task that holds them.
        self.watcher.abort();
    }
}

#[async_trait]
impl RunningVm for Machine {
    async fn connect(&self, port: u32) -> Result<UnixStream> {
        tokio::select! {
            stream = self.control.connect(port) => stream,
            _ = self.end() => Err(Error::Ended),
        }
    }

    async fn accept(&self) -> Result<(u32, UnixStream)> {
        loop {
            let (port, stream) = tokio::select! {
                accepted = self.control.accept() => accepted?,
                _ = self.end() => return Err(Error::Ended),
            };
            if self.host_ports.contains(&port) {
                return Ok((port, stream));
            }
            tracing::warn!(port, "the vsock device passed a port that nobody asked for");
        }
    }

    async fn pause(self: Box<Self>) -> Result<Box<dyn PausedVm>> {
        self.execute("stop", "pausing the machine").await?;
        Ok(self)
    }

    async fn wait(&self) -> ExitReason {
        self.end().await
    }

    async fn kill(&self) -> Result<ExitReason> {
        Ok(self.kill_now().await)
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.clone()
    }
}

#[async_trait]
impl PausedVm for Machine {
    async fn resume(self: Box<Self>) -> Result<Box<dyn RunningVm>> {
        self.execute("cont", "resuming the machine").await?;
        Ok(self)
    }

    async fn snapshot(&self, _: &Path) -> Result<Template> {
        Err(Error::Unsupported {
            driver: "qemu",
            what: "freeze a machine into a template yet",
        })
    }

    async fn kill(self: Box<Self>) -> Result<ExitReason> {
        Ok(self.kill_now().await)
    }
}

/// Holds the processes of a machine until one of them ends, then ends the others.
struct Watcher {
    qemu: Process,
    devices: Vec<Process>,
    console: Console,
    recorder: JoinHandle<()>,
    _to_guest: OwnedWriteHalf,
}

impl Watcher {
    async fn run(mut self, mut kill: mpsc::Receiver<()>) -> ExitReason {
        let reason = tokio::select! {
            // The sender lives as long as the machine: `None` means it was dropped.
            _ = kill.recv() => ExitReason::Killed,
            status = self.qemu.wait() => self.qemu_ended(status).await,
            (device, status) = first(&mut self.devices) => self.device_ended(device, status).await,
        };
        self.qemu.kill().await;
        for device in &mut self.devices {
            device.kill().await;
        }
        reason
    }

    async fn qemu_ended(&mut self, status: ExitStatus) -> ExitReason {
        // All that the guest wrote has been read when QEMU's end is closed and
        // the recorder has seen it.
        drop((&mut self.recorder).await);
        match self.console.panic() {
            Some(message) => ExitReason::Crashed(format!("kernel panic: {message}")),
            None if status.success() => ExitReason::PoweredOff,
            None => ExitReason::ProcessDied(self.qemu.obituary(status).await),
        }
    }

    async fn device_ended(&mut self, device: usize, status: ExitStatus) -> ExitReason {
        if status.success()
            && let Ok(status) = tokio::time::timeout(QEMU_FOLLOWS, self.qemu.wait()).await
        {
            return self.qemu_ended(status).await;
        }
        ExitReason::ProcessDied(self.devices[device].obituary(status).await)
    }
}

/// The first device process that ends.
async fn first(devices: &mut [Process]) -> (usize, ExitStatus) {
    let waits = devices.iter_mut().map(|device| Box::pin(device.wait()));
    let mut waits: Vec<_> = waits.collect();
    std::future::poll_fn(|context| {
        for (index, wait) in waits.iter_mut().enumerate() {
            if let std::task::Poll::Ready(status) = wait.as_mut().poll(context) {
                return std::task::Poll::Ready((index, status));
            }
        }
        std::task::Poll::Pending
    })
    .await
}
