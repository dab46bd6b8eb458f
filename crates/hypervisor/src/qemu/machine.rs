//! A machine that runs: QEMU and its device processes, watched until the end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::arguments::{approve, netdev, network_device};
use super::console::Console;
use super::monitor::Monitor;
use super::slot::{Networks, Slot};
use crate::device::Control;
use crate::process::Process;
use crate::{
    Error, ExitReason, NetworkBackend, NetworkInterface, PausedVm, Result, RunningVm, Template,
};

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
    pub(super) networks: Networks,
    pub(super) host_ports: Vec<u32>,
}

/// A QEMU machine. Whether its CPUs run is said by the trait object that it is
/// handed out as.
pub(super) struct Machine {
    control: Control,
    monitor: Mutex<Monitor>,
    networks: std::sync::Mutex<Networks>,
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
            networks: std::sync::Mutex::new(parts.networks),
            host_ports: parts.host_ports,
            processes,
            kill,
            ended,
            watcher,
        }
    }

    async fn execute(&self, command: &'static str, doing: &'static str) -> Result<()> {
        let mut monitor = self.monitor.lock().await;
        let answer = monitor.execute(command, json!({})).await;
        answer.map(drop).map_err(self.refused(doing))
    }

    fn refused(&self, doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        let ended = self.ended.borrow().is_some();
        move |error| match ended {
            true => Error::Ended,
            false => Error::Process {
                program: "QEMU".to_owned(),
                doing,
                detail: error.to_string(),
            },
        }
    }

    fn networks(&self) -> std::sync::MutexGuard<'_, Networks> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn plug_into(&self, interface: &NetworkInterface, slot: Slot) -> io::Result<()> {
        let (NetworkBackend::Stream(frames) | NetworkBackend::Tap(frames)) = &interface.backend;
        let name = slot.netdev();
        let mut monitor = self.monitor.lock().await;
        monitor.give(&name, frames.as_fd()).await?;
        monitor
            .execute("netdev_add", netdev(interface, slot, &name))
            .await?;
        monitor.execute("qom-set", approve(slot)).await?;
        monitor
            .execute("device_add", network_device(interface, slot))
            .await?;
        Ok(())
    }

    async fn unplug_from(&self, slot: Slot) -> io::Result<()> {
        let mut monitor = self.monitor.lock().await;
        monitor.execute("qom-set", approve(slot)).await?;
        let device = json!({ "id": slot.interface() });
        monitor.execute("device_del", device).await?;
        let netdev = json!({ "id": slot.netdev() });
        monitor.execute("netdev_del", netdev).await?;
        Ok(())
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

    async fn plug(&self, interface: &NetworkInterface) -> Result<u32> {
        let slot = self.networks().take(interface.mac).ok_or(Error::NoSlot)?;
        if let Err(error) = self.plug_into(interface, slot).await {
            // Part of it may be there: the slot stays taken.
            return Err(self.refused("plugging in a network interface")(error));
        }
        slot.guest_number().ok_or(Error::NoSlot)
    }

    async fn unplug(&self, mac: [u8; 6]) -> Result<()> {
        let Some(slot) = self.networks().find(mac) else {
            return Ok(());
        };
        let unplugged = self.unplug_from(slot).await;
        unplugged.map_err(self.refused("unplugging a network interface"))?;
        self.networks().free(slot);
        Ok(())
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
