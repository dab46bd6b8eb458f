//! Writes a process that stands still to files, and begins others as copies of it.
//!
//! A copy has the memory, threads, registers, signal handlers and system call filters that
//! the process had, and goes on where it stopped: in the system calls in which its threads
//! waited. Its memory is mapped from the files, privately: copies share what none of them
//! has written to.
//!
//! This is for processes that are known well, not for any: QEMU, whose machine is stopped.
//! What would be lost is an error while the process is written, never a surprise in a copy.
//! So a process may have
//!
//! - threads of glibc, without restartable sequences
//!   (`GLIBC_TUNABLES=glibc.pthread.rseq=0`),
//! - private memory, of files that stay as they are, and shared memory of files that it was
//!   given,
//! - descriptors that it was given, of which a copy is given its own; event counters,
//!   which are semaphores only where Linux tells (since 6.5); signal descriptors; and
//! - no timers, no children, no signals that wait.
//!
//! A copy has neither the advice that was given on memory (madvise(2)), nor locked memory, nor
//! the names of other threads than the first. Memory that a child would find wiped
//! (`MADV_WIPEONFORK`) is wiped. But **what the process would draw at random, every copy draws**
//! if its generator keeps its state in ordinary memory: so does that of GnuTLS, to which a copy
//! is no child.
//!
//! Memory that it gives back (`MADV_DONTNEED`) has the files' content in a copy, where it
//! would have had zeros: its allocator must not do so with what it takes for zeros later
//! (`glibc.malloc.trim_threshold`).
//!
//! Only x86-64 Linux: signal frames and registers are laid out as there.

mod descriptor;
mod error;
mod freeze;
mod host;
mod image;
mod list;
mod maps;
mod pages;
mod program;
mod restore;
mod room;
mod state;
mod thread;
mod tracee;

pub use error::{Error, Result};
pub use freeze::{Given, freeze};
pub use image::{Image, Range};
pub use maps::Line;
pub use pages::Memory;
pub use restore::Copy;

/// Tunables of glibc with which a process can be written and copied
/// (`GLIBC_TUNABLES`): it registers no restartable sequences, and keeps what it has
/// allocated.
pub const TUNABLES: &str = "glibc.pthread.rseq=0:glibc.malloc.trim_threshold=0x4000000000000000";
