//! Sets of capabilities (capabilities(7)).

use std::io;

use caisson_protocol::agent::Capabilities;

use crate::error::{Error, Result};

/// How many there are (linux/capability.h); their numbers begin with 0.
const COUNT: u64 = 41;

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
    pub(super) fn new(sets: &Capabilities) -> Self {
        Self {
            bounding: sets.bounding,
            effective: sets.effective,
            permitted: sets.permitted,
            inheritable: sets.inheritable,
            ambient: sets.ambient,
        }
    }

    /// Gives up what is not in the bounding set, for ever.
    pub(super) fn drop_bounding(&self) -> Result<()> {
        for number in 0..COUNT {
            if self.bounding & 1 << number == 0 {
                prctl(libc::PR_CAPBSET_DROP, number, 0)
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
        for number in 0..COUNT {
            // Only what is permitted and inheritable can be ambient: leaving the
            // rest out is what the OCI runtimes do.
            if self.ambient & self.permitted & self.inheritable & 1 << number != 0 {
                prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE as u64,
                    number,
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
