//! The file system device of a machine that is snapshotted, and of its copies.
//!
//! QEMU neither saves nor loads the state of a device that another process serves, and the
//! guest cannot let go of it as of the vsock device: what is mounted would be lost. So the
//! guest does not learn of it. Its driver goes on with the rings that it has; the new device
//! in the old one's place is told of them as the driver once told the old one, by writes to
//! the registers of its transport (virtio 1.2, 4.2.4: the legacy interface, which is
//! QEMU's default), for which QEMU has a door ([`Monitor::write`]). The file server opens its files anew;
//! see [`crate::device::State`].

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::arguments::{SHARE, share_device};
use super::machine::Machine;
use super::monitor::Monitor;
use super::snapshot::Forked;
use super::{file, fork, slot};
use crate::device::{self, State};
use crate::{Error, Result, Share};

/// Name of the file with what the file server knew of its guest, of a snapshot.
pub(super) const FILES: &str = "files";

/// Most bytes of it: some hundred for each file that the guest remembers.
const FILES_LIMIT: u64 = 256 << 20;

/// Features of a device that its driver may have taken up, by the names that QEMU has for
/// them, and their numbers (virtio 1.2, 6 and 6.3).
const FEATURES: [(&str, u32); 4] = [
    ("VIRTIO_F_NOTIFY_ON_EMPTY", 24),
    ("VIRTIO_F_ANY_LAYOUT", 27),
    ("VIRTIO_RING_F_INDIRECT_DESC", 28),
    ("VIRTIO_RING_F_EVENT_IDX", 29),
];

/// Page size of the guest, in which it counts where a ring is.
const PAGE: u64 = 4096;

/// Acknowledged, driven, ready (virtio 1.2, 2.1).
const STATUS: u32 = 1 | 2 | 4;

/// Registers of a transport.
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const GUEST_PAGE_SIZE: u64 = 0x28;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_ALIGN: u64 = 0x3c;
const QUEUE_PFN: u64 = 0x40;
const STATUS_REGISTER: u64 = 0x70;

/// What the guest's driver has told the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Driver {
    features: u32,
    rings: Vec<Ring>,
}

/// Where a ring is, as its driver has laid it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ring {
    entries: u32,
    page: u32,
    alignment: u32,
}

impl Driver {
    /// Asks QEMU. The device is in use.
    async fn of(monitor: &mut Monitor) -> io::Result<Self> {
        let path = format!("/machine/peripheral/{SHARE}");
        let status = json!({ "path": path });
        let status = monitor.execute("x-query-virtio-status", status).await?;
        let features = features(&status)?;
        let mut rings = Vec::new();
        for queue in 0..number(&status, "num-vqs")? {
            let arguments = json!({ "path": path, "queue": queue });
            let queue = monitor.execute("x-query-virtio-queue-status", arguments);
            rings.push(Ring::read(&queue.await?)?);
        }
        Ok(Self { features, rings })
    }

    /// The writes with which a driver tells a device so.
    fn writes(&self) -> Vec<(u64, u32)> {
        let mut writes = vec![
            (STATUS_REGISTER, 0),
            (DRIVER_FEATURES_SEL, 0),
            (DRIVER_FEATURES, self.features),
            (GUEST_PAGE_SIZE, PAGE as u32),
        ];
        for (ring, number) in self.rings.iter().zip(0..) {
            writes.extend([
                (QUEUE_SEL, number),
                (QUEUE_NUM, ring.entries),
                (QUEUE_ALIGN, ring.alignment),
                (QUEUE_PFN, ring.page),
            ]);
        }
        writes.push((STATUS_REGISTER, STATUS));
        writes
    }

    /// Tells the device, which has just been plugged in.
    pub(super) async fn tell(&self, monitor: &mut Monitor) -> io::Result<()> {
        for (register, value) in self.writes() {
            monitor
                .write(slot::SHARE.address() + register, value)
                .await?;
        }
        Ok(())
    }
}

impl Ring {
    fn read(status: &Value) -> io::Result<Self> {
        let narrow = |number: u64| u32::try_from(number).map_err(io::Error::other);
        Ok(Self {
            entries: narrow(number(status, "vring-num")?)?,
            page: narrow(number(status, "vring-desc")? / PAGE)?,
            alignment: narrow(number(status, "vring-align")?)?,
        })
    }
}

fn number(status: &Value, name: &str) -> io::Result<u64> {
    let found = status[name].as_u64();
    found.ok_or_else(|| io::Error::other(format!("QEMU does not tell {name}")))
}

fn features(status: &Value) -> io::Result<u32> {
    let features = &status["guest-features"];
    let names = features["transports"].as_array().into_iter().flatten();
    let mut bits = 0;
    for name in names.chain(features["dev-features"].as_array().into_iter().flatten()) {
        let name = name.as_str().unwrap_or_default();
        let name = name.split(':').next().unwrap_or_default();
        let known = FEATURES.iter().find(|(known, _)| *known == name);
        let (_, bit) =
            known.ok_or_else(|| io::Error::other(format!("the guest's driver uses {name}")))?;
        bits |= 1 << bit;
    }
    Ok(bits)
}

/// What a machine has of its share.
pub(super) struct Attached {
    pub(super) share: Share,
    /// None while it is being replaced.
    pub(super) state: tokio::sync::Mutex<Option<State>>,
}

/// A share between two devices.
pub(super) struct Detached<'a> {
    attached: &'a Attached,
    pub(super) driver: Driver,
    files: File,
}

