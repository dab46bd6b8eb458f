//! Writing a process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::image::{
    Action, Image, KernelMapping, MappedFile, Mapping, Range, Run, SIGNALS, Source, Thread,
};
use crate::maps::{self, Line};
use crate::pages::{Memory, Pages};
use crate::state::{self, status};
use crate::tracee::Tracee;
use crate::{Error, Result, descriptor, thread};

/// How long threads may take until all of them wait, and how often that is looked at.
const DEADLINE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// `PR_GET_TID_ADDRESS` (prctl(2)).
const GET_NUMBER_ADDRESS: u64 = 40;

/// What a process has that is not written with it.
#[derive(Debug, Default)]
pub struct Given<'a> {
    /// Descriptors of which a copy is given its own, by number.
    pub descriptors: &'a [RawFd],
    /// The one of them whose file is written by somebody else, with what the process has
    /// written to private mappings of it.
    pub memory: Option<RawFd>,
    /// The file of pages of which the process itself is a copy. The process may have it
    /// mapped; its own copies have nothing of that file.
    pub origin: Option<&'a File>,
}

/// Writes a process. It goes on when this returns. Its pages are written to the empty file
/// `pages`.
///
/// It is written when its first thread waits for events, and every other one for something:
/// whoever holds a lock has noted a thread's number there, and a copy's threads have others.
///
/// # Errors
/// [`Error::Unsupported`] if a copy could not have all that it has.
pub fn freeze(process: u32, given: &Given<'_>, pages: &File) -> Result<Image> {
    let held = hold_waiting(process)?;
    let first = held
        .first()
        .ok_or_else(|| Error::Unsupported("no thread at all".to_owned()))?;
    let memory = Memory::of(process)?;
    check(process, first, &memory)?;
    let filters = first.filters()?;
    let descriptors = descriptor::of(process, given.descriptors)?;
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
        if !state::read(&format!("{path}/children"))?.is_empty() {
            return Err(Error::Unsupported("children".to_owned()));
        }
        threads.push(write_thread(tracee, &memory, &mut pages)?);
    }
    let actions = actions(process, first, &memory)?;
    let end_of_heap = first.end_of_heap()?;
    // System calls of its were for asking it; its memory is read after that.
    let lines = maps::with_flags(process)?;
    let mut writer = Writer {
        shared: shared(process, given)?,
        origin: given.origin.map(Name::of).transpose()?,
        memory: &memory,
        pages,
        files: Vec::new(),
    };
    let ordinary = |line: &&Line| !line.is_kernels() && !line.is_fixed();
    let mappings = lines.iter().filter(ordinary);
    let mappings = mappings
        .map(|line| writer.write(line))
        .collect::<Result<_>>()?;
    let name = state::read(&format!("{process}/comm"))?;
    let slack = state::read(&format!("{process}/timerslack_ns"))?;
    Ok(Image {
        name: name.trim_end().to_owned(),
        timer_slack: slack.trim_end().parse().unwrap_or(0),
        host: Host::this(),
        layout: maps::layout(process, end_of_heap)?,
        files: writer.files,
        mappings,
        kernel: kernel(&lines),
        threads,
        actions,
        descriptors,
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
            held.extend(Tracee::hold(process, number)?);
        }
    }
}

/// Whether it has what no copy could have, and nothing else tells of.
fn check(process: u32, first: &Tracee, memory: &Memory) -> Result<()> {
    let unsupported = |what: &str| Err(Error::Unsupported(what.to_owned()));
    if !state::read(&format!("{process}/timers"))?.is_empty() {
        return unsupported("timers");
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

/// A file that is mapped, by its name and inode.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Name(String, u64);

impl Name {
    /// That of an open file of this process.
    fn of(file: &File) -> Result<Self> {
        Self::at(&format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(Error::system(
            "look at the pages that the process began with",
        ))
    }

    fn at(path: &str) -> io::Result<Self> {
        let name = fs::read_link(path)?.to_string_lossy().into_owned();
        Ok(Self(name, fs::metadata(path)?.ino()))
    }
}

/// A file that it was given.
#[derive(Debug, Clone, Copy)]
struct Shared {
    number: RawFd,
    /// See [`Given::memory`].
    is_memory: bool,
}

fn shared(process: u32, given: &Given<'_>) -> Result<HashMap<Name, Shared>> {
    let mut shared = HashMap::new();
    for &number in given.descriptors {
        match Name::at(&format!("/proc/{process}/fd/{number}")) {
            Ok(name) => {
                let is_memory = given.memory == Some(number);
                let found = Shared { number, is_memory };
                let known = shared.entry(name).or_insert(found);
                known.is_memory |= is_memory;
            }
            // It has closed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::system("look at what the process was given")(error)),
        }
    }
    Ok(shared)
}

/// What it takes to write mappings.
struct Writer<'a> {
    shared: HashMap<Name, Shared>,
    /// See [`Given::origin`].
    origin: Option<Name>,
    memory: &'a Memory,
    pages: Pages<'a>,
    files: Vec<MappedFile>,
}

impl Writer<'_> {
    fn write(&mut self, line: &Line) -> Result<Mapping> {
        let name = Name(line.name.clone(), line.inode);
        let is_origin = self.origin.as_ref() == Some(&name);
        let shared = self.shared.get(&name).copied();
        let source = match (line.path(), shared) {
            _ if line.inode == 0 || is_origin => Source::Zeros,
            (_, Some(given)) => Source::Given {
                descriptor: given.number,
                offset: line.offset,
                shared: line.shared,
            },
            (Some(path), None) => Source::File {
                number: number(&path, &mut self.files)?,
                offset: line.offset,
            },
            (None, None) => {
                return Err(Error::Unsupported(format!("a mapping of {}", line.name)));
            }
        };
        if line.shared && !matches!(source, Source::Given { .. }) {
            return Err(Error::Unsupported(format!("shared memory {}", line.name)));
        }
        let is_elsewhere = line.shared || shared.is_some_and(|given| given.is_memory);
        let runs = match is_elsewhere || line.is_wiped {
            true => Vec::new(),
            false => self.pages(line.range, is_origin)?,
        };
        Ok(Mapping {
            range: line.range,
            protection: line.protection,
            source,
            runs,
            is_wiped: line.is_wiped,
        })
    }

    /// Writes the pages of a range: all of them, or those that are its own.
    fn pages(&mut self, range: Range, all: bool) -> Result<Vec<Run>> {
        let written = match all {
            true => vec![range],
            false => self
                .memory
                .written(range)
                .map_err(Error::system("find the pages of the process"))?,
        };
        let runs = written.into_iter();
        runs.map(|range| self.pages.copy(self.memory, range))
            .collect::<io::Result<_>>()
            .map_err(Error::system("write the pages of the process"))
    }
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
