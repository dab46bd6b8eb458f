//! A thread of another process, held still (ptrace(2)).

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::ptr;

use crate::{Error, Result, state};

/// Requests that have no name in `libc` (linux/ptrace.h).
const GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const SECCOMP_GET_FILTER: u32 = 0x420c;
const SET_SIGNAL_MASK: u32 = 0x420b;

/// Extended registers, in the format of XSAVE (linux/elf.h).
const NT_X86_XSTATE: usize = 0x202;

/// More than any processor has.
const EXTENDED_LIMIT: usize = 64 << 10;

/// Bytes below the stack pointer that a leaf function may use (System V ABI, 3.2.2).
const RED_ZONE: u64 = 128;

/// Why a thread has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// It was to.
    Interrupted,
    /// It has executed one instruction.
    Stepped,
}

/// A thread that is held still until this is dropped.
#[derive(Debug)]
pub(crate) struct Tracee(pub(crate) libc::pid_t);

impl Tracee {
    /// Holds a thread of a process still; none if it has ended.
    pub(crate) fn hold(process: u32, thread: libc::pid_t) -> Result<Option<Self>> {
        let seize = || -> io::Result<Option<Self>> {
            command(libc::PTRACE_SEIZE, thread, 0)?;
            let tracee = Self(thread);
            // If it ends before that, it is waited for all the same.
            let _ = command(libc::PTRACE_INTERRUPT, thread, 0);
            Ok(tracee.has_stopped(Stop::Interrupted)?.then_some(tracee))
        };
        match seize() {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            // The kernel's answer as well while one ends.
            Err(error)
                if error.raw_os_error() == Some(libc::EPERM) && is_ending(process, thread) =>
            {
                Ok(None)
            }
            seized => seized.map_err(Error::system("trace a thread of the process")),
        }
    }

