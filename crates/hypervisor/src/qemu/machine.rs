//! A machine that runs: QEMU and its device processes, watched until the end.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::arguments::{approve, network_device};
use super::console::Console;
use super::disk;
use super::fork;
use super::interface::{Interface, Renewal, StandIn};
use super::monitor::Monitor;
use super::slot::{Occupant, Occupied, Slot};
use super::snapshot::{self, Forked};
use crate::device::{Control, State};
use crate::process::Process;
use crate::{
    Copies, Error, ExitReason, NetworkInterface, OpenDisk, PausedVm, Result, RunningVm, WhileStill,
};

/// A device process ends when QEMU does, and may be seen to end first: how long
/// QEMU's own end is waited for before the device is called the cause.
const QEMU_FOLLOWS: Duration = Duration::from_secs(5);

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
    pub(super) occupied: Occupied,
    /// Interfaces that are exchanged once the guest has woken up.
    pub(super) renewal: Renewal,
    pub(super) host_ports: Vec<u32>,
    /// What the file system device knows of the guest.
    pub(super) files: Option<State>,
    /// What it takes to make a snapshot; none if there can be none.
    pub(super) forked: Option<Forked>,
    /// Numbers of devices that the guest has not looked at.
    pub(super) new_devices: Vec<u32>,
}

/// What the watcher of a machine is told.
enum Order {
    /// End it.
    Kill,
    /// Hand the device of this name out: its end will be nobody's fault.
    Retire(&'static str, oneshot::Sender<Option<Process>>),
    /// Another one has taken its place.
    Adopt(Box<Process>),
}

/// Orders that have not been carried out. A second one to kill is one too many.
const ORDERS: usize = 4;

/// A QEMU machine. Whether its CPUs run is said by the trait object that it is
/// handed out as.
pub(super) struct Machine {
    control: std::sync::Mutex<Arc<Control>>,
    pub(super) monitor: Mutex<Monitor>,
    occupied: std::sync::Mutex<Occupied>,
    renewal: std::sync::Mutex<Renewal>,
    pub(super) console: Console,
    /// The way to the guest's serial port. When it is dropped, QEMU takes the port for
    /// unplugged, and what the guest writes is lost.
    pub(super) to_guest: Mutex<OwnedWriteHalf>,
    pub(super) forked: Option<Forked>,
    new_devices: Vec<u32>,
    /// How many snapshots the agent has let go for.
    pub(super) snapshots: Mutex<u64>,
    /// Process id of QEMU.
    pub(super) qemu: u32,
    host_ports: Vec<u32>,
    processes: Arc<std::sync::Mutex<Vec<u32>>>,
    orders: mpsc::Sender<Order>,
    ended: watch::Receiver<Option<ExitReason>>,
    watcher: JoinHandle<()>,
}

impl Machine {
    pub(super) fn start(parts: Parts) -> Self {
        let processes = Arc::default();
        let qemu = parts.qemu.id().unwrap_or_default();
        let (orders, received) = mpsc::channel(ORDERS);
        let (sender, ended) = watch::channel(None);
        let watcher = Watcher {
            qemu: parts.qemu,
            devices: parts.devices,
            console: parts.console.clone(),
            recorder: parts.recorder,
            processes: Arc::clone(&processes),
        };
        watcher.note();
        let watcher = tokio::spawn(async move {
            let reason = watcher.run(received).await;
            // Nobody may be left to learn it.
            drop(sender.send(Some(reason)));
        });
        Self {
            control: std::sync::Mutex::new(Arc::new(parts.control)),
            monitor: Mutex::new(parts.monitor),
            occupied: std::sync::Mutex::new(parts.occupied),
            renewal: std::sync::Mutex::new(parts.renewal),
            console: parts.console,
            to_guest: Mutex::new(parts.to_guest),
            forked: parts.forked,
            new_devices: parts.new_devices,
            snapshots: Mutex::new(0),
            qemu,
            host_ports: parts.host_ports,
            processes,
            orders,
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

    fn occupied(&self) -> std::sync::MutexGuard<'_, Occupied> {
        self.occupied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn plug_into(&self, interface: &NetworkInterface, slot: Slot) -> io::Result<()> {
        let mut monitor = self.monitor.lock().await;
        fork::plug_network(&mut monitor, interface, slot).await
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

    async fn renew(&self, renewal: &Renewal) -> io::Result<()> {
        let mut monitor = self.monitor.lock().await;
        for StandIn { slot, tap } in &renewal.stand_ins {
            monitor.execute("qom-set", approve(*slot)).await?;
            let device = json!({ "id": slot.interface() });
            monitor.execute("device_del", device).await?;
            let netdev = match (renewal.is_copied, tap) {
                (true, _) => slot.netdev(),
                (false, Some(_)) => slot.stand_in(),
                (false, None) => continue,
            };
            monitor
                .execute("netdev_del", json!({ "id": netdev }))
                .await?;
        }
        for (slot, interface) in &renewal.later {
            match renewal.is_copied {
                true => fork::plug_network(&mut monitor, interface, *slot).await?,
                false => {
                    fork::plug(&mut monitor, *slot, network_device(interface, *slot)).await?;
                }
            }
        }
        Ok(())
    }

    /// What the guest was promised of its network interfaces, by their slots.
    pub(super) fn promised(&self) -> Vec<Option<Interface>> {
        self.occupied().promised()
    }

    fn control(&self) -> Arc<Control> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&control)
    }

    /// Takes a device process out of the machine.
    pub(super) async fn retire(&self, name: &'static str) -> Result<Option<Process>> {
        let (sender, process) = oneshot::channel();
        let order = Order::Retire(name, sender);
        self.orders.send(order).await.map_err(|_| Error::Ended)?;
        process.await.map_err(|_| Error::Ended)
    }

    /// Makes the process of another vsock device part of the machine.
    pub(super) async fn adopt_vsock(&self, process: Process, control: Control) -> Result<()> {
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(control);
        self.adopt(process).await
    }

    /// Makes another device process part of the machine.
    pub(super) async fn adopt(&self, process: Process) -> Result<()> {
        let order = Order::Adopt(Box::new(process));
        self.orders.send(order).await.map_err(|_| Error::Ended)
    }

    pub(super) async fn end(&self) -> ExitReason {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(ExitReason::Killed),
            // The watcher was aborted, which only `drop` does.
            Err(_) => ExitReason::Killed,
        }
    }

