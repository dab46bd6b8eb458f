//! Network interfaces that a guest knows, and what becomes of them in a copy of it.
//!
//! QEMU loads a state only into a machine that has every device of it and keeps what each
//! has promised its guest. A copy may have other networks. For an interface that it shall
//! not have, or that would lead to where the promise does not hold, there is a stand-in
//! while the state is loaded. The guest lets go of it as it wakes up. Then it is taken
//! away, and what the copy shall have is plugged in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::slot::{self, Slot};
use crate::{Error, NetworkBackend, NetworkInterface, Result, VmConfig};

/// What a guest was promised of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Interface {
    /// Nothing: it may lead to anything.
    Plain,
    /// That checksums and segmentation are taken over.
    Offloading,
}

impl Interface {
    /// What a guest is promised that is given this one.
    pub(super) fn of(backend: &NetworkBackend) -> Self {
        match backend {
            NetworkBackend::Stream(_) => Self::Plain,
            // One that does not tell is taken for what asks for more: QEMU then refuses what
            // does not fit.
            NetworkBackend::Tap(tap) => {
                match caisson_netlink::takes_offloads(tap.as_fd()).unwrap_or(true) {
                    true => Self::Offloading,
                    false => Self::Plain,
                }
            }
        }
    }

    /// Whether the promise holds there.
    fn holds(self, backend: &NetworkBackend) -> bool {
        self == Self::Plain || Self::of(backend) == Self::Offloading
    }
}

/// An interface in place of one that a guest lets go of.
#[derive(Debug)]
pub(super) struct StandIn<Descriptor> {
    /// Where it is.
    pub(super) slot: Slot,
    /// Where its frames go: a tap, or nowhere.
    pub(super) tap: Option<Descriptor>,
}

/// How the interfaces of a copy come to be.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// In place of those that its guest lets go of.
    pub(super) stand_ins: Vec<StandIn<OwnedFd>>,
    /// Those of the configuration that come when these are gone, and their slots.
    pub(super) later: Vec<(Slot, NetworkInterface)>,
    /// What the guest was promised of those of the configuration, in their order.
    pub(super) promised: Vec<Interface>,
    /// Whether QEMU is a copy of the one that the guest ran in. The stand-ins are the very
    /// interfaces of that one, which lead nowhere now.
    pub(super) is_copied: bool,
    /// The other end of where these lead, which nobody reads.
    pub(super) nowhere: Option<UnixStream>,
}

impl Renewal {
    /// Of a machine whose guest knows no interface that is not the configuration's.
    pub(super) fn none(config: &VmConfig) -> Self {
        let interfaces = config.interfaces.iter();
        Self {
            promised: interfaces
                .map(|interface| Interface::of(&interface.backend))
                .collect(),
            ..Self::default()
        }
    }

    /// Of a copy whose guest knows interfaces, by their slots.
    pub(super) fn plan(config: &VmConfig, known: &[Option<Interface>]) -> Result<Self> {
        Self::of(config, known, dead_end)
    }

    /// Of a copy whose QEMU is one as well. An interface may have stopped in the middle of a
    /// frame, so that none can stay.
    pub(super) fn copied(config: &VmConfig, known: &[Option<Interface>]) -> Self {
        let mut renewal = Self {
            is_copied: true,
            ..Self::none(config)
        };
        let had = slot::networks().zip(known).enumerate();
        for (index, (slot, _)) in had.filter(|(_, (_, known))| known.is_some()) {
            renewal.stand_ins.push(StandIn { slot, tap: None });
            let wanted = config.interfaces.get(index);
            renewal.later.extend(wanted.map(|it| (slot, it.clone())));
        }
        renewal
    }

    fn of(
        config: &VmConfig,
        known: &[Option<Interface>],
        make_tap: impl Fn() -> Result<OwnedFd>,
    ) -> Result<Self> {
        let mut renewal = Self::default();
        for (index, slot) in slot::networks().enumerate() {
            let known = known.get(index).copied().flatten();
            let wanted = config.interfaces.get(index);
            let kept = known
                .filter(|known| wanted.is_some_and(|interface| known.holds(&interface.backend)));
            if let Some(wanted) = wanted {
                renewal
                    .promised
                    .push(kept.unwrap_or_else(|| Interface::of(&wanted.backend)));
            }
            let Some(known) = known.filter(|_| kept.is_none()) else {
                continue;
            };
            let tap = match known {
                Interface::Plain => None,
                Interface::Offloading => Some(make_tap()?),
            };
            renewal.stand_ins.push(StandIn { slot, tap });
            if let Some(wanted) = wanted {
                renewal.later.push((slot, wanted.clone()));
            }
        }
        Ok(renewal)
    }
}