    /// Waits until it has stopped for this reason, or ended.
    fn has_stopped(&self, reason: Stop) -> io::Result<bool> {
        // If it has stopped for another one.
        let go_on = match reason {
            Stop::Interrupted => libc::PTRACE_CONT,
            Stop::Stepped => libc::PTRACE_SINGLESTEP,
        };
        let mut status = 0;
        loop {
            // SAFETY: the kernel writes to the status alone.
            let waited = unsafe { libc::waitpid(self.0, &mut status, libc::__WALL) };
            if waited < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            }
            if !libc::WIFSTOPPED(status) {
                return Ok(false);
            }
            let signal = libc::WSTOPSIG(status);
            let found = match (status >> 16, signal) {
                (libc::PTRACE_EVENT_STOP, _) => Stop::Interrupted,
                (_, libc::SIGTRAP) => Stop::Stepped,
                // A signal is on its way to it, and comes through.
                _ => {
                    command(go_on, self.0, signal as usize)?;
                    continue;
                }
            };
            if found == reason {
                return Ok(true);
            }
            command(go_on, self.0, 0)?;
        }
    }

    /// Its registers.
    pub(crate) fn registers(&self) -> Result<libc::user_regs_struct> {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
        let address = registers.as_mut_ptr() as usize;
        // SAFETY: the kernel writes all registers, for which there is room.
        let read = unsafe { request(libc::PTRACE_GETREGS, self.0, 0, address) };
        read.map_err(Error::system("read the registers of a thread"))?;
        // SAFETY: the kernel has filled it in, and any bits are registers.
        Ok(unsafe { registers.assume_init() })
    }

    /// Whether it waits in a system call, in which the kernel has interrupted it.
    pub(crate) fn waits(&self) -> Result<bool> {
        Ok(is_done_over(&self.registers()?))
    }

    /// Whether it waits for one of many descriptors.
    pub(crate) fn waits_for_events(&self) -> Result<bool> {
        const CALLS: [libc::c_long; 4] = [
            libc::SYS_poll,
            libc::SYS_ppoll,
            libc::SYS_select,
            libc::SYS_pselect6,
        ];
        let registers = self.registers()?;
        let call = registers.orig_rax as libc::c_long;
        Ok(is_done_over(&registers) && CALLS.contains(&call))
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> Result<()> {
        let address = ptr::from_ref(registers) as usize;
        // SAFETY: the kernel reads all registers, which are there.
        let written = unsafe { request(libc::PTRACE_SETREGS, self.0, 0, address) };
        written
            .map(drop)
            .map_err(Error::system("write the registers of a thread"))
    }

    /// Its extended registers, as XSAVE writes them.
    pub(crate) fn extended(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0_u8; EXTENDED_LIMIT];
        let mut vector = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let address = &raw mut vector as usize;
        // SAFETY: the kernel writes as many bytes as the vector says that there are.
        let read = unsafe { request(libc::PTRACE_GETREGSET, self.0, NT_X86_XSTATE, address) };
        read.map_err(Error::system("read the extended registers of a thread"))?;
        bytes.truncate(vector.iov_len);
        Ok(bytes)
    }

    /// The signals that it does not take.
    pub(crate) fn blocked_signals(&self) -> Result<u64> {
        let mut mask = 0_u64;
        let (length, address) = (size_of_val(&mask), &raw mut mask as usize);
        // SAFETY: the kernel writes a mask of eight bytes.
        let read = unsafe { request(libc::PTRACE_GETSIGMASK, self.0, length, address) };
        read.map_err(Error::system("read the signal mask of a thread"))?;
        Ok(mask)
    }

    fn block_signals(&self, mask: u64) -> Result<()> {
        let (length, address) = (size_of_val(&mask), &raw const mask as usize);
        // SAFETY: the kernel reads a mask of eight bytes.
        let written = unsafe { request(SET_SIGNAL_MASK, self.0, length, address) };
        written
            .map(drop)
            .map_err(Error::system("write the signal mask of a thread"))
    }

    /// Whether it has registered restartable sequences.
    pub(crate) fn has_restartable_sequences(&self) -> Result<bool> {
        // struct ptrace_rseq_configuration: pointer, size, signature, flags, padding.
        let mut configuration = [0_u64; 3];
        let length = size_of_val(&configuration);
        let address = &raw mut configuration as usize;
        // SAFETY: the kernel writes at most as many bytes as it is told that there are.
        let read = unsafe { request(GET_RSEQ_CONFIGURATION, self.0, length, address) };
        read.map_err(Error::system("ask for restartable sequences"))?;
        Ok(configuration[0] != 0)
    }

    /// Its robust list: head and size (get_robust_list(2)).
    pub(crate) fn robust_list(&self) -> Result<(u64, u64)> {
        let (mut head, mut size) = (0_u64, 0_u64);
        // SAFETY: the kernel writes two words.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_robust_list,
                self.0,
                &raw mut head,
                &raw mut size,
            )
        };
        match result {
            0 => Ok((head, size)),
            _ => Err(Error::system("ask for the robust list of a thread")(
                io::Error::last_os_error(),
            )),
        }
    }

    /// Its system call filters, the oldest first.
    pub(crate) fn filters(&self) -> Result<Vec<Vec<u64>>> {
        let failed = || Error::system("read a system call filter of the process");
        let mut filters = Vec::new();
        loop {
            let number = filters.len();
            // SAFETY: without an address, the kernel tells the length alone.
            let length = match unsafe { request(SECCOMP_GET_FILTER, self.0, number, 0) } {
                Ok(length) => length as usize,
                // No more of them; none at all.
                Err(error)
                    if [Some(libc::ENOENT), Some(libc::EINVAL)].contains(&error.raw_os_error()) =>
                {
                    return Ok(filters);
                }
                Err(error) => return Err(failed()(error)),
            };
            let mut instructions = vec![0_u64; length];
            let address = instructions.as_mut_ptr() as usize;
            // SAFETY: the kernel writes that many instructions: it is held still, so that its
            // filters stay.
            let read = unsafe { request(SECCOMP_GET_FILTER, self.0, number, address) };
            read.map_err(failed())?;
            filters.push(instructions);
        }
    }

    /// Has it make a system call, of which the kernel writes a result of `N` words to memory.
    /// It waits in a system call, of which it must not notice.
    pub(crate) fn call<const N: usize>(
        &self,
        memory: &File,
        number: libc::c_long,
        arguments: impl FnOnce(u64) -> [u64; 4],
    ) -> Result<[u64; N]> {
        let before = self.waiting()?;
        let scratch = (before.rsp - RED_ZONE - 8 * N as u64) & !15;
        self.answer(&before, number, arguments(scratch))?;
        let mut result = [0; N];
        for (word, address) in result.iter_mut().zip((scratch..).step_by(8)) {
            let mut bytes = [0; 8];
            let read = memory.read_exact_at(&mut bytes, address);
            read.map_err(Error::system("read the memory of the process"))?;
            *word = u64::from_ne_bytes(bytes);
        }
        Ok(result)
    }

    /// Where its heap ends (brk(2)). It waits in a system call.
    pub(crate) fn end_of_heap(&self) -> Result<u64> {
        self.answer(&self.waiting()?, libc::SYS_brk, [0; 4])
    }

    /// Its registers in the system call that it waits in.
    fn waiting(&self) -> Result<libc::user_regs_struct> {
        let registers = self.registers()?;
        match registers.orig_rax {
            u64::MAX => {
                let what = "a thread that does not wait in a system call";
                Err(Error::Unsupported(what.to_owned()))
            }
            _ => Ok(registers),
        }
    }

    /// Has it make a system call, and returns what that does. It has its registers back then.
    fn answer(
        &self,
        before: &libc::user_regs_struct,
        number: libc::c_long,
        arguments: [u64; 4],
    ) -> Result<u64> {
        // A handler would be called in the midst of it.
        let blocked = self.blocked_signals()?;
        self.block_signals(u64::MAX)?;
        let answer = self.step(before, number, arguments);
        let restored = self.set_registers(before);
        let restored = restored.and_then(|()| self.block_signals(blocked));
        answer.and_then(|answer| restored.map(|()| answer))
    }

    fn step(
        &self,
        before: &libc::user_regs_struct,
        number: libc::c_long,
        [rdi, rsi, rdx, r10]: [u64; 4],
    ) -> Result<u64> {
        self.set_registers(&libc::user_regs_struct {
            rax: number as u64,
            rdi,
            rsi,
            rdx,
            r10,
            // The instruction that it waits in.
            rip: before.rip - 2,
            // So that the kernel does not take it for one to be done over.
            orig_rax: u64::MAX,
            ..*before
        })?;
        command(libc::PTRACE_SINGLESTEP, self.0, 0).map_err(Error::system(
            "let a thread of the process make a system call",
        ))?;
        match self.has_stopped(Stop::Stepped) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Error::Unsupported("a thread that has ended".to_owned()));
            }
            Err(error) => return Err(Error::system("wait for a thread of the process")(error)),
        }
        let after = self.registers()?;
        if after.rip != before.rip || (after.rax as i64) < 0 {
            let error = io::Error::from_raw_os_error((after.rax as i32).wrapping_neg());
            return Err(Error::system("have the process make a system call")(error));
        }
        Ok(after.rax)
    }

    /// Lets it make the system call again that it waits in, with the arguments that it had.
    /// One of poll(2) and others with a time would be `restart_syscall` after this, which
    /// does not say any more what is waited for. Its time begins anew.
    fn wait_again(&self) -> Result<()> {
        let registers = self.registers()?;
        if !is_done_over(&registers)
            || registers.rax as i64 != RESTART_BLOCK
            || registers.orig_rax as i64 == libc::SYS_restart_syscall
        {
            return Ok(());
        }
        self.set_registers(&libc::user_regs_struct {
            rax: NO_HANDLER as u64,
            ..registers
        })
    }
}

