//! Threads: what is written of one, and the signal frame from which its copy goes on.
//!
//! A copy of a thread begins in `rt_sigreturn`, which loads all registers at once, the mask
//! of signals and their stack with them, from a frame as the kernel writes it before it calls a
//! handler (`struct rt_sigframe`, arch/x86/include/asm/sigframe.h). Of extended registers that
//! a thread must ask for before it uses them (AMX), the kernel takes none, and loads those of
//! SSE alone: a thread that waits in a system call has nothing in the others.

use crate::tracee::is_done_over;
use crate::{Error, Result};

/// `struct ucontext` (asm/ucontext.h), of which the last member is the mask of signals.
const CONTEXT: usize = 304;

/// Offsets in it.
const FLAGS: usize = 0;
const STACK: usize = 16;
const REGISTERS: usize = 40;
const SEGMENTS: usize = REGISTERS + 18 * 8;
const EXTENDED_AT: usize = REGISTERS + 23 * 8;
const MASK: usize = CONTEXT - 8;

/// Extended registers are there; so is the stack segment, to be loaded as it is.
const CONTEXT_FLAGS: u64 = 1 | 2 | 4;

/// In the extended registers, bytes that are left to software: there the frame says how
/// long they are (`struct _fpx_sw_bytes`).
const SOFTWARE: usize = 464;
const MAGIC: u32 = 0x4650_5853;
const END_MAGIC: u32 = 0x4650_5845;

/// Segments of 64-bit processes.
const CODE_SEGMENT: u16 = 0x33;
const STACK_SEGMENT: u16 = 0x2b;

/// Bytes of the `syscall` instruction.
const INSTRUCTION: u64 = 2;

/// Alignment of a frame, of which the kernel asks for that of the extended registers.
pub(crate) const ALIGNMENT: u64 = 64;

/// The frame of a thread. Where the extended registers are is filled in by [`place`]. The
/// stack for its signals is as sigaltstack(2) tells it, the flags in a word of their own.
pub(crate) fn frame(
    registers: &libc::user_regs_struct,
    extended: &[u8],
    stack: [u64; 3],
    blocked: u64,
) -> Result<Vec<u8>> {
    if registers.cs != u64::from(CODE_SEGMENT) || registers.ss != u64::from(STACK_SEGMENT) {
        return Err(Error::Unsupported("a thread of 32 bits".to_owned()));
    }
    if registers.gs_base != 0 {
        return Err(Error::Unsupported("a second segment of memory".to_owned()));
    }
    if extended.len() < SOFTWARE + 48 {
        return Err(Error::Unsupported("a processor without XSAVE".to_owned()));
    }
    let (mut rax, mut rip) = (registers.rax, registers.rip);
    if is_done_over(registers) {
        (rax, rip) = (registers.orig_rax, rip - INSTRUCTION);
    }
    let mut frame = vec![0; CONTEXT.next_multiple_of(ALIGNMENT as usize)];
    let mut write = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    write(FLAGS, &CONTEXT_FLAGS.to_ne_bytes());
    for (word, at) in stack.iter().zip((STACK..).step_by(8)) {
        write(at, &word.to_ne_bytes());
    }
    let all = [
        registers.r8,
        registers.r9,
        registers.r10,
        registers.r11,
        registers.r12,
        registers.r13,
        registers.r14,
        registers.r15,
        registers.rdi,
        registers.rsi,
        registers.rbp,
        registers.rbx,
        registers.rdx,
        rax,
        registers.rcx,
        registers.rsp,
        rip,
        registers.eflags,
    ];
    for (register, at) in all.iter().zip((REGISTERS..).step_by(8)) {
        write(at, &register.to_ne_bytes());
    }
    write(SEGMENTS, &CODE_SEGMENT.to_ne_bytes());
    write(SEGMENTS + 6, &STACK_SEGMENT.to_ne_bytes());
    write(MASK, &blocked.to_ne_bytes());
    frame.extend(software_bytes(extended));
    Ok(frame)
}

/// The extended registers with what a frame says of them.
fn software_bytes(extended: &[u8]) -> Vec<u8> {
    let length = extended.len() as u32;
    let mut bytes = extended.to_vec();
    let features = bytes[SOFTWARE..SOFTWARE + 8].to_vec();
    let mut software = Vec::with_capacity(48);
    software.extend(MAGIC.to_ne_bytes());
    software.extend((length + 4).to_ne_bytes());
    software.extend(features);
    software.extend(length.to_ne_bytes());
    software.resize(48, 0);
    bytes[SOFTWARE..SOFTWARE + 48].copy_from_slice(&software);
    bytes.extend(END_MAGIC.to_ne_bytes());
    bytes
}

/// Tells a frame that it is at an address.
pub(crate) fn place(frame: &mut [u8], address: u64) {
    let extended = address + CONTEXT.next_multiple_of(ALIGNMENT as usize) as u64;
    frame[EXTENDED_AT..EXTENDED_AT + 8].copy_from_slice(&extended.to_ne_bytes());
}
