//! The filter of system calls, which the host has compiled.

use std::io;

use crate::error::{Error, Result};

/// Bytes of a `struct sock_filter`.
const INSTRUCTION_LEN: usize = 8;

/// A classic BPF program (seccomp(2)).
#[derive(Debug, Default)]
pub(super) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Reads `struct sock_filter[]`. No bytes are no filter.
    pub(super) fn new(bytes: &[u8]) -> Result<Self> {
        if !bytes.len().is_multiple_of(INSTRUCTION_LEN)
            || bytes.len() / INSTRUCTION_LEN > usize::from(u16::MAX)
        {
            return Err(Error::Invalid(format!(
                "{} bytes are no system call filter",
                bytes.len()
            )));
        }
        let instructions = bytes.chunks_exact(INSTRUCTION_LEN);
        Ok(Self(
            instructions
                .map(|bytes| libc::sock_filter {
                    code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                    jt: bytes[2],
                    jf: bytes[3],
                    k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                })
                .collect(),
        ))
    }

    /// Puts it in force for this process, for ever.
    pub(super) fn install(&self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let program = libc::sock_fprog {
            // Not truncated: `new` has checked it.
            len: self.0.len() as u16,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel reads `len` instructions from `filter`, which are there,
        // and checks them; it writes nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        if result < 0 {
            return Err(Error::system("install the system call filter")(
                io::Error::last_os_error(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_instructions_only() {
        let filter = Filter::new(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]).expect("an instruction");
        assert_eq!((filter.0[0].code, filter.0[0].k), (6, 0x7fff_0000));
        assert!(Filter::new(&[6, 0, 0]).is_err());
    }
}