/// Answers of system calls that are interrupted and done over (linux/errno.h): `ERESTARTSYS`,
/// `ERESTARTNOINTR`, and the two below.
const DONE_OVER: [i64; 4] = [-512, -513, NO_HANDLER, RESTART_BLOCK];

/// `ERESTARTNOHAND`: the same call again, unless a handler is called.
const NO_HANDLER: i64 = -514;

/// `ERESTART_RESTARTBLOCK`: `restart_syscall`, with what the kernel has noted.
const RESTART_BLOCK: i64 = -516;

/// Whether a thread is in a system call that it makes again.
pub(crate) fn is_done_over(registers: &libc::user_regs_struct) -> bool {
    registers.orig_rax != u64::MAX && DONE_OVER.contains(&(registers.rax as i64))
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.wait_again();
        let _ = command(libc::PTRACE_DETACH, self.0, 0);
    }
}

/// Whether a thread that is listed ends, or has ended.
fn is_ending(process: u32, thread: libc::pid_t) -> bool {
    match fs::read_to_string(format!("/proc/{process}/task/{thread}/stat")) {
        Ok(stat) => {
            let fields = state::fields(&stat).unwrap_or_default();
            fields
                .first()
                .is_some_and(|state| ["X", "Z"].contains(state))
        }
        Err(error) => [Some(libc::ENOENT), Some(libc::ESRCH)].contains(&error.raw_os_error()),
    }
}

/// A request without an address.
fn command(what: libc::c_uint, thread: libc::pid_t, data: usize) -> io::Result<()> {
    // SAFETY: no memory is touched: the data of these is a number.
    unsafe { request(what, thread, 0, data) }.map(drop)
}

/// Asks something of the kernel (ptrace(2)).
///
/// # Safety
///
/// `data` is what the request takes there: if an address, of as much memory as the kernel
/// reads or writes.
unsafe fn request(
    request: libc::c_uint,
    thread: libc::pid_t,
    address: usize,
    data: usize,
) -> io::Result<libc::c_long> {
    // SAFETY: as the caller says.
    let result = unsafe { libc::ptrace(request, thread, address, data) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
