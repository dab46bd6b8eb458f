//! The list of calls that turns a process into a copy, in order.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::image::{Image, KernelMapping, Mapping, Range, SIGNALS, Source, Thread};
use crate::pages::PAGE;
use crate::program::Call;
use crate::room::Room;
use crate::{Error, Result, thread};

/// End of the addresses of a process, with four levels of page tables.
const END: u64 = 0x7fff_ffff_f000;

/// Lowest address that anybody may map.
const BEGIN: u64 = 0x1_0000;

/// Bytes below a stack into which the kernel would let it grow, unless told otherwise
/// (`RLIMIT_STACK`). They are taken as they are written.
pub(crate) const STACK: u64 = 8 << 20;

/// Signals for which nothing can be set.
const FIXED: [i32; 2] = [libc::SIGKILL, libc::SIGSTOP];

/// `struct prctl_mm_map` (linux/prctl.h), after its addresses: no auxiliary vector, and the
/// program's file stays what it is.
const NO_VECTOR_NO_FILE: [u64; 2] = [0, (u32::MAX as u64) << 32];

/// Words of it.
const LAYOUT: usize = 13;

/// As glibc makes a thread.
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// `ARCH_SET_FS` (arch_prctl(2)).
const SET_FS: u64 = 0x1002;

/// Nothing is set aside for what is never written.
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_NORESERVE;

/// What is known when the list is made.
pub(crate) struct Plan<'a> {
    pub(crate) image: &'a Image,
    pub(crate) pages: &'a File,
    pub(crate) files: &'a [OwnedFd],
    /// See [`crate::Copy::begin`].
    pub(crate) private: bool,
    /// What the kernel has mapped here, and what it had there.
    pub(crate) kernel: &'a [(KernelMapping, KernelMapping)],
    pub(crate) room: &'a Room,
    /// Arguments, each with a NUL at its end.
    pub(crate) command_line: &'a [u8],
}

