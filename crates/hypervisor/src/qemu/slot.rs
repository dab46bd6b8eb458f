//! The virtio-mmio transports of a microvm, and which device is in which.
//!
//! Without ACPI there are eight, from 0xfeb00000 on, with an interrupt each from 5 on
//! (`hw/i386/microvm.c`). They are there whether a device is plugged in or not. QEMU
//! would tell the guest of those with a device. We tell of all that may ever be used: in
//! the forks of a template, and by what is plugged in later.

use std::fmt::Write;

use caisson_protocol::WAKE_UP_GONE;

use super::interface::Interface;
use crate::{Error, Result, VmConfig};

/// Number of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u8);

/// The vsock device.
pub(super) const VSOCK: Slot = Slot(7);

/// The shared folder tree.
pub(super) const SHARE: Slot = Slot(6);

/// Of this one no guest is told: its interrupt is that of the clock.
pub(super) const UNTOLD: Slot = Slot(3);

/// Disks in order.
const DISKS: [Slot; 5] = [Slot(5), Slot(4), Slot(2), Slot(1), Slot(0)];

/// Network interfaces take what disks leave, from the other end.
pub(super) fn networks() -> impl Iterator<Item = Slot> {
    DISKS.into_iter().rev()
}

impl Slot {
    /// Name of its bus in QEMU.
    pub(super) fn bus(self) -> String {
        format!("virtio-mmio-bus.{}", self.0)
    }

    /// Where its registers are.
    pub(super) fn address(self) -> u64 {
        0xfeb0_0000 + u64::from(self.0) * 512
    }

    /// Name of the frames' end of its network interface in QEMU.
    pub(super) fn netdev(self) -> String {
        format!("net{}", self.0)
    }

    /// As [`Self::netdev`], of an interface that is there until its guest has let go of it.
    pub(super) fn stand_in(self) -> String {
        format!("stand-in{}", self.0)
    }

    /// Name of its network interface in QEMU.
    pub(super) fn interface(self) -> String {
        format!("interface{}", self.0)
    }

    /// Number of its disk, of its device and of its descriptors in QEMU.
    pub(super) fn disk_number(self) -> Option<usize> {
        disks().position(|slot| slot == self)
    }

    /// Number of its platform device in the guest, which is told of all alike.
    pub(super) fn guest_number(self) -> Option<u32> {
        all()
            .zip(0..)
            .find(|(slot, _)| *slot == self)
            .map(|(_, number)| number)
    }
}

/// The slots of disks, in order.
pub(super) fn disks() -> impl Iterator<Item = Slot> {
    DISKS.into_iter()
}

/// What is in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Occupant {
    /// A disk, by its serial number.
    Disk(String),
    /// A network interface, by its hardware address, and what the guest was promised of it.
    Network([u8; 6], Interface),
}

/// The disks and network interfaces of a machine, and the slots that they are in.
#[derive(Debug)]
pub(super) struct Occupied(Vec<(Occupant, Slot)>);

impl Occupied {
    /// Those that a machine begins with, and what its guest was promised of its interfaces.
    pub(super) fn of(config: &VmConfig, promised: &[Interface]) -> Self {
        let serials = config.disks.iter().map(|disk| disk.serial.clone());
        let macs = config.interfaces.iter().map(|interface| interface.mac);
        let disks = serials.map(Occupant::Disk).zip(disks());
        let interfaces = macs
            .zip(promised)
            .map(|(mac, promised)| Occupant::Network(mac, *promised))
            .zip(networks());
        Self(disks.chain(interfaces).collect())
    }

    /// A slot for one more.
    pub(super) fn take(&mut self, occupant: Occupant) -> Option<Slot> {
        let free = |slot: &Slot| self.0.iter().all(|(_, taken)| taken != slot);
        let slot = match &occupant {
            Occupant::Disk(_) => disks().find(free),
            Occupant::Network(..) => networks().find(free),
        }?;
        self.0.push((occupant, slot));
        Some(slot)
    }

    /// The slot of the disk with a serial number.
    pub(super) fn disk(&self, serial: &str) -> Option<Slot> {
        self.find(|occupant| matches!(occupant, Occupant::Disk(known) if known == serial))
    }

    /// The slot of the network interface with a hardware address.
    pub(super) fn network(&self, mac: [u8; 6]) -> Option<Slot> {
        self.find(|occupant| matches!(occupant, Occupant::Network(known, _) if *known == mac))
    }

