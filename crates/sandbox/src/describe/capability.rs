//! Capabilities by name and by number (capabilities(7)).

use oci_spec::runtime::{Capabilities, Capability};

/// In the order of their numbers (linux/capability.h).
const ORDER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// One bit for each capability of a set.
pub(super) fn bits(set: &Option<Capabilities>) -> u64 {
    let Some(set) = set else {
        return 0;
    };
    ORDER
        .iter()
        .enumerate()
        .filter(|(_, capability)| set.contains(capability))
        .fold(0, |bits, (number, _)| bits | 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits() {
        let set = [
            Capability::Chown,
            Capability::SysAdmin,
            Capability::CheckpointRestore,
        ];
        assert_eq!(bits(&Some(set.into())), 1 | 1 << 21 | 1 << 40);
        assert_eq!(
            bits(&Some(ORDER.into())),
            (1 << 41) - 1,
            "each is there once"
        );
        assert_eq!(bits(&None), 0);
    }
}