impl Plan<'_> {
    /// What is in the room: the frames, the list, and what its calls read.
    pub(crate) fn contents(&self) -> Result<Vec<u8>> {
        let mut contents = self.frames()?;
        contents.resize((self.room.list - self.room.data.begin) as usize, 0);
        let (first, others) = self.image.threads.split_first().ok_or(Error::NoRoom)?;
        let mut calls = self.memory();
        let signals = self.signals();
        let become_first = first_thread(first);
        // What the calls read comes after them, and has addresses: they are counted first.
        let number = calls.len() + 1 + signals.len() + become_first.len();
        let number = number + others.len() + 1 + 2 * others.len();
        let read_at = self.at(number);
        let arguments_at = read_at + ((LAYOUT + 4 * signals.len()) * 8) as u64;
        let mut read = self.layout(arguments_at);
        let arguments = [
            libc::PR_SET_MM as u64,
            libc::PR_SET_MM_MAP as u64,
            read_at,
            (read.len() * 8) as u64,
        ];
        calls.push(Call::new(libc::SYS_prctl, arguments));
        for (signal, action) in signals {
            let address = read_at + (read.len() * 8) as u64;
            read.extend(action);
            let size = size_of::<u64>() as u64;
            calls.push(Call::new(
                libc::SYS_rt_sigaction,
                [signal as u64, address, 0, size],
            ));
        }
        calls.extend(become_first);
        let resume = Call::new(libc::SYS_rt_sigreturn, []);
        let their_calls = calls.len() + others.len() + 1;
        for (index, (thread, frame)) in others.iter().zip(&self.room.frames[1..]).enumerate() {
            let number = thread.number_at;
            let arguments = [THREAD as u64, *frame, number, number, thread.local];
            let begins = self.at(their_calls + 2 * index);
            calls.push(Call::new(libc::SYS_clone, arguments).zero_goes_to(begins));
        }
        calls.push(resume);
        for thread in others {
            calls.extend([robust_list(thread), resume]);
        }
        assert_eq!(calls.len(), number, "every call was counted");
        contents.extend(calls.iter().flat_map(Call::bytes));
        contents.extend(read.iter().flat_map(|word| word.to_ne_bytes()));
        contents.extend(self.command_line);
        Ok(contents)
    }

    /// Address of a call, by its number.
    fn at(&self, number: usize) -> u64 {
        self.room.list + (number * size_of::<Call>()) as u64
    }

    fn frames(&self) -> Result<Vec<u8>> {
        let mut contents = Vec::new();
        for (thread, address) in self.image.threads.iter().zip(&self.room.frames) {
            let (offset, length) = thread.frame;
            let mut frame = vec![0; length as usize];
            self.pages
                .read_exact_at(&mut frame, offset)
                .map_err(Error::system("read the registers of a thread"))?;
            thread::place(&mut frame, *address);
            contents.resize((address - self.room.data.begin) as usize, 0);
            contents.extend(frame);
        }
        Ok(contents)
    }

    /// Takes this process's memory away, and maps the copy's.
    fn memory(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        let mut then = Vec::new();
        let mut waiting = self.room.waiting.begin;
        for (own, wanted) in self.kernel {
            let length = own.range.length();
            calls.push(remap(own.range.begin, length, waiting));
            then.push(remap(waiting, length, wanted.range.begin));
            waiting += length;
        }
        let unmap = |begin: u64, end: u64| Call::new(libc::SYS_munmap, [begin, end - begin]);
        calls.push(unmap(BEGIN, self.room.code.begin));
        calls.push(unmap(self.room.waiting.end, END));
        for mapping in &self.image.mappings {
            self.map(mapping, &mut calls);
        }
        calls.extend(then);
        let all = u64::from(u32::MAX);
        let own = self.image.first_free();
        calls.push(Call::new(libc::SYS_close_range, [own as u64, all, 0]));
        calls
    }

    fn map(&self, mapping: &Mapping, calls: &mut Vec<Call>) {
        let Mapping {
            mut range,
            protection,
            ..
        } = *mapping;
        let stack = self.image.layout.start_stack;
        if (range.begin..range.end).contains(&stack) {
            // That of a copy has it already.
            range.begin = range.begin.min(stack.saturating_sub(STACK) / PAGE * PAGE);
        }
        let (flags, file, offset) = match &mapping.source {
            Source::Zeros => (PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
            Source::File { number, offset } => (PRIVATE, self.files[*number].as_raw_fd(), *offset),
            Source::Given {
                descriptor,
                offset,
                shared,
            } => match *shared && !self.private {
                true => (libc::MAP_SHARED, *descriptor, *offset),
                false => (PRIVATE, *descriptor, *offset),
            },
        };
        calls.push(map(range, protection, flags, file, offset));
        let pages = self.pages.as_raw_fd();
        for run in &mapping.runs {
            calls.push(map(run.range, protection, PRIVATE, pages, run.offset));
        }
        if mapping.is_wiped {
            let arguments = [range.begin, range.length(), libc::MADV_WIPEONFORK as u64];
            calls.push(Call::new(libc::SYS_madvise, arguments));
        }
    }

    /// `struct prctl_mm_map`. The process's arguments come after all that the calls read.
    fn layout(&self, arguments: u64) -> Vec<u64> {
        let layout = &self.image.layout;
        let mut map = vec![
            layout.start_code,
            layout.end_code,
            layout.start_data,
            layout.end_data,
            layout.start_brk,
            layout.brk,
            layout.start_stack,
            arguments,
            arguments + self.command_line.len() as u64,
            layout.env_start,
            layout.env_end,
        ];
        map.extend(NO_VECTOR_NO_FILE);
        assert_eq!(map.len(), LAYOUT, "it has all members");
        map
    }

    /// Every signal does what it does in the copy, whatever it did here: the words of
    /// `struct kernel_sigaction`.
    fn signals(&self) -> Vec<(i32, [u64; 4])> {
        let settable = SIGNALS.filter(|signal| !FIXED.contains(signal));
        let action = |signal| {
            let mut set = self.image.actions.iter();
            let action = set.find(|action| action.signal == signal);
            action.map_or([0; 4], |action| {
                [action.handler, action.flags, action.restorer, action.mask]
            })
        };
        settable.map(|signal| (signal, action(signal))).collect()
    }
}

/// This thread becomes the copy's first.
fn first_thread(thread: &Thread) -> Vec<Call> {
    vec![
        Call::store(thread.number_at, std::process::id() as i32),
        Call::new(libc::SYS_set_tid_address, [thread.number_at]),
        robust_list(thread),
        Call::new(libc::SYS_arch_prctl, [SET_FS, thread.local]),
    ]
}

fn robust_list(thread: &Thread) -> Call {
    let (head, size) = thread.robust;
    Call::new(libc::SYS_set_robust_list, [head, size])
}

fn map(range: Range, protection: i32, flags: i32, file: i32, offset: u64) -> Call {
    let arguments = [
        range.begin,
        range.length(),
        protection as u64,
        (flags | libc::MAP_FIXED) as u64,
        file as u64,
        offset,
    ];
    Call::new(libc::SYS_mmap, arguments)
}

fn remap(from: u64, length: u64, to: u64) -> Call {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    Call::new(libc::SYS_mremap, [from, length, length, flags as u64, to])
}
