//! System calls that are younger than a profile or than libseccomp.

use libseccomp::{ScmpArch, ScmpSyscall};

use super::Architectures;

/// Value of `seccomp_data.arch` for x86-64 and x32 (`linux/audit.h`).
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Marks the number of an x32 system call (`asm/unistd.h`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// System calls younger than libseccomp 2.5.4 (Debian's updates of it know some), by
/// their numbers on x86-64. Numbers from 424 on are the same on every architecture.
const YOUNG_SYSCALLS: [(&str, i32); 16] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
];

/// Largest number of a system call that the profile names.
#[derive(Default)]
pub(super) struct Last {
    pub(super) x86_64: i32,
    x32: i32,
}

impl Last {
    /// The number of a system call, noted as the last one if it is.
    pub(super) fn resolve(
        &mut self,
        name: &str,
        architectures: &Architectures,
    ) -> Option<ScmpSyscall> {
        if architectures.x32
            && let Ok(syscall) = ScmpSyscall::from_name_by_arch(name, ScmpArch::X32)
        {
            self.x32 = self.x32.max(syscall.as_raw_syscall());
        }
        if let Ok(syscall) = ScmpSyscall::from_name_by_arch(name, ScmpArch::X8664) {
            self.x86_64 = self.x86_64.max(syscall.as_raw_syscall());
            return Some(syscall);
        }
        // libseccomp translates a number to other architectures by its name, which it does not know.
        if !architectures.only_native {
            return None;
        }
        let (_, number) = YOUNG_SYSCALLS.iter().find(|(young, _)| *young == name)?;
        self.x86_64 = self.x86_64.max(*number);
        Some(ScmpSyscall::from_raw_syscall(*number))
    }
}

/// Bytes of a `struct sock_filter`.
pub(super) const INSTRUCTION_LEN: usize = 8;

/// An instruction of classic BPF as bytes (`linux/filter.h`).
fn instruction(code: u32, jump_true: u8, jump_false: u8, k: u32) -> [u8; INSTRUCTION_LEN] {
    // Every code of classic BPF fits into 16 bits.
    let [code_low, code_high, ..] = code.to_ne_bytes();
    let [k0, k1, k2, k3] = k.to_ne_bytes();
    [code_low, code_high, jump_true, jump_false, k0, k1, k2, k3]
}

/// A prologue that answers `ENOSYS` to numbers beyond the last one named.
pub(super) fn unknown_is_enosys(last: &Last, architectures: &Architectures) -> Vec<u8> {
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let load_arch = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 4);
    let jump = |operator: u32, k: u32, yes: u8, no: u8| {
        instruction(libc::BPF_JMP | operator | libc::BPF_K, yes, no, k)
    };
    let enosys = instruction(
        libc::BPF_RET | libc::BPF_K,
        0,
        0,
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
    );
    let x86_64 = last.x86_64.unsigned_abs();
    // Numbers of x32 are above all of x86-64, so one comparison sees to both
    // where the profile leaves x32 out.
    let program = if architectures.x32 && last.x32 > 0 {
        let x32 = last.x32.unsigned_abs() | X32_BIT;
        vec![
            load_arch,
            jump(libc::BPF_JEQ, AUDIT_ARCH_X86_64, 0, 5),
            load_number,
            jump(libc::BPF_JSET, X32_BIT, 1, 0),
            jump(libc::BPF_JGT, x86_64, 1, 2),
            jump(libc::BPF_JGT, x32, 0, 1),
            enosys,
        ]
    } else {
        vec![
            load_arch,
            jump(libc::BPF_JEQ, AUDIT_ARCH_X86_64, 0, 3),
            load_number,
            jump(libc::BPF_JGT, x86_64, 0, 1),
            enosys,
        ]
    };
    program.concat()
}
