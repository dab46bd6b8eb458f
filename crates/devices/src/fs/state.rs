//! What a file system device knows of its guest: which files it remembers and has open.
//!
//! A copy of a machine goes on where that was: its guest names files by the numbers that
//! the device gave it. A device is told which file each number stood for, by its path, and
//! opens all of them again.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use vhost::vhost_user::Backend;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
};
use vhost_user_backend::{VhostUserBackend, VringT};
use virtiofsd::filesystem::SerializableFileSystem;
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::vhost_user::VhostUserFsBackend;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

/// Rings of the device: requests that overtake others, and all else.
const RINGS: usize = 2;

/// Asks for the state.
const SAVE: u8 = b's';

type Files = VhostUserFsBackend<PassthroughFs>;
type Bitmap = <Files as VhostUserBackend>::Bitmap;
type Vring = <Files as VhostUserBackend>::Vring;

/// The device. One that goes on takes up each ring where it was left: the VMM, for which
/// the device is new, does not know where that is.
pub struct Device {
    files: Files,
    /// Rings that are to be taken up.
    left: [AtomicBool; RINGS],
}

impl Device {
    pub fn new(files: Files, goes_on: bool) -> Self {
        Self {
            files,
            left: [AtomicBool::new(goes_on), AtomicBool::new(goes_on)],
        }
    }

    /// Every request that was begun has been answered, so that the two indices of a ring
    /// are one. The guest may have missed an answer.
    fn take_up(&self, ring: usize, vring: &Vring) -> io::Result<()> {
        let is_left = self.left.get(ring);
        if is_left.is_some_and(|left| left.swap(false, Ordering::Relaxed)) {
            let index = vring.queue_used_idx().map_err(io::Error::other)?;
            vring.set_queue_next_avail(index);
            vring.signal_used_queue()?;
        }
        Ok(())
    }

    /// Writes the state to a file. No request is under way.
    fn save(&self, state: &File) -> io::Result<()> {
        let direction = VhostTransferStateDirection::SAVE;
        let phase = VhostTransferStatePhase::STOPPED;
        self.files
            .set_device_state_fd(direction, phase, state.try_clone()?)?;
        self.files.check_device_state()
    }
}

impl VhostUserBackend for Device {
    type Bitmap = Bitmap;
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.files.num_queues()
    }

    fn max_queue_size(&self) -> usize {
        self.files.max_queue_size()
    }

    fn features(&self) -> u64 {
        self.files.features()
    }

    fn acked_features(&self, features: u64) {
        self.files.acked_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.files.protocol_features()
    }

    fn reset_device(&self) {
        self.files.reset_device();
    }

    fn set_event_idx(&self, enabled: bool) {
        self.files.set_event_idx(enabled);
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<GuestMemoryMmap<Bitmap>>) -> io::Result<()> {
        self.files.update_memory(memory)
    }

    fn set_backend_req_fd(&self, backend: Backend) {
        self.files.set_backend_req_fd(backend);
    }

    fn exit_event(&self, thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.files.exit_event(thread)
    }

    fn handle_event(
        &self,
        event: u16,
        set: EventSet,
        vrings: &[Vring],
        thread: usize,
    ) -> io::Result<()> {
        if let Some(vring) = vrings.get(usize::from(event)) {
            self.take_up(event.into(), vring)?;
        }
        self.files.handle_event(event, set, vrings, thread)
    }
}

/// Loads the state, if there is one, and says so.
pub fn load(files: &PassthroughFs, state: &File, control: &mut UnixStream) -> Result<bool> {
    let length = state
        .metadata()
        .context("cannot look at the device's state")?
        .len();
    if length == 0 {
        return Ok(false);
    }
    let loaded = read(files, state);
    answer(control, &loaded)?;
    loaded.context("a file that the guest had open cannot be opened again")?;
    Ok(true)
}

fn read(files: &PassthroughFs, state: &File) -> io::Result<()> {
    let mut state = state.try_clone()?;
    state.rewind()?;
    files.deserialize_and_apply(state)
}

/// Writes the state to the file whenever it is asked for. `again` makes a file server for
/// the same files, which shows whether a copy could open all of them.
pub fn save_when_asked(
    device: Arc<Device>,
    mut control: UnixStream,
    state: File,
    again: impl Fn() -> Result<PassthroughFs> + Send + 'static,
) -> Result<()> {
    let serve = move || {
        let mut order = [0];
        while let Ok(1..) = control.read(&mut order) {
            let saved = if order == [SAVE] {
                save(&device, &state, &again)
            } else {
                Err(anyhow!("unknown order {order:?}"))
            };
            if answer(&mut control, &saved).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("state".to_owned())
        .spawn(serve)
        .map(drop)
        .context("cannot make a thread for the device's state")
}

fn save(
    device: &Device,
    mut state: &File,
    again: &impl Fn() -> Result<PassthroughFs>,
) -> Result<()> {
    state.set_len(0)?;
    state.rewind()?;
    device.save(state)?;
    if let Err(error) = read(&again()?, state) {
        bail!("a file that the guest has open cannot be opened again: {error}");
    }
    Ok(())
}

/// One line: empty, or why not.
fn answer(control: &mut UnixStream, result: &Result<(), impl std::fmt::Display>) -> Result<()> {
    let line = match result {
        Ok(()) => String::new(),
        Err(error) => error.to_string().replace('\n', " "),
    };
    control
        .write_all(format!("{line}\n").as_bytes())
        .context("nobody listens to the device")
}