    fn find(&self, is: impl Fn(&Occupant) -> bool) -> Option<Slot> {
        let found = self.0.iter().find(|(occupant, _)| is(occupant));
        found.map(|(_, slot)| *slot)
    }

    /// What the guest was promised of its network interfaces, by the slots of such.
    pub(super) fn promised(&self) -> Vec<Option<Interface>> {
        let of = |slot: Slot| {
            let mut all = self.0.iter().filter(|(_, taken)| *taken == slot);
            all.find_map(|(occupant, _)| match occupant {
                Occupant::Network(_, promised) => Some(*promised),
                Occupant::Disk(_) => None,
            })
        };
        networks().map(of).collect()
    }

    /// Its slot is empty again.
    pub(super) fn free(&mut self, slot: Slot) {
        self.0.retain(|(_, taken)| *taken != slot);
    }
}

/// Every slot that is used, in the order in which guests are told of them: the
/// guest's kernel numbers its platform devices by it.
fn all() -> impl Iterator<Item = Slot> {
    [VSOCK, SHARE].into_iter().chain(DISKS)
}

/// Whether there are slots for all devices.
pub(super) fn check(config: &VmConfig) -> Result<()> {
    if config.disks.len() + config.interfaces.len() > DISKS.len() {
        return Err(Error::Unsupported {
            driver: "qemu",
            what: "attach more than five disks and network interfaces together",
        });
    }
    Ok(())
}

/// Tells the kernel of every slot (`virtio_mmio.device`,
/// Documentation/admin-guide/kernel-parameters.txt).
pub(super) fn kernel_parameters() -> String {
    let mut line = String::new();
    for slot in all() {
        let address = slot.address();
        let interrupt = 5 + slot.0;
        // Writing to a string cannot fail.
        let _ = write!(line, " virtio_mmio.device=512@{address:#x}:{interrupt}");
    }
    line
}

/// The numbers of those of a fork's devices that its template has not, for its guest to
/// look at.
pub(super) fn new(config: &VmConfig) -> Vec<u32> {
    let new_disks = match config.new_disk() {
        Some(_) => 0,
        None => config.disks.len(),
    };
    let new_networks = match config.has_plain_network() {
        true => 0,
        false => config.interfaces.len(),
    };
    numbers(|slot| match slot {
        SHARE => config.share.is_some(),
        other => disks()
            .take(new_disks)
            .chain(networks().take(new_networks))
            .any(|taken| taken == other),
    })
}

/// What wakes a machine of which a snapshot is made, and that goes on.
pub(super) fn wake_up() -> String {
    line(&[VSOCK], &[])
}

/// What wakes a copy of a snapshot whose guest knows network interfaces: the devices that
/// it shall look at, and those that it shall let go of.
pub(super) fn wake_up_copy(
    config: &VmConfig,
    known: &[Option<Interface>],
    stand_ins: impl Iterator<Item = Slot>,
) -> String {
    let wanted = networks().take(config.interfaces.len()).enumerate();
    let new = wanted.filter(|(index, _)| known.get(*index).copied().flatten().is_none());
    let new: Vec<_> = [VSOCK]
        .into_iter()
        .chain(new.map(|(_, slot)| slot))
        .collect();
    line(&new, &stand_ins.collect::<Vec<_>>())
}

fn line(new: &[Slot], gone: &[Slot]) -> String {
    let numbers = |slots: &[Slot]| {
        let numbers = numbers(|slot| slots.contains(&slot));
        let numbers = numbers.iter().map(u32::to_string);
        numbers.collect::<Vec<_>>().join(" ")
    };
    match gone {
        [] => numbers(new) + "\n",
        gone => format!("{} {WAKE_UP_GONE} {}\n", numbers(new), numbers(gone)),
    }
}