/// A tap that takes checksums and segmentation over and leads nowhere: it is down, in a
/// network namespace that nobody is in. It goes with its descriptor.
pub(super) fn dead_end() -> Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        // SAFETY: this thread is ours alone and has no descriptors or memory that it
        // unshares: only its network namespace is another one from here on.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        caisson_netlink::open_tap("caisson%d", true).map(|(tap, _)| tap)
    };
    // A thread whose namespaces are changed is good for nothing else.
    std::thread::spawn(make)
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .map_err(Error::host(
            "cannot make a stand-in for a network interface",
        ))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::*;

    fn file() -> OwnedFd {
        File::open("/dev/null").expect("a file").into()
    }

    fn config(backends: &[fn(Arc<OwnedFd>) -> NetworkBackend]) -> VmConfig {
        let interface =
            |(backend, number): (&fn(Arc<OwnedFd>) -> NetworkBackend, u8)| NetworkInterface {
                mac: [number; 6],
                backend: backend(Arc::new(file())),
            };
        VmConfig {
            interfaces: backends.iter().zip(1..).map(interface).collect(),
            ..VmConfig::sample()
        }
    }

    /// Guest's numbers of the stand-ins, whether each has a tap, and those that come later.
    fn plan(config: &VmConfig, known: &[Option<Interface>]) -> (Vec<(u32, bool)>, Vec<u32>) {
        let number = |slot: Slot| slot.guest_number().expect("a slot of the guest's");
        let renewal = Renewal::of(config, known, || Ok(file())).expect("a plan");
        assert_eq!(renewal.promised.len(), config.interfaces.len());
        let stand_ins = renewal.stand_ins.iter();
        (
            stand_ins
                .map(|stand_in| (number(stand_in.slot), stand_in.tap.is_some()))
                .collect(),
            renewal
                .later
                .iter()
                .map(|(slot, _)| number(*slot))
                .collect(),
        )
    }

    #[test]
    fn an_interface_stays_where_its_promise_holds() {
        use Interface::{Offloading, Plain};
        use NetworkBackend::{Stream, Tap};
        let nothing = (vec![], vec![]);
        assert_eq!(plan(&config(&[Stream]), &[]), nothing);
        assert_eq!(plan(&config(&[Stream]), &[Some(Plain)]), nothing);
        assert_eq!(plan(&config(&[Tap]), &[Some(Plain)]), nothing);
        assert_eq!(plan(&config(&[Tap]), &[Some(Offloading)]), nothing);
        let renewed = (vec![(6, true)], vec![6]);
        assert_eq!(plan(&config(&[Stream]), &[Some(Offloading)]), renewed);
    }

    #[test]
    fn what_a_copy_shall_not_have_goes() {
        use Interface::{Offloading, Plain};
        use NetworkBackend::Tap;
        let none = config(&[]);
        assert_eq!(plan(&none, &[Some(Plain)]), (vec![(6, false)], vec![]));
        assert_eq!(plan(&none, &[Some(Offloading)]), (vec![(6, true)], vec![]));
        let second = [None, Some(Offloading)];
        assert_eq!(plan(&config(&[Tap]), &second), (vec![(5, true)], vec![]));
    }

    #[test]
    fn nothing_stays_in_a_copy_of_a_process() {
        use Interface::{Offloading, Plain};
        use NetworkBackend::{Stream, Tap};
        let of = |config: &VmConfig, known: &[_]| {
            let renewal = Renewal::copied(config, known);
            let slots = |slots: Vec<Slot>| -> Vec<_> {
                slots.into_iter().filter_map(Slot::guest_number).collect()
            };
            let gone = renewal.stand_ins.iter().map(|it| it.slot).collect();
            let come = renewal.later.iter().map(|it| it.0).collect();
            (slots(gone), slots(come), renewal.promised)
        };
        let one = config(&[Stream]);
        assert_eq!(of(&one, &[Some(Plain)]), (vec![6], vec![6], vec![Plain]));
        assert_eq!(of(&one, &[None]), (vec![], vec![], vec![Plain]));
        assert_eq!(
            of(&config(&[]), &[Some(Offloading)]),
            (vec![6], vec![], vec![])
        );
        let two = config(&[Stream, Tap]);
        let expected = (vec![5], vec![5], vec![Plain, Offloading]);
        assert_eq!(of(&two, &[None, Some(Plain)]), expected);
    }

    #[test]
    fn a_promise_stays_what_it_was() {
        let config = config(&[NetworkBackend::Tap, NetworkBackend::Tap]);
        let known = [Some(Interface::Plain)];
        let renewal = Renewal::plan(&config, &known).expect("a plan");
        assert_eq!(
            renewal.promised,
            [Interface::Plain, Interface::Offloading],
            "the second is new"
        );
    }
}
