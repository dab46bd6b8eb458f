//! Capabilities by name and as sets (capabilities(7)).

use std::io;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::error::{Error, Result};

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

const SYS_ADMIN: u64 = 1 << 21;
const SETPCAP: u64 = 1 << 8;

/// What a process shall keep, one bit for each capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    pub(super) fn new(capabilities: Option<&LinuxCapabilities>) -> Self {
        let Some(sets) = capabilities else {
            return Self::default();
        };
        let of = |set: &Option<Capabilities>| set.as_ref().map_or(0, bits);
        Self {
            bounding: of(sets.bounding()),
            effective: of(sets.effective()),
            permitted: of(sets.permitted()),
            inheritable: of(sets.inheritable()),
            ambient: of(sets.ambient()),
        }
    }

    /// Gives up what is not in the bounding set, for ever.
    pub(super) fn drop_bounding(&self) -> Result<()> {
        for number in 0..ORDER.len() {
            if self.bounding & 1 << number == 0 {
                prctl(libc::PR_CAPBSET_DROP, number as u64, 0)
                    .map_err(Error::system("give up a capability"))?;
            }
        }
        Ok(())
    }

    /// Makes the next change of user keep the permitted set.
    pub(super) fn keep_over_setuid() -> Result<()> {
        prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(Error::system("keep capabilities"))
    }

    /// Takes on the sets, and what a filter needs to be installed on top, for now.
    pub(super) fn apply_with_filter_rights(&self) -> Result<()> {
        let failed = || Error::system("set capabilities");
        prctl(libc::PR_SET_KEEPCAPS, 0, 0).map_err(failed())?;
        set(
            self.effective | SYS_ADMIN | SETPCAP,
            self.permitted | SYS_ADMIN | SETPCAP,
            self.inheritable,
        )
        .map_err(failed())?;
        for number in 0..ORDER.len() {
            // Only what is permitted and inheritable can be ambient: leaving the
            // rest out is what the OCI runtimes do.
            if self.ambient & self.permitted & self.inheritable & 1 << number != 0 {
                prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE as u64,
                    number as u64,
                )
                .map_err(failed())?;
            }
        }
        Ok(())
    }

    /// Takes on the sets, and nothing else.
    pub(super) fn apply(&self) -> Result<()> {
        set(self.effective, self.permitted, self.inheritable)
            .map_err(Error::system("set capabilities"))
    }
}

fn bits(set: &Capabilities) -> u64 {
    ORDER
        .iter()
        .enumerate()
        .filter(|(_, capability)| set.contains(capability))
        .fold(0, |bits, (number, _)| bits | 1 << number)
}

fn prctl(option: libc::c_int, first: u64, second: u64) -> io::Result<()> {
    // SAFETY: the options used here take numbers, not pointers.
    let result = unsafe { libc::prctl(option, first, second, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    /// `struct __user_cap_header_struct`.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    /// `struct __user_cap_data_struct`.
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// _LINUX_CAPABILITY_VERSION_3: two of the structures.
    const VERSION: u32 = 0x2008_0522;

    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data structures, all initialised.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits() {
        let capabilities: LinuxCapabilities = serde_json::from_str(
            r#"{"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"], "effective": []}"#,
        )
        .expect("capabilities");
        let sets = Sets::new(Some(&capabilities));
        assert_eq!(sets.bounding, 1 | SYS_ADMIN | 1 << 40);
        assert_eq!(sets.effective, 0);
        assert_eq!(Sets::new(None), Sets::default());
    }
}
