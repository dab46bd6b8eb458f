//! What is written of a process, besides its pages.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::Host;

/// A process that stood still.
#[derive(Debug, Serialize, Deserialize)]
pub struct Image {
    /// Its name, at most 15 bytes.
    pub(crate) name: String,
    /// Nanoseconds by which a timer of its first thread may be late; 0 is what the kernel
    /// takes by itself (`PR_SET_TIMERSLACK`, prctl(2)). Other threads have it as well.
    pub(crate) timer_slack: u64,
    /// Where it ran.
    pub(crate) host: Host,
    pub(crate) layout: Layout,
    /// Files that are mapped, of which mappings have the numbers.
    pub(crate) files: Vec<MappedFile>,
    pub(crate) mappings: Vec<Mapping>,
    /// What the kernel has mapped: its clocks and the calls that read them.
    pub(crate) kernel: Vec<KernelMapping>,
    /// The first one is the process's first.
    pub(crate) threads: Vec<Thread>,
    /// What signals do, of those that do not do what they would by default.
    pub(crate) actions: Vec<Action>,
    pub(crate) descriptors: Vec<Descriptor>,
    /// Filters of system calls, the oldest first: instructions as the kernel has them.
    pub(crate) filters: Vec<Vec<u64>>,
}

impl Image {
    /// The first number from which on no copy has a descriptor.
    pub(crate) fn first_free(&self) -> RawFd {
        let numbers = self.descriptors.iter().map(|descriptor| descriptor.number);
        numbers.max().map_or(0, |last| last + 1)
    }
}

/// Addresses that the kernel knows of a process (`PR_SET_MM_MAP`, prctl(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub(crate) struct Layout {
    pub(crate) start_code: u64,
    pub(crate) end_code: u64,
    pub(crate) start_data: u64,
    pub(crate) end_data: u64,
    pub(crate) start_brk: u64,
    pub(crate) brk: u64,
    pub(crate) start_stack: u64,
    pub(crate) env_start: u64,
    pub(crate) env_end: u64,
}

/// A file of the host's that is mapped, and how to tell it from every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) modified: (i64, i64),
    /// Likewise; nobody can set this one.
    pub(crate) changed: (i64, i64),
}

/// A range of addresses, of whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first.
    pub begin: u64,
    /// The first after it.
    pub end: u64,
}

impl Range {
    /// Bytes.
    pub fn length(self) -> u64 {
        self.end - self.begin
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.begin < other.end && other.begin < self.end
    }
}

/// Part of the address space.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapping {
    pub(crate) range: Range,
    /// `PROT_*` (mmap(2)).
    pub(crate) protection: i32,
    pub(crate) source: Source,
    /// What is not the source's any more.
    pub(crate) runs: Vec<Run>,
    /// See [`crate::Line`].
    pub(crate) is_wiped: bool,
}

/// What a mapping is of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    Zeros,
    /// A file of the host's, by its number.
    File {
        number: usize,
        offset: u64,
    },
    /// A file that the process was given; whether what it wrote went to the file.
    Given {
        descriptor: i32,
        offset: u64,
        shared: bool,
    },
}

/// Pages in a row that are in the file of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) range: Range,
    /// Where they are in the file.
    pub(crate) offset: u64,
}

/// A mapping of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelMapping {
    /// As in `/proc/PID/maps`.
    pub(crate) name: String,
    pub(crate) range: Range,
}

/// A thread that stood still.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Thread {
    /// Where its number is kept; the kernel writes 0 there and wakes who waits when it ends.
    pub(crate) number_at: u64,
    /// Head and size of the list of its robust futexes.
    pub(crate) robust: (u64, u64),
    /// Base of the segment of its thread-local memory.
    pub(crate) local: u64,
    /// Where the frame that it returns from is in the file of pages, and its length.
    pub(crate) frame: (u64, u64),
}

/// Signals that have a number.
pub(crate) const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// What a signal does: as `struct kernel_sigaction` of rt_sigaction(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Action {
    pub(crate) signal: i32,
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// An open descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Descriptor {
    pub(crate) number: i32,
    pub(crate) kind: Kind,
}

/// What is behind a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// What a copy is given under this number; `O_*`, of which some can be set later.
    Given { flags: u32 },
    /// What is behind another descriptor, which comes before.
    Same(i32),
    /// An event counter (eventfd(2)).
    Event {
        count: u64,
        semaphore: bool,
        flags: u32,
    },
    /// Signals of these numbers, bit by bit (signalfd(2)).
    Signals { mask: u64, flags: u32 },
}
