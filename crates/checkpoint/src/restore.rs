//! Becoming a copy.

use std::arch::asm;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{OwnedFd, RawFd};

use crate::host::Host;
use crate::image::{Image, KernelMapping, Kind, MappedFile};
use crate::list::Plan;
use crate::maps::{self, Line};
use crate::room::Room;
use crate::{Error, Result, TUNABLES, descriptor, freeze};

/// A process that is about to become a copy.
#[derive(Debug)]
pub struct Copy {
    image: Image,
    pages: File,
    /// What this process has mapped.
    own: Vec<Line>,
}

impl Copy {
    /// Looks at this process, for which `/proc` must be there.
    ///
    /// # Errors
    /// When this process is none that can become a copy.
    pub fn prepare(image: Image, pages: File) -> Result<Self> {
        if std::env::var_os("GLIBC_TUNABLES").is_none_or(|set| set != TUNABLES) {
            let what = "restartable sequences, which this process may have registered";
            return Err(Error::Unsupported(what.to_owned()));
        }
        if Host::this() != image.host {
            return Err(Error::OtherHost);
        }
        let own = maps::of(std::process::id())?;
        Ok(Self { image, pages, own })
    }

    /// Turns this process, which has one thread, into the copy. It is given, under their
    /// numbers, the descriptors that the image says are given; what is open under another is
    /// closed. Memory that was a file's which the process was given is mapped privately if
    /// `private` says so, else what is written goes to the file.
    ///
    /// As its arguments, the copy shows these.
    ///
    /// It keeps who it is: its number, user, capabilities, namespaces, limits.
    ///
    /// # Errors
    /// What cannot be opened or made. If it fails later than that, the process ends with
    /// status 119.
    pub fn begin(self, private: bool, arguments: &[OsString]) -> Result<Infallible> {
        let Self { image, pages, own } = self;
        let free = image.first_free();
        let pages = File::from(move_away(pages.into(), free)?);
        let files = open(&image.files, free)?;
        close_others(&image);
        descriptor::open(&image.descriptors)?;
        let kernel = kernel_mappings(&image, freeze::kernel(&own))?;
        let mut command_line = Vec::new();
        for argument in arguments {
            command_line.extend(argument.as_encoded_bytes());
            command_line.push(0);
        }
        let room = Room::find(&image, &kernel, &own, &command_line)?;
        let plan = Plan {
            image: &image,
            pages: &pages,
            files: &files,
            private,
            kernel: &kernel,
            room: &room,
            command_line: &command_line,
        };
        let contents = plan.contents()?;
        rename(&image.name)?;
        rustix::thread::set_current_timer_slack(NonZeroU64::new(image.timer_slack))
            .map_err(Error::system("set the process's timer slack"))?;
        room.fill(&contents)?;
        for filter in &image.filters {
            install(filter)?;
        }
        block_signals()?;
        // SAFETY: the room has the instructions, which may be executed, and a list of calls
        // that ends in one that never returns. Nothing of this process is used after that.
        unsafe { jump(room.code.begin, room.list, room.frames[0]) }
    }
}

/// Moves a descriptor to where no copy has one: to this number, or beyond.
fn move_away(descriptor: OwnedFd, free: RawFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(&descriptor, free).map_err(Error::system("move a descriptor"))
}

fn open(files: &[MappedFile], free: RawFd) -> Result<Vec<OwnedFd>> {
    let open = |file: &MappedFile| {
        let failed = |source| Error::Mapped {
            path: file.path.clone(),
            source,
        };
        let opened = File::open(&file.path).map_err(failed)?;
        let metadata = opened.metadata().map_err(failed)?;
        if MappedFile::new(&file.path, &metadata) != *file {
            return Err(Error::Changed(file.path.clone()));
        }
        move_away(opened.into(), free)
    };
    files.iter().map(open).collect()
}

/// Closes what no copy has. Those of this process's own are out of the way.
fn close_others(image: &Image) {
    let kept = |number: &RawFd| {
        let mut all = image.descriptors.iter();
        all.any(|descriptor| {
            descriptor.number == *number && matches!(descriptor.kind, Kind::Given { .. })
        })
    };
    for number in (0..image.first_free()).filter(|number| !kept(number)) {
        // SAFETY: whoever had it in this process is not going to use it.
        unsafe { libc::close(number) };
    }
}

/// What the kernel has mapped here, and where the copy has it.
fn kernel_mappings(
    image: &Image,
    own: Vec<KernelMapping>,
) -> Result<Vec<(KernelMapping, KernelMapping)>> {
    let fits = |(own, wanted): &(KernelMapping, KernelMapping)| {
        own.name == wanted.name && own.range.length() == wanted.range.length()
    };
    let pairs: Vec<_> = own.into_iter().zip(image.kernel.clone()).collect();
    match pairs.len() == image.kernel.len() && pairs.iter().all(fits) {
        true => Ok(pairs),
        false => Err(Error::Unsupported("the clocks of this kernel".to_owned())),
    }
}

fn rename(name: &str) -> Result<()> {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    rustix::thread::set_name(&name).map_err(Error::system("set the process's name"))
}

/// Installs a system call filter, which the copy's threads inherit.
fn install(filter: &[u64]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len())
            .map_err(|_| Error::Unsupported("a filter as long".to_owned()))?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel reads as many instructions, of eight bytes each, as it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Error::system("install a system call filter")(
            io::Error::last_os_error(),
        )),
    }
}

/// Has no handler called before the copy's stacks are there. It has masks of its own.
fn block_signals() -> Result<()> {
    let all = u64::MAX;
    // SAFETY: the kernel reads a mask of eight bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            &raw const all,
            0,
            size_of_val(&all),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Error::system("block signals")(io::Error::last_os_error())),
    }
}

/// Leaves this process for the list.
///
/// # Safety
/// `code` is that of the instructions, `list` that of calls, the last of which does not
/// return, and `stack` what that one takes for the stack.
unsafe fn jump(code: u64, list: u64, stack: u64) -> ! {
    // SAFETY: as the caller says; nothing is returned to.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "jmp {code}",
            code = in(reg) code,
            stack = in(reg) stack,
            in("r12") list,
            options(noreturn)
        )
    }
}
