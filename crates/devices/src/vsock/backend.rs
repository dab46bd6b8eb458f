//! The model behind vhost-user.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use caisson_virtio::vsock::{FEATURES, RX_QUEUE, TX_QUEUE, Vsock};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tracing::{debug, error};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::control::{Control, Request};

/// Queues of the device that the back-end serves; the VMM keeps the event queue.
const QUEUES: usize = 2;
/// Largest queue: that of the frontends' devices is 128.
const MAX_QUEUE_SIZE: usize = 1024;

/// Token of the connections' descriptor. Tokens up to the number of queues are taken.
pub const SOCKET_EVENT: u16 = QUEUES as u16 + 1;
/// Token of the control socket.
pub const CONTROL_EVENT: u16 = QUEUES as u16 + 2;
/// Token of the timer.
pub const RESUME_EVENT: u16 = QUEUES as u16 + 3;

/// How soon after the frontend's first word the rings are looked at, and again if they
/// are not set up yet.
const RESUME_NANOSECONDS: i64 = 10_000_000;

/// The device and what the frontend told of it.
pub struct Backend {
    device: Vsock<Control>,
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
    /// Where the queues stood when they were left. Only the frontend can change that,
    /// and it does when the driver starts afresh: a paused machine resumes where it
    /// was, a reset one starts at 0.
    left_at: [u16; QUEUES],
    /// Runs while the frontend starts the device. A machine that was paused comes back
    /// without a kick, with whatever either side had left to do.
    timer: OwnedFd,
    /// The driver broke a ring.
    broken: bool,
}

impl Backend {
    pub fn new(device: Vsock<Control>) -> anyhow::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .context("cannot make a timer")?;
        Ok(Self {
            device,
            memory: None,
            left_at: [0; QUEUES],
            timer,
            broken: false,
        })
    }

    /// Readable when [`RESUME_EVENT`] is due.
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn start_timer(&self) {
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: 0,
                tv_nsec: RESUME_NANOSECONDS,
            },
        };
        if let Err(source) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            // All that is lost is what waits for a resumed machine until its next kick.
            error!(%source, "cannot start the timer");
        }
    }

    /// Takes the driver's requests.
    fn control(&mut self) {
        loop {
            match self.device.host_mut().next_request() {
                Ok(Request::Connect(request)) => {
                    self.device
                        .connect(request.id, request.port, request.stream);
                }
                Ok(Request::Blocked) => return,
                Ok(Request::Closed) => {
                    debug!("the driver closed the control socket");
                    // Nothing is left to serve and nothing to save, and the thread
                    // that waits for the frontend cannot be woken from here.
                    std::process::exit(0);
                }
                Err(source) => {
                    error!(%source, "the control socket failed");
                    std::process::exit(1);
                }
            }
        }
    }

    /// Moves packets if the rings are there. Returns whether they are.
    fn process(&mut self, vrings: &[VringMutex]) -> caisson_virtio::Result<bool> {
        let (Some(memory), [rx, tx]) = (&self.memory, vrings) else {
            return self.device.poll_host().map(|()| false);
        };
        let (mut rx, mut tx) = (rx.get_mut(), tx.get_mut());
        let ready = [&rx, &tx]
            .iter()
            .all(|vring| vring.is_enabled() && vring.get_queue().ready());
        if !ready {
            return self.device.poll_host().map(|()| false);
        }
        let stand = [rx.get_queue().next_avail(), tx.get_queue().next_avail()];
        if stand != self.left_at {
            debug!("the driver was reset");
            self.device.reset();
            self.broken = false;
            self.left_at = stand;
        }
        if self.broken {
            return self.device.poll_host().map(|()| true);
        }
        let memory = memory.memory();
        let result = self
            .device
            .process(&memory, rx.get_queue_mut(), tx.get_queue_mut());
        self.left_at = [rx.get_queue().next_avail(), tx.get_queue().next_avail()];
        let signals = result?;
        for (vring, signal) in [(&rx, signals.rx), (&tx, signals.tx)] {
            if signal && let Err(source) = vring.signal_used_queue() {
                debug!(%source, "cannot interrupt the guest");
            }
        }
        Ok(true)
    }
}

impl VhostUserBackendMut for Backend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&mut self, _features: u64) {
        // The frontend starts the device, perhaps after a reset of a broken ring.
        self.broken = false;
        self.start_timer();
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&mut self, _enabled: bool) {
        // The queues are told by the crate; the model asks them.
    }

    fn reset_device(&mut self) {
        self.device.reset();
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.device.config();
        let range = offset as usize..(offset as usize).saturating_add(size as usize);
        config.get(range).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn handle_event(
        &mut self,
        event: u16,
        _events: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        debug_assert!(QUEUES == vrings.len() && RX_QUEUE == 0 && TX_QUEUE == 1);
        match event {
            CONTROL_EVENT => self.control(),
            // Whatever it gives: the timer is no longer readable.
            RESUME_EVENT => drop(rustix::io::read(&self.timer, &mut [0; 8])),
            _ => {}
        }
        match self.process(vrings) {
            Ok(false) if event == RESUME_EVENT => self.start_timer(),
            Ok(_) => {}
            Err(source) => {
                // An error returned from here would end the thread, and with it the
                // chance of a reset.
                error!(%source, "the socket device failed");
                self.broken = true;
                self.device.reset();
            }
        }
        Ok(())
    }
}
