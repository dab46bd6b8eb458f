//! The memory in which a copy begins: instructions, a list of calls, and what those read.

use std::io;
use std::ptr;

use rustix::rand::GetRandomFlags;

use crate::image::{Image, KernelMapping, Range};
use crate::list::STACK;
use crate::maps::Line;
use crate::pages::PAGE;
use crate::program::{Call, instructions};
use crate::{Error, Result, thread};

/// Where it may be: above what is not position-independent, below what is
/// (Documentation/arch/x86/x86_64/mm.rst).
const LOWEST: u64 = 1 << 36;
const HIGHEST: u64 = 1 << 46;

/// How often an address is drawn that is taken.
const ATTEMPTS: usize = 64;

/// Bytes that calls read: what signals do, and the layout.
const READ: usize = 64 * 32 + 256;

/// Calls besides those for mappings, threads and signals.
const FEW: usize = 32 + 64;

/// Addresses that neither this process nor the copy uses. They stay in the copy, of which
/// nobody may know them beforehand.
#[derive(Debug)]
pub(crate) struct Room {
    /// The instructions.
    pub(crate) code: Range,
    /// Frames, the list, and what its calls read.
    pub(crate) data: Range,
    /// Where what the kernel has mapped waits.
    pub(crate) waiting: Range,
    /// Where the frame of each thread is.
    pub(crate) frames: Vec<u64>,
    /// Where the list is.
    pub(crate) list: u64,
}

impl Room {
    /// Measures it for a copy, and finds it.
    pub(crate) fn find(
        image: &Image,
        kernel: &[(KernelMapping, KernelMapping)],
        own: &[Line],
        command_line: &[u8],
    ) -> Result<Self> {
        let mut frames = Vec::new();
        let mut frames_length = 0;
        for thread in &image.threads {
            frames.push(frames_length);
            frames_length += thread.frame.1.next_multiple_of(thread::ALIGNMENT);
        }
        let mappings = image.mappings.iter();
        let mapped = mappings.map(|mapping| 1 + mapping.runs.len() + usize::from(mapping.is_wiped));
        let mapped: usize = mapped.sum();
        let calls = mapped + image.threads.len() * 3 + kernel.len() * 2 + FEW;
        let data = frames_length + (calls * size_of::<Call>() + READ + command_line.len()) as u64;
        let data = data.next_multiple_of(PAGE);
        let waiting: u64 = kernel.iter().map(|(own, _)| own.range.length()).sum();
        let code = (instructions().len() as u64).next_multiple_of(PAGE);

        let begin = draw(code + data + waiting, image, own)?;
        let after = |begin, length| Range {
            begin,
            end: begin + length,
        };
        let code = after(begin, code);
        let data = after(code.end, data);
        Ok(Self {
            code,
            data,
            waiting: after(data.end, waiting),
            frames: frames.iter().map(|offset| data.begin + offset).collect(),
            list: data.begin + frames_length,
        })
    }

    /// Maps it. What can be written is never executed.
    pub(crate) fn fill(&self, contents: &[u8]) -> Result<()> {
        let parts = [
            (self.code, instructions(), libc::PROT_EXEC),
            (self.data, contents, 0),
        ];
        for (range, bytes, protection) in parts {
            fill(range, bytes, protection | libc::PROT_READ)
                .map_err(Error::system("make room to begin the copy in"))?;
        }
        Ok(())
    }
}

/// A free address for as many bytes.
fn draw(length: u64, image: &Image, own: &[Line]) -> Result<u64> {
    let mappings = image.mappings.iter().map(|mapping| mapping.range);
    let kernel = image.kernel.iter().map(|mapping| mapping.range);
    let own = own.iter().map(|line| line.range);
    let stack = Range {
        begin: image.layout.start_stack.saturating_sub(STACK),
        end: image.layout.start_stack,
    };
    let taken: Vec<_> = mappings.chain(kernel).chain(own).chain([stack]).collect();
    for _ in 0..ATTEMPTS {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())
            .map_err(|error| Error::system("draw an address")(error))?;
        let begin = LOWEST + u64::from_ne_bytes(random) % (HIGHEST - LOWEST) / PAGE * PAGE;
        let room = Range {
            begin,
            end: begin + length,
        };
        if taken.iter().all(|taken| !taken.overlaps(room)) {
            return Ok(begin);
        }
    }
    Err(Error::NoRoom)
}

fn fill(range: Range, bytes: &[u8], protection: i32) -> io::Result<()> {
    let length = range.length() as usize;
    assert!(bytes.len() <= length, "the room was measured for it");
    let address = ptr::with_exposed_provenance_mut::<u8>(range.begin as usize);
    // SAFETY: nothing is mapped there (else this fails), the mapping has at least as many
    // bytes as are copied, and nobody else knows of it.
    unsafe {
        let mapped = libc::mmap(
            address.cast(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        );
        if mapped != address.cast() {
            return Err(io::Error::last_os_error());
        }
        ptr::copy_nonoverlapping(bytes.as_ptr(), address, bytes.len());
        match libc::mprotect(mapped, length, protection) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
