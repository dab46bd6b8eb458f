//! Capabilities of a container.

use std::collections::HashSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// What `--cap-add` and `--cap-drop` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapabilityName {
    /// All of them.
    All,
    /// One of them.
    One(Capability),
}

/// Those that a container has unless it is told otherwise: Docker's.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability of Linux 6.12 (`linux/capability.h`).
const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// Reads `NET_ADMIN`, `cap_net_admin` or `ALL`.
pub fn parse(text: &str) -> Result<CapabilityName, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" {
        return Ok(CapabilityName::All);
    }
    name.parse().map(CapabilityName::One).map_err(|_| {
        "expected ALL or the name of a capability, such as NET_ADMIN (capabilities(7))".to_owned()
    })
}

/// What is left of the default ones. As with Docker, adding ALL goes before
/// dropping, and dropping ALL before adding.
pub(super) fn granted(
    add: &[CapabilityName],
    drop: &[CapabilityName],
    privileged: bool,
) -> Capabilities {
    if privileged {
        return all();
    }
    let named = |names: &[CapabilityName]| -> HashSet<Capability> {
        names
            .iter()
            .filter_map(|name| match name {
                CapabilityName::One(capability) => Some(*capability),
                CapabilityName::All => None,
            })
            .collect()
    };
    let (added, dropped) = (named(add), named(drop));
    if add.contains(&CapabilityName::All) {
        return &all() - &dropped;
    }
    if drop.contains(&CapabilityName::All) {
        return added;
    }
    &(&HashSet::from(DEFAULT) - &dropped) | &added
}

fn all() -> Capabilities {
    HashSet::from(ALL)
}

/// The sets of a process. Inheritable and ambient ones stay empty, so that a
/// program that is not root's gets none by executing another.
pub(super) fn sets(granted: &Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted.clone()));
    sets.set_permitted(Some(granted.clone()));
    sets.set_effective(Some(granted.clone()));
    sets.set_inheritable(Some(Capabilities::new()));
    sets.set_ambient(Some(Capabilities::new()));
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(add: &[&str], drop: &[&str]) -> Capabilities {
        let names = |words: &[&str]| {
            words
                .iter()
                .map(|word| parse(word).expect(word))
                .collect::<Vec<_>>()
        };
        granted(&names(add), &names(drop), false)
    }

    #[test]
    fn names_are_read_as_docker_does() {
        for text in ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin"] {
            assert_eq!(
                parse(text),
                Ok(CapabilityName::One(Capability::NetAdmin)),
                "{text}"
            );
        }
        assert_eq!(parse("all"), Ok(CapabilityName::All));
        for text in ["", "CAP_", "NETADMIN", "CAP_CAP_CHOWN"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for capability in ALL {
            assert_eq!(
                parse(&capability.to_string()),
                Ok(CapabilityName::One(capability))
            );
        }
    }

    #[test]
    fn adding_and_dropping() {
        assert_eq!(grant(&[], &[]), HashSet::from(DEFAULT));
        assert_eq!(grant(&["SYS_TIME"], &["KILL"]).len(), DEFAULT.len());
        assert!(grant(&["SYS_TIME"], &[]).contains(&Capability::SysTime));
        assert!(!grant(&[], &["KILL"]).contains(&Capability::Kill));
        assert_eq!(grant(&["ALL"], &[]).len(), ALL.len());
        assert_eq!(grant(&["ALL"], &["KILL"]).len(), ALL.len() - 1);
        assert_eq!(grant(&[], &["ALL"]).len(), 0);
        assert_eq!(
            grant(&["KILL"], &["ALL"]),
            HashSet::from([Capability::Kill])
        );
        // Both named: adding wins, as with Docker.
        assert!(grant(&["KILL"], &["KILL"]).contains(&Capability::Kill));
        assert_eq!(granted(&[], &[CapabilityName::All], true).len(), ALL.len());
    }
}
