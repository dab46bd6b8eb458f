//! Writing a process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::image::{Action, Image, KernelMapping, MappedFile, Mapping, SIGNALS, Source, Thread};
use crate::maps::{self, Line};
use crate::pages::{Memory, Pages};
use crate::tracee::Tracee;
use crate::{Error, Result, descriptor, thread};

/// How long threads may take until all of them wait, and how often that is looked at.
const DEADLINE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// `PR_GET_TID_ADDRESS` (prctl(2)).
const GET_NUMBER_ADDRESS: u64 = 40;

/// Writes a process. It goes on when this returns. Its pages are written to the empty file
/// `pages`. Of the descriptors `given`, by number, a copy is given its own.
///
/// It is written when its first thread waits for events, and every other one for something:
/// whoever holds a lock has noted a thread's number there, and a copy's threads have others.
///
/// # Errors
/// [`Error::Unsupported`] if a copy could not have all that it has.
pub fn freeze(process: u32, given: &[RawFd], pages: &File) -> Result<Image> {
    let held = hold_waiting(process)?;
    let first = held
        .first()
        .ok_or_else(|| Error::Unsupported("no thread at all".to_owned()))?;
    let memory = Memory::of(process)?;
    check(process, first, &memory)?;
    let filters = first.filters()?;
    let mut pages = Pages::new(pages);
    let mut threads = Vec::new();
    for tracee in &held {
        let path = format!("{process}/task/{}", tracee.0);
        // All of a copy's threads have those of its first.
        if status(&path, "Seccomp_filters", 10)? != filters.len() as u64 {
            return Err(Error::Unsupported(
                "threads with filters of their own".to_owned(),
            ));
        }
        if status(&path, "SigPnd", 16)? != 0 {
            return Err(Error::Unsupported("signals that wait".to_owned()));
        }
        threads.push(write_thread(tracee, &memory, &mut pages)?);
    }
    let actions = actions(process, first, &memory)?;
    // System calls of its were for asking it; its memory is read after that.
    let lines = maps::with_flags(process)?;
    let mut files = Vec::new();
    let mut mappings = Vec::new();
    let shared = shared(process, given)?;
    let ordinary = |line: &&Line| !line.is_kernels() && !line.is_fixed();
    for line in lines.iter().filter(ordinary) {
        mappings.push(write_mapping(
            line, &shared, &memory, &mut pages, &mut files,
        )?);
    }
    let name = fs::read_to_string(format!("/proc/{process}/comm"))
        .map_err(Error::system("read the process's name"))?;
    Ok(Image {
        name: name.trim_end().to_owned(),
        host: Host::this(),
        layout: maps::layout(process, &lines)?,
        files,
        mappings,
        kernel: kernel(&lines),
        threads,
        actions,
        descriptors: descriptor::of(process, given)?,
        filters,
    })
}

/// What the kernel has mapped.
pub(crate) fn kernel(lines: &[Line]) -> Vec<KernelMapping> {
    let all = lines.iter().filter(|line| line.is_kernels());
    all.map(|line| KernelMapping {
        name: line.name.clone(),
        range: line.range,
    })
    .collect()
}

/// Holds every thread still where it waits.
fn hold_waiting(process: u32) -> Result<Vec<Tracee>> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let held = hold(process)?;
        let mut waiting = true;
        for (index, tracee) in held.iter().enumerate() {
            waiting &= match index {
                0 => tracee.waits_for_events()?,
                _ => tracee.waits()?,
            };
        }
        if waiting {
            return Ok(held);
        }
        drop(held);
        if Instant::now() > deadline {
            let what = "threads that do not wait for anything";
            return Err(Error::Unsupported(what.to_owned()));
        }
        // It is not told to wait: it does so when it has nothing to do.
        std::thread::sleep(PAUSE);
    }
}

/// Holds every thread still, the first one first.
fn hold(process: u32) -> Result<Vec<Tracee>> {
    let threads = || -> io::Result<Vec<libc::pid_t>> {
        let entries = fs::read_dir(format!("/proc/{process}/task"))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
        }
        numbers.sort_by_key(|number| (*number != process as i32, *number));
        Ok(numbers)
    };
    let mut held: Vec<Tracee> = Vec::new();
    loop {
        let listed = threads().map_err(Error::system("list the threads of the process"))?;
        let is_held = |number: &i32| held.iter().any(|held| held.0 == *number);
        let new: Vec<_> = listed.into_iter().filter(|new| !is_held(new)).collect();
        if new.is_empty() {
            return Ok(held);
        }
        for number in new {
            held.extend(Tracee::hold(number)?);
        }
    }
}

/// Whether it has what no copy could have, and nothing else tells of.
fn check(process: u32, first: &Tracee, memory: &Memory) -> Result<()> {
    let unsupported = |what: &str| Err(Error::Unsupported(what.to_owned()));
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{process}/{name}"))
            .map_err(Error::system("read the process's state"))
    };
    if !read("timers")?.is_empty() {
        return unsupported("timers");
    }
    if !read(&format!("task/{process}/children"))?.is_empty() {
        return unsupported("children");
    }
    if status(&process.to_string(), "ShdPnd", 16)? != 0 {
        return unsupported("signals that wait");
    }
    if first.has_restartable_sequences()? {
        return unsupported("restartable sequences");
    }
    for kind in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        let timer: [u64; 4] = first.call(&memory.bytes, libc::SYS_getitimer, |to| {
            [kind as u64, to, 0, 0]
        })?;
        if timer != [0; 4] {
            return unsupported("timers");
        }
    }
    Ok(())
}