/// Takes the device away from a machine that stands still.
pub(super) async fn detach<'a>(
    machine: &Machine,
    attached: &'a Attached,
    monitor: &mut Monitor,
    directory: &Path,
) -> Result<Detached<'a>> {
    let failed = |error: io::Error| Error::Process {
        program: "QEMU".to_owned(),
        doing: "unplugging the file system device",
        detail: error.to_string(),
    };
    let driver = Driver::of(monitor).await.map_err(failed)?;
    let mut state = attached.state.lock().await;
    // A second copy of what is in a file of its own: the device is about to end.
    let noted = state.as_mut().ok_or(Error::Ended)?.save().await?;
    let files = keep(noted, &directory.join(FILES))?;
    *state = None;
    let retired = machine.retire(device::FS).await?;
    let unplugged = async {
        let device = json!({ "id": SHARE });
        monitor
            .execute("qom-set", super::arguments::approve(slot::SHARE))
            .await?;
        monitor.execute("device_del", device.clone()).await?;
        monitor.event("DEVICE_DELETED").await?;
        monitor.execute("chardev-remove", device).await
    };
    unplugged.await.map_err(failed)?;
    if let Some(mut retired) = retired {
        retired.kill().await;
    }
    Ok(Detached {
        attached,
        driver,
        files,
    })
}

impl Detached<'_> {
    /// Gives a machine that stands still another device in place of the one it had.
    pub(super) async fn attach(
        self,
        machine: &Machine,
        forked: &Forked,
        monitor: &mut Monitor,
    ) -> Result<()> {
        let (device, mut state) = device::fs(
            &forked.qemu.devices_program,
            &forked.run_directory,
            &self.attached.share,
            self.files,
        )?;
        state.loaded().await?;
        let plugged = async {
            monitor.connect(SHARE, device.connection.as_fd()).await?;
            let arguments = share_device(&self.attached.share);
            fork::plug(monitor, slot::SHARE, arguments).await?;
            self.driver.tell(monitor).await
        };
        plugged.await.map_err(|error| Error::Process {
            program: "QEMU".to_owned(),
            doing: "plugging the file system device in again",
            detail: error.to_string(),
        })?;
        *self.attached.state.lock().await = Some(state);
        machine.adopt(device.process).await
    }
}

/// Writes what a file server has noted to a new file, and returns a copy for another.
fn keep(noted: &File, path: &Path) -> Result<File> {
    let mut kept = File::create_new(path).map_err(file(path))?;
    let copy = copy(noted).map_err(file(path))?;
    io::copy(&mut whole(&copy), &mut kept).map_err(file(path))?;
    Ok(copy)
}

/// What the file server of a snapshot knew, for that of a copy. The file stays as it is.
pub(super) fn files(directory: &Path) -> Result<File> {
    let path = directory.join(FILES);
    let files = File::open(&path).map_err(file(&path))?;
    copy(&files).map_err(file(&path))
}

fn copy(from: &File) -> io::Result<File> {
    let length = from.metadata()?.len();
    if length == 0 || length > FILES_LIMIT {
        return Err(io::Error::other(format!(
            "{length} bytes are no list of files"
        )));
    }
    let mut to = File::from(rustix::fs::memfd_create("files", MemfdFlags::CLOEXEC)?);
    io::copy(&mut whole(from), &mut to)?;
    Ok(to)
}

/// Reads a file from its beginning, whoever else has it open.
fn whole(file: &File) -> impl io::Read {
    struct Whole<'a>(&'a File, u64);
    impl io::Read for Whole<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = std::os::unix::fs::FileExt::read_at(self.0, buffer, self.1)?;
            self.1 += read as u64;
            Ok(read)
        }
    }
    Whole(file, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_read_and_told() {
        let status = json!({
            "guest-features": { "dev-features": [], "transports": [
                "VIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled",
                "VIRTIO_RING_F_INDIRECT_DESC: Indirect descriptors supported",
            ]},
        });
        assert_eq!(features(&status).expect("known"), 1 << 28 | 1 << 29);
        let unknown = json!({ "guest-features": { "transports": ["VIRTIO_F_X: what"] } });
        assert!(features(&unknown).is_err());
        let queue = json!({ "vring-num": 128, "vring-desc": 5 * 4096, "vring-align": 4096 });
        let ring = Ring::read(&queue).expect("a ring");
        assert!(Ring::read(&json!({})).is_err());
        let driver = Driver {
            features: 7,
            rings: vec![ring],
        };
        let writes = driver.writes();
        assert_eq!(writes.first(), Some(&(STATUS_REGISTER, 0)));
        assert_eq!(
            writes[4..8],
            [
                (QUEUE_SEL, 0),
                (QUEUE_NUM, 128),
                (QUEUE_ALIGN, 4096),
                (QUEUE_PFN, 5)
            ]
        );
        assert_eq!(writes.last(), Some(&(STATUS_REGISTER, 7)));
    }

    #[test]
    fn a_list_of_files_is_kept_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let noted = tempfile::tempfile().expect("a file");
        let path = folder.path().join(FILES);
        assert!(keep(&noted, &path).is_err(), "an empty one is none");
        std::fs::remove_file(&path).expect("there");
        io::Write::write_all(&mut &noted, b"files").expect("written");
        keep(&noted, &path).expect("kept");
        let mut found = String::new();
        let copy = files(folder.path()).expect("read");
        io::Read::read_to_string(&mut whole(&copy), &mut found).expect("read");
        assert_eq!(found, "files");
    }
}