fn numbers(used: impl Fn(Slot) -> bool) -> Vec<u32> {
    let numbers = all().zip(0..).filter(|(slot, _)| used(*slot));
    numbers.map(|(_, number)| number).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use caisson_protocol::WAKE_UP_LIMIT;

    use super::*;
    use crate::{Disk, NetworkBackend, NetworkInterface, Share};

    pub(in super::super) fn config(disks: usize, share: bool) -> VmConfig {
        let disk = Disk {
            path: "/d".into(),
            serial: "d".to_owned(),
            read_only: true,
            new: None,
        };
        VmConfig {
            disks: vec![disk; disks],
            share: share.then(|| Share {
                tag: "t".to_owned(),
                mounts: Vec::new(),
                tree: None,
            }),
            ..VmConfig::sample()
        }
    }

    fn interface() -> NetworkInterface {
        let (stream, _) = std::os::unix::net::UnixStream::pair().expect("pair");
        NetworkInterface {
            mac: [2; 6],
            backend: NetworkBackend::Stream(Arc::new(stream.into())),
        }
    }

    #[test]
    fn a_fork_is_told_of_its_devices() {
        assert_eq!(new(&config(2, false)), [2, 3]);
        assert_eq!(new(&config(5, true)), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn disks_of_the_template_are_not_named() {
        let mut config = config(2, false);
        config.disks[1].read_only = false;
        assert_eq!(new(&config), [2, 3]);
        config.disks[1].new = Some("/empty".into());
        assert!(new(&config).is_empty());
        config.interfaces = vec![interface()];
        assert!(new(&config).is_empty(), "nor is one interface");
        config.interfaces.push(interface());
        assert_eq!(new(&config), [5, 6]);
        config.interfaces.clear();
        config.disks[0].read_only = false;
        assert_eq!(new(&config), [2, 3], "not all are new");
    }

    #[test]
    fn interfaces_and_disks_have_slots_of_their_own() {
        let mut config = config(2, false);
        config.interfaces = vec![interface(), interface()];
        assert_eq!(new(&config), [2, 3, 5, 6]);
        config.interfaces.push(interface());
        assert!(check(&config).is_ok());
        config.interfaces.push(interface());
        assert!(check(&config).is_err());
    }

    #[test]
    fn a_slot_is_free_again_after_its_interface() {
        let network = |number| Occupant::Network([number; 6], Interface::Offloading);
        let mut occupied = Occupied::of(&config(2, false), &[]);
        let first = occupied.take(network(1)).expect("a slot");
        assert_eq!(first.guest_number(), Some(6));
        occupied.take(network(2)).expect("a slot");
        occupied.take(network(3)).expect("a slot");
        assert!(occupied.take(network(4)).is_none());
        assert_eq!(occupied.network([1; 6]), Some(first));
        let promised = Some(Interface::Offloading);
        assert_eq!(
            occupied.promised(),
            [promised, promised, promised, None, None]
        );
        occupied.free(first);
        assert_eq!(occupied.promised(), [None, promised, promised, None, None]);
        assert_eq!(occupied.take(network(4)), Some(first));
    }

    #[test]
    fn disks_that_come_later_take_what_is_left() {
        let disk = |name: &str| Occupant::Disk(name.to_owned());
        let mut occupied = Occupied::of(&config(1, true), &[]);
        let network = occupied
            .take(Occupant::Network([1; 6], Interface::Plain))
            .expect("a slot");
        let first = occupied.take(disk("a")).expect("a slot");
        assert_eq!(first.disk_number(), Some(1));
        assert_eq!(first.guest_number(), Some(3));
        occupied.take(disk("b")).expect("a slot");
        occupied.take(disk("c")).expect("a slot");
        assert!(occupied.take(disk("d")).is_none());
        assert_eq!(occupied.disk("a"), Some(first));
        occupied.free(network);
        assert_eq!(occupied.take(disk("d")), Some(network));
    }

    #[test]
    fn a_copy_is_woken_with_what_is_new() {
        let mut config = config(2, false);
        let plain = Some(Interface::Plain);
        let line = |config: &VmConfig, known: &[_], gone: usize| {
            wake_up_copy(config, known, networks().take(gone))
        };
        assert_eq!(wake_up(), "0\n");
        assert_eq!(line(&config, &[plain], 1), "0 - 6\n");
        config.interfaces = vec![interface()];
        assert_eq!(line(&config, &[plain], 0), "0\n");
        assert_eq!(line(&config, &[plain], 1), "0 - 6\n");
        config.interfaces.push(interface());
        assert_eq!(line(&config, &[], 0), "0 5 6\n");
        assert_eq!(line(&config, &[None, plain], 0), "0 6\n");
        assert!(line(&config, &[plain; 5], 5).len() <= WAKE_UP_LIMIT);
    }

    #[test]
    fn there_are_five_slots_for_disks() {
        assert!(check(&config(5, true)).is_ok());
        assert!(check(&config(6, false)).is_err());
    }
}
