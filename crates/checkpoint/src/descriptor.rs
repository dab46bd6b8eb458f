//! Descriptors: what is written of one, and how a copy's is made.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;

use crate::image::{Descriptor, Kind};
use crate::{Error, Result};

/// What is behind a descriptor, as far as another can lead to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identity {
    /// Device, inode and what may be done with it.
    File(u64, u64, u32),
    /// Event counter, by the kernel's number for it.
    Event(u64),
}

/// Every descriptor of a process that was given those of these numbers.
pub(crate) fn of(process: u32, given: &[RawFd]) -> Result<Vec<Descriptor>> {
    let failed = || Error::system("read the descriptors of the process");
    let entries = fs::read_dir(format!("/proc/{process}/fd")).map_err(failed())?;
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed())?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    // Those that were given come first, for others to be the same as them.
    numbers.sort_by_key(|number| (!given.contains(number), *number));
    let mut known = HashMap::new();
    let mut descriptors = Vec::new();
    for number in numbers {
        let path = format!("/proc/{process}/fd/{number}");
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}"));
        let info = Info(info.map_err(failed())?);
        let link = fs::read_link(&path).map_err(failed())?;
        let link = link.to_string_lossy();
        let flags = info.number("flags:", 8).unwrap_or(0) as u32;
        let identity = match info.number("eventfd-id:", 10) {
            Some(counter) => Identity::Event(counter),
            None => {
                let file = fs::metadata(&path).map_err(failed())?;
                Identity::File(file.dev(), file.ino(), flags & OFlags::RWMODE.bits())
            }
        };
        let unnamed = link.starts_with("anon_inode:") && matches!(identity, Identity::File(..));
        let same = known.get(&identity).copied();
        let kind = match same {
            _ if given.contains(&number) => Some(Kind::Given { flags }),
            Some(other) if !unnamed => Some(Kind::Same(other)),
            _ => info.kind(),
        };
        let kind = kind.ok_or_else(|| Error::Unsupported(format!("a descriptor of {link}")))?;
        if !unnamed {
            known.entry(identity).or_insert(number);
        }
        descriptors.push(Descriptor { number, kind });
    }
    Ok(descriptors)
}

/// `/proc/PID/fdinfo/NUMBER` (proc_pid_fdinfo(5)).
struct Info(String);

impl Info {
    fn number(&self, name: &str, radix: u32) -> Option<u64> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(value.trim(), radix).ok()
    }

    /// What the kernel tells all about.
    fn kind(&self) -> Option<Kind> {
        let flags = self.number("flags:", 8)? as u32;
        // The count is in hexadecimal.
        let event = || {
            // Linux tells since 6.5.
            let semaphore = self
                .number("eventfd-semaphore:", 10)
                .is_some_and(|is| is != 0);
            Some(Kind::Event {
                count: self.number("eventfd-count:", 16)?,
                semaphore,
                flags,
            })
        };
        let signals = || {
            let mask = self.number("sigmask:", 16)?;
            Some(Kind::Signals { mask, flags })
        };
        event().or_else(signals)
    }
}

/// Opens in this process what is not given to it. To be called with those given in their
/// places, and nothing in those of the others.
pub(crate) fn open(descriptors: &[Descriptor]) -> Result<()> {
    for Descriptor { number, kind } in descriptors {
        match kind {
            Kind::Given { flags } => set_flags(*number, *flags),
            Kind::Same(other) => place(*other, *number),
            Kind::Event {
                count,
                semaphore,
                flags,
            } => event(*count, *semaphore, *flags).and_then(|made| put(made, *number)),
            Kind::Signals { mask, flags } => {
                signals(*mask, *flags).and_then(|made| put(made, *number))
            }
        }
        .map_err(Error::system("open a descriptor of the copy"))?;
    }
    Ok(())
}

/// Those of the flags that can be set later.
fn set_flags(number: RawFd, flags: u32) -> io::Result<()> {
    // SAFETY: no memory is touched, and a number without a descriptor is refused.
    match unsafe { libc::fcntl(number, libc::F_SETFL, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives a descriptor a number, which may be its own.
fn put(descriptor: OwnedFd, number: RawFd) -> io::Result<()> {
    if descriptor.as_raw_fd() == number {
        // It stays open.
        let _ = descriptor.into_raw_fd();
        return Ok(());
    }
    place(descriptor.as_raw_fd(), number)
}

/// Makes a number lead where another one does.
fn place(from: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: no memory is touched; nobody in this process knows a descriptor by the number.
    match unsafe { libc::dup2(from, number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn event(count: u64, semaphore: bool, flags: u32) -> io::Result<OwnedFd> {
    let mut wanted = EventfdFlags::CLOEXEC;
    if flags & OFlags::NONBLOCK.bits() != 0 {
        wanted |= EventfdFlags::NONBLOCK;
    }
    if semaphore {
        wanted |= EventfdFlags::SEMAPHORE;
    }
    let descriptor = rustix::event::eventfd(0, wanted)?;
    if count > 0 {
        rustix::io::write(&descriptor, &count.to_ne_bytes())?;
    }
    Ok(descriptor)
}

fn signals(mask: u64, flags: u32) -> io::Result<OwnedFd> {
    let wanted = libc::SFD_CLOEXEC | (flags as i32 & libc::SFD_NONBLOCK);
    // SAFETY: the kernel reads a mask of eight bytes.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            size_of_val(&mask),
            wanted,
        )
    };
    match RawFd::try_from(descriptor) {
        // SAFETY: a new descriptor, which nobody else knows.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_understood() {
        let kind = |text: &str| Info(text.to_owned()).kind();
        let event = "pos:\t0\nflags:\t02004002\neventfd-count:               1f\n\
                     eventfd-id: 3\neventfd-semaphore: 1\n";
        let Some(Kind::Event {
            count, semaphore, ..
        }) = kind(event)
        else {
            panic!("it is an event counter");
        };
        assert_eq!((count, semaphore), (0x1f, true));
        let signals = "flags:\t02\nsigmask:\t0000000010002040\n";
        assert_eq!(
            kind(signals),
            Some(Kind::Signals {
                mask: 0x1000_2040,
                flags: 2
            })
        );
        assert_eq!(kind("pos:\t0\nflags:\t0100002\n"), None);
    }

    #[test]
    fn a_counter_begins_with_what_it_had() {
        let counter = event(5, true, OFlags::NONBLOCK.bits()).expect("a counter");
        let mut count = [0; 8];
        rustix::io::read(&counter, &mut count).expect("read");
        assert_eq!(u64::from_ne_bytes(count), 1, "it is a semaphore");
        let empty = event(0, false, OFlags::NONBLOCK.bits()).expect("a counter");
        let nothing = rustix::io::read(&empty, &mut count);
        assert_eq!(nothing, Err(rustix::io::Errno::AGAIN));
        signals(1 << 9, 0).expect("signals");
    }
}
