//! What the guest's driver has told a device, and how another device is told the same.
//!
//! QEMU neither saves nor loads the state of a device that another process serves. But the
//! guest's driver knows nothing of processes: a new device in the old one's place is told of
//! its rings as the driver once told the old one, by writes to the registers of its
//! transport (virtio 1.2, 4.2.4: the legacy interface, which is QEMU's default), for which
//! QEMU has a door ([`Monitor::write`]). The device itself sees to it that it goes on where
//! the other one was.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::monitor::Monitor;
use super::slot::Slot;

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
    /// Asks QEMU, which knows the device by this name. It is in use.
    pub(super) async fn of(monitor: &mut Monitor, device: &str) -> io::Result<Self> {
        let path = format!("/machine/peripheral/{device}");
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
    pub(super) async fn tell(&self, monitor: &mut Monitor, slot: Slot) -> io::Result<()> {
        let writes = self.writes().into_iter();
        let writes = writes.map(|(register, value)| (slot.address() + register, value));
        monitor.write(&writes.collect::<Vec<_>>()).await
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
}
