//! The model behind vhost-user.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use caisson_virtio::vsock::{FEATURES, Host, RX_QUEUE, TX_QUEUE, Vsock};
use tracing::{debug, error};
use vhost::vhost_user::Result as VhostUserResult;
use vhost::vhost_user::message::VhostUserVirtioFeatures;

use super::control::{Control, Request};
use super::memory::Memory;
use super::ring::Ring;
use super::state::State;

/// Queues of the device that the back-end serves; the VMM keeps the event queue.
pub const QUEUES: usize = 2;

/// `VIRTIO_RING_F_EVENT_IDX`.
const F_EVENT_INDEX: u64 = 1 << 29;

/// The device and what the frontend told of it.
pub struct Backend {
    pub(super) device: Vsock<Control>,
    pub(super) memory: Memory,
    state: State,
    /// In the order of their indexes.
    pub(super) rings: [Ring; QUEUES],
    /// Those that the frontend chose.
    features: u64,
    /// The driver broke a ring.
    broken: bool,
}

impl Backend {
    /// The device; the rings' kicks are watched with their indexes as tokens.
    pub fn new(device: Vsock<Control>, memory: Memory, state: State, epoll: &Arc<OwnedFd>) -> Self {
        let ring = |index| Ring::new(Arc::clone(epoll), index as u64, state.goes_on());
        let rings = [ring(RX_QUEUE), ring(TX_QUEUE)];
        Self {
            device,
            memory,
            state,
            rings,
            features: 0,
            broken: false,
        }
    }

    pub const fn offered() -> u64 {
        FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    /// Takes the frontend's choice.
    pub fn set_features(&mut self, features: u64) -> VhostUserResult<()> {
        for ring in &mut self.rings {
            ring.stop()?;
            // Without protocol features there is no message that enables a ring.
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                ring.set_enabled(true)?;
            }
        }
        self.features = features;
        self.start()
    }

    /// Lets the rings run of which all is known.
    pub fn start(&mut self) -> VhostUserResult<()> {
        let Some(memory) = self.memory.guest() else {
            return Ok(());
        };
        let event_index = self.features & F_EVENT_INDEX != 0;
        for ring in &mut self.rings {
            match ring.start(memory, event_index)? {
                None => {}
                Some(false) if !self.broken => {}
                Some(_) => {
                    debug!("the driver starts afresh");
                    self.device.reset();
                    self.broken = false;
                }
            }
        }
        Ok(())
    }

    /// Stops everything and forgets what the guest knew.
    pub fn reset(&mut self) -> VhostUserResult<()> {
        for ring in &mut self.rings {
            ring.set_enabled(false)?;
        }
        self.features = 0;
        self.device.reset();
        Ok(())
    }

    /// Takes the driver's requests. Returns whether there can be more.
    pub fn control(&mut self) -> Result<bool> {
        loop {
            let request = self
                .device
                .host_mut()
                .next_request()
                .context("the control socket failed")?;
            match request {
                Request::Connect(request) => {
                    self.device
                        .connect(request.id, request.port, request.stream);
                }
                Request::Memory(process) => {
                    self.memory.set_process(process)?;
                    self.start().context("cannot start the rings")?;
                }
                Request::Note(id) => self.note(id),
                Request::Blocked => return Ok(true),
                Request::Closed => {
                    debug!("the driver closed the control socket");
                    return Ok(false);
                }
            }
        }
    }

    /// Notes what the guest's connections are.
    fn note(&mut self, id: u64) {
        let noted = self
            .device
            .standing()
            .map_err(anyhow::Error::from)
            .and_then(|connections| self.state.note(&connections));
        match noted {
            Ok(()) => self.device.host_mut().connected(id),
            Err(error) => {
                error!(%error, "cannot note the connections");
                self.device.host_mut().refused(id);
            }
        }
    }

    /// Moves packets if the rings are there.
    pub fn process(&mut self) {
        let Err(source) = self.try_process() else {
            return;
        };
        if source.is_end_of_memory() {
            // Its connection ends as well.
            debug!(%source, "the VMM has ended");
        } else {
            error!(%source, "the socket device failed");
        }
        self.broken = true;
        self.device.reset();
    }

    fn try_process(&mut self) -> caisson_virtio::Result<()> {
        let [rx, tx] = &mut self.rings;
        let (Some(memory), Some(rx_queue), Some(tx_queue), false) = (
            self.memory.guest(),
            &mut rx.queue,
            &mut tx.queue,
            self.broken,
        ) else {
            return self.device.poll_host();
        };
        let signals = self.device.process(memory, rx_queue, tx_queue)?;
        for (ring, signal) in [(rx, signals.rx), (tx, signals.tx)] {
            if signal {
                ring.interrupt();
            }
        }
        Ok(())
    }
}