/// A number of `/proc/PID/status`, or of a thread's.
fn status(process: &str, name: &str, radix: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))
        .map_err(Error::system("read the process's state"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| u64::from_str_radix(line.trim_start_matches(':').trim(), radix).ok())
        .ok_or_else(|| Error::Unsupported(format!("a state without {name}")))
}

fn write_thread(tracee: &Tracee, memory: &Memory, pages: &mut Pages<'_>) -> Result<Thread> {
    let registers = tracee.registers()?;
    let stack = tracee.call(&memory.bytes, libc::SYS_sigaltstack, |to| [0, to, 0, 0])?;
    let blocked = tracee.blocked_signals()?;
    let frame = thread::frame(&registers, &tracee.extended()?, stack, blocked)?;
    let [number_at] = tracee.call(&memory.bytes, libc::SYS_prctl, |to| {
        [GET_NUMBER_ADDRESS, to, 0, 0]
    })?;
    let mut number = [0; 4];
    let read = memory.bytes.read_exact_at(&mut number, number_at);
    read.map_err(Error::system("read the memory of the process"))?;
    // Where glibc keeps it; another library may have something else there.
    if i32::from_ne_bytes(number) != tracee.0 {
        let what = "a thread that keeps its number elsewhere";
        return Err(Error::Unsupported(what.to_owned()));
    }
    Ok(Thread {
        number_at,
        robust: tracee.robust_list()?,
        local: registers.fs_base,
        frame: pages
            .append(&frame)
            .map_err(Error::system("write the registers of a thread"))?,
    })
}

fn actions(process: u32, first: &Tracee, memory: &Memory) -> Result<Vec<Action>> {
    let process = process.to_string();
    let set = status(&process, "SigCgt", 16)? | status(&process, "SigIgn", 16)?;
    let mut actions = Vec::new();
    for signal in SIGNALS.filter(|signal| set & 1 << (signal - 1) != 0) {
        let [handler, flags, restorer, mask] =
            first.call(&memory.bytes, libc::SYS_rt_sigaction, |to| {
                [signal as u64, 0, to, size_of::<u64>() as u64]
            })?;
        actions.push(Action {
            signal,
            handler,
            flags,
            restorer,
            mask,
        });
    }
    Ok(actions)
}

/// Files that it was given, by their names and inodes.
type Shared = HashMap<(String, u64), RawFd>;

fn shared(process: u32, given: &[RawFd]) -> Result<Shared> {
    let mut shared = Shared::new();
    for &number in given {
        let path = format!("/proc/{process}/fd/{number}");
        match fs::read_link(&path).and_then(|link| Ok((link, fs::metadata(&path)?.ino()))) {
            Ok((link, inode)) => {
                let name = link.to_string_lossy().into_owned();
                shared.entry((name, inode)).or_insert(number);
            }
            // It has closed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::system("look at what the process was given")(error)),
        }
    }
    Ok(shared)
}

fn write_mapping(
    line: &Line,
    shared: &Shared,
    memory: &Memory,
    pages: &mut Pages<'_>,
    files: &mut Vec<MappedFile>,
) -> Result<Mapping> {
    let source = match (line.path(), shared.get(&(line.name.clone(), line.inode))) {
        _ if line.inode == 0 => Source::Zeros,
        (_, Some(&descriptor)) => Source::Given {
            descriptor,
            offset: line.offset,
            shared: line.shared,
        },
        (Some(path), None) => Source::File {
            number: number(&path, files)?,
            offset: line.offset,
        },
        (None, None) => {
            return Err(Error::Unsupported(format!("a mapping of {}", line.name)));
        }
    };
    let given = matches!(source, Source::Given { .. });
    if line.shared && !given {
        return Err(Error::Unsupported(format!("shared memory {}", line.name)));
    }
    let runs = match line.shared || line.is_wiped {
        true => Vec::new(),
        false => {
            let written = memory.written(line.range);
            let written = written.map_err(Error::system("find the pages of the process"))?;
            let runs = written.into_iter().map(|range| pages.copy(memory, range));
            let runs = runs.collect::<io::Result<_>>();
            runs.map_err(Error::system("write the pages of the process"))?
        }
    };
    Ok(Mapping {
        range: line.range,
        protection: line.protection,
        source,
        runs,
    })
}

fn number(path: &Path, files: &mut Vec<MappedFile>) -> Result<usize> {
    if let Some(number) = files.iter().position(|file| file.path == path) {
        return Ok(number);
    }
    let file = MappedFile::of(path).map_err(|source| Error::Mapped {
        path: path.to_owned(),
        source,
    })?;
    files.push(file);
    Ok(files.len() - 1)
}

impl MappedFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::new(path, &fs::metadata(path)?))
    }

    /// What tells the file.
    pub(crate) fn new(path: &Path, metadata: &fs::Metadata) -> Self {
        Self {
            path: path.to_owned(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