    async fn kill_now(&self) -> ExitReason {
        // A closed channel says that it has ended.
        let _ = self.orders.send(Order::Kill).await;
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
        let control = self.control();
        tokio::select! {
            stream = control.connect(port) => stream,
            _ = self.end() => Err(Error::Ended),
        }
    }

    async fn accept(&self) -> Result<(u32, UnixStream)> {
        let control = self.control();
        loop {
            let (port, stream) = tokio::select! {
                accepted = control.accept() => accepted?,
                _ = self.end() => return Err(Error::Ended),
            };
            if self.host_ports.contains(&port) {
                return Ok((port, stream));
            }
            tracing::warn!(port, "the vsock device passed a port that nobody asked for");
        }
    }

    fn new_devices(&self) -> Vec<u32> {
        self.new_devices.clone()
    }

    async fn renew_networks(&self) -> Result<Vec<u32>> {
        let renewal = {
            let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *renewal)
        };
        let renewed = self.renew(&renewal).await;
        renewed.map_err(self.refused("exchanging network interfaces"))?;
        let slots = renewal.later.iter().map(|(slot, _)| slot);
        Ok(slots.filter_map(|slot| slot.guest_number()).collect())
    }

    async fn plug(&self, interface: &NetworkInterface) -> Result<u32> {
        let promised = Interface::of(&interface.backend);
        let occupant = Occupant::Network(interface.mac, promised);
        let slot = self.occupied().take(occupant).ok_or(Error::NoSlot)?;
        if let Err(error) = self.plug_into(interface, slot).await {
            // Part of it may be there: the slot stays taken.
            return Err(self.refused("plugging in a network interface")(error));
        }
        slot.guest_number().ok_or(Error::NoSlot)
    }

    async fn unplug(&self, mac: [u8; 6]) -> Result<()> {
        let Some(slot) = self.occupied().network(mac) else {
            return Ok(());
        };
        let unplugged = self.unplug_from(slot).await;
        unplugged.map_err(self.refused("unplugging a network interface"))?;
        self.occupied().free(slot);
        Ok(())
    }

    async fn plug_disk(&self, disk: &OpenDisk) -> Result<u32> {
        let occupant = Occupant::Disk(disk.serial.clone());
        let slot = self.occupied().take(occupant).ok_or(Error::NoSlot)?;
        let plugged = disk::plug(&mut *self.monitor.lock().await, disk, slot).await;
        // If not, part of it may be there: the slot stays taken.
        plugged.map_err(self.refused("plugging in a disk"))?;
        slot.guest_number().ok_or(Error::NoSlot)
    }

    async fn unplug_disk(&self, serial: &str) -> Result<()> {
        let Some(slot) = self.occupied().disk(serial) else {
            return Ok(());
        };
        let unplugged = disk::unplug(&mut *self.monitor.lock().await, slot).await;
        unplugged.map_err(self.refused("unplugging a disk"))?;
        self.occupied().free(slot);
        Ok(())
    }

    async fn snapshot(&self, directory: &Path, copies: Copies, still: WhileStill) -> Result<()> {
        snapshot::snapshot(self, directory, copies, still).await
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
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[async_trait]
impl PausedVm for Machine {
    async fn resume(self: Box<Self>) -> Result<Box<dyn RunningVm>> {
        self.execute("cont", "resuming the machine").await?;
        Ok(self)
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
    /// Ids of the processes, for those who ask.
    processes: Arc<std::sync::Mutex<Vec<u32>>>,
}

impl Watcher {
    fn note(&self) {
        let all = std::iter::once(&self.qemu).chain(&self.devices);
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *processes = all.filter_map(Process::id).collect();
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> ExitReason {
        let reason = loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                status = self.qemu.wait() => break self.qemu_ended(status).await,
                (device, status) = first(&mut self.devices) => {
                    break self.device_ended(device, status).await;
                }
            };
            match order {
                Some(Order::Retire(name, to)) => {
                    let place = self.devices.iter().position(|device| device.name == name);
                    let retired = place.map(|place| self.devices.remove(place));
                    self.note();
                    // Unclaimed, it ends as it is dropped.
                    let _ = to.send(retired);
                }
                Some(Order::Adopt(process)) => {
                    self.devices.push(*process);
                    self.note();
                }
                // The sender lives as long as the machine: `None` means it was dropped.
                Some(Order::Kill) | None => break ExitReason::Killed,
            }
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
