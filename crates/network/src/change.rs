//! What has changed in a namespace, as its guest has to be told.

use crate::guest::{Guest, Interface};
use crate::{Error, Link};

/// A change of a sandbox's networks. What is removed goes before what is added comes.
#[derive(Debug, Default)]
pub struct Change {
    /// Interfaces that have gone, with all that was theirs.
    pub unplugged: Vec<Interface>,
    /// Interfaces that have come, with where their frames go.
    pub plugged: Vec<(Interface, Link)>,
    /// What interfaces that stay have lost.
    pub removed: Guest,
    /// All that interfaces have of which anything is new or has changed.
    pub added: Guest,
    /// Why interfaces that are there have not come.
    pub refused: Vec<Error>,
}

impl Change {
    /// Compares what a guest was told with what there is now.
    pub(crate) fn between(told: &Guest, now: &Guest) -> Self {
        let stays = |interface: &&Interface| now.interfaces.iter().any(|new| new.is(interface));
        let (kept, gone): (Vec<_>, Vec<_>) = told.interfaces.iter().partition(stays);
        let mut removed = Guest::default();
        for interface in kept {
            let old = told.of(&interface.name);
            let new = now.of(&interface.name);
            removed.append(old.without(&new));
        }
        let mut added = Guest::default();
        for interface in &now.interfaces {
            let new = now.of(&interface.name);
            if told.of(&interface.name) != new
                || gone.iter().any(|gone| gone.name == interface.name)
            {
                added.append(new);
            }
        }
        Self {
            unplugged: gone.into_iter().cloned().collect(),
            removed,
            added,
            ..Self::default()
        }
    }

    /// Whether a guest has nothing to learn.
    pub fn is_empty(&self) -> bool {
        self.unplugged.is_empty()
            && self.plugged.is_empty()
            && self.removed.interfaces.is_empty()
            && self.added.interfaces.is_empty()
    }
}

impl Interface {
    /// Whether it is the same one, whatever its addresses are.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.name, self.mac) == (&other.name, other.mac)
    }
}

impl Guest {
    /// The part of one interface.
    fn of(&self, name: &str) -> Self {
        fn select<T: Clone>(all: &[T], ours: impl Fn(&T) -> bool) -> Vec<T> {
            all.iter().filter(|one| ours(one)).cloned().collect()
        }
        Self {
            interfaces: select(&self.interfaces, |interface| interface.name == name),
            routes: select(&self.routes, |route| route.interface == name),
            neighbours: select(&self.neighbours, |neighbour| neighbour.interface == name),
        }
    }

    /// What this one has and the other, of the same interface, has not. Nothing at all if
    /// there is no such thing.
    fn without(mut self, other: &Self) -> Self {
        let kept: Vec<_> = other
            .interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .collect();
        for interface in &mut self.interfaces {
            interface
                .addresses
                .retain(|address| !kept.contains(&address));
        }
        self.routes.retain(|route| !other.routes.contains(route));
        self.neighbours
            .retain(|neighbour| !other.neighbours.contains(neighbour));
        let addresses = self
            .interfaces
            .iter()
            .map(|interface| interface.addresses.len());
        if addresses.sum::<usize>() + self.routes.len() + self.neighbours.len() == 0 {
            self.interfaces.clear();
        }
        self
    }

    fn append(&mut self, mut other: Self) {
        self.interfaces.append(&mut other.interfaces);
        self.routes.append(&mut other.routes);
        self.neighbours.append(&mut other.neighbours);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Route;

    fn interface(name: &str, last: u8, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            mac: [2, 0, 0, 0, 0, last],
            mtu: 1500,
            addresses: addresses
                .iter()
                .map(|address| address.parse().expect("an address"))
                .collect(),
        }
    }

    fn route(interface: &str, gateway: &str) -> Route {
        Route {
            interface: interface.to_owned(),
            destination: "0.0.0.0/0".parse().expect("everything"),
            gateway: Some(gateway.parse().expect("an address")),
            on_link: false,
            source: None,
            metric: 0,
        }
    }

    fn before() -> Guest {
        Guest {
            interfaces: vec![
                interface("eth0", 1, &["10.0.0.2/24", "fd00::2/64"]),
                interface("eth1", 2, &["10.1.0.2/24"]),
            ],
            routes: vec![route("eth0", "10.0.0.1")],
            neighbours: Vec::new(),
        }
    }

    #[test]
    fn nothing_new_is_empty() {
        assert!(Change::between(&before(), &before()).is_empty());
    }

    #[test]
    fn with_an_address_all_of_its_interface_is_told_again() {
        let mut now = before();
        now.interfaces[0].addresses[0] = "10.0.0.3/24".parse().expect("an address");
        let change = Change::between(&before(), &now);
        assert_eq!(
            change.removed.interfaces,
            [interface("eth0", 1, &["10.0.0.2/24"])]
        );
        assert!(change.removed.routes.is_empty());
        assert_eq!(
            change.added.interfaces,
            [interface("eth0", 1, &["10.0.0.3/24", "fd00::2/64"])]
        );
        // The guest's kernel has dropped it with the address.
        assert_eq!(change.added.routes, before().routes);
        assert!(change.unplugged.is_empty());
    }

    #[test]
    fn a_route_alone_is_told_with_its_interface() {
        let mut now = before();
        now.routes = vec![route("eth1", "10.1.0.1")];
        let change = Change::between(&before(), &now);
        assert_eq!(change.removed.interfaces, [interface("eth0", 1, &[])]);
        assert_eq!(change.removed.routes, before().routes);
        let names: Vec<_> = change
            .added
            .interfaces
            .iter()
            .map(|one| &one.name)
            .collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!(change.added.routes, now.routes);
    }

    #[test]
    fn another_hardware_address_is_another_interface() {
        let mut now = before();
        now.interfaces[1].mac[5] = 9;
        let change = Change::between(&before(), &now);
        assert_eq!(change.unplugged, [before().interfaces[1].clone()]);
        assert!(change.removed.interfaces.is_empty());
        assert_eq!(change.added.interfaces, [now.interfaces[1].clone()]);
    }
}
