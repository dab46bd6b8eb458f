//! The program that turns a process into a copy: a list of system calls.
//!
//! No function of this process can do it, as it takes the memory away in which functions
//! and stacks are. So a few instructions, in memory of their own, make the calls of a list
//! one after the other.

use std::arch::global_asm;

/// A place in the list. The instructions below know its layout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Call {
    number: i64,
    arguments: [u64; 6],
    /// If the result is 0, where to go on: of `clone`, for the new thread. 0: with the next.
    on_zero: u64,
}

/// Instead of a call's number: writes the second argument, four bytes, to the first.
const STORE: i64 = -1;

impl Call {
    pub(crate) fn new<const N: usize>(number: libc::c_long, arguments: [u64; N]) -> Self {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&arguments);
        Self {
            number,
            arguments: all,
            on_zero: 0,
        }
    }

    pub(crate) fn store(address: u64, value: i32) -> Self {
        Self::new(STORE, [address, value as u32 as u64])
    }

    /// A thread begins with the call at this address.
    pub(crate) fn zero_goes_to(self, address: u64) -> Self {
        Self {
            on_zero: address,
            ..self
        }
    }

    /// As the instructions read it.
    pub(crate) fn bytes(&self) -> [u8; size_of::<Self>()] {
        let words = [self.number as u64]
            .into_iter()
            .chain(self.arguments)
            .chain([self.on_zero]);
        let mut bytes = [0; size_of::<Self>()];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// Exit status of a process that cannot become a copy.
const FAILED: i32 = 119;

// r12 is the place in the list: a system call changes rax, rcx and r11 alone.
global_asm!(
    ".pushsection .text.caisson_checkpoint, \"ax\", @progbits",
    ".balign 64",
    ".global caisson_checkpoint_begin",
    ".global caisson_checkpoint_end",
    "caisson_checkpoint_begin:",
    "2:",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "cmp rax, {store}",
    "jne 3f",
    "mov [rdi], esi",
    "jmp 5f",
    "3:",
    "syscall",
    "cmp rax, -4095",
    "jae 6f",
    "test rax, rax",
    "jnz 5f",
    "mov rcx, [r12 + 56]",
    "test rcx, rcx",
    "jz 5f",
    "mov r12, rcx",
    "jmp 2b",
    "5:",
    "add r12, 64",
    "jmp 2b",
    // There is nobody to return to.
    "6:",
    "mov edi, {failed}",
    "mov eax, {exit_group}",
    "syscall",
    "ud2",
    "caisson_checkpoint_end:",
    ".popsection",
    store = const STORE,
    failed = const FAILED,
    exit_group = const libc::SYS_exit_group,
);

unsafe extern "C" {
    static caisson_checkpoint_begin: u8;
    static caisson_checkpoint_end: u8;
}

/// The instructions, which run wherever they are.
pub(crate) fn instructions() -> &'static [u8] {
    let begin = &raw const caisson_checkpoint_begin;
    let end = &raw const caisson_checkpoint_end;
    // SAFETY: the two labels are the ends of the instructions above, which are in this
    // program's memory as long as it is there.
    unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_the_instructions_read() {
        let call = Call::new(libc::SYS_mmap, [1, 2, 3, 4, 5, 6]).zero_goes_to(7);
        let words: Vec<_> = call
            .bytes()
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
            .collect();
        assert_eq!(words, [libc::SYS_mmap as u64, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(size_of::<Call>(), 64);
        assert!((64..512).contains(&instructions().len()));
    }
}
