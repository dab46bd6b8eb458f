//! The process that is written: it does what lines tell it, by a thread of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Descriptors that it is given.
pub const SOCKET: RawFd = 3;
pub const MEMORY: RawFd = 4;

/// By how much its timers may be late, in nanoseconds.
pub const SLACK: libc::c_ulong = 7;

/// A system call that its filter answers with `EACCES`.
const FORBIDDEN: libc::c_long = libc::SYS_getpgid;

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// Answers until its socket is closed.
pub fn run() {
    forbid();
    // SAFETY: the handler touches an atomic number alone.
    unsafe { libc::signal(libc::SIGUSR1, count as *const () as libc::sighandler_t) };
    // SAFETY: no memory is touched.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK) };
    // SAFETY: the descriptors were passed to this process, which uses each here alone.
    let (socket, memory) = unsafe { (UnixStream::from_raw_fd(SOCKET), File::from_raw_fd(MEMORY)) };
    let (ask, questions) = channel();
    let (reply, answers) = channel();
    std::thread::spawn(move || work(&memory, &questions, &reply));
    let mut lines = BufReader::new(socket);
    let mut line = String::new();
    while wait() && lines.read_line(&mut line).expect("read") > 0 {
        ask.send(line.trim_end().to_owned()).expect("it works");
        let answer = answers.recv().expect("it works");
        writeln!(lines.get_mut(), "{answer}").expect("written");
        line.clear();
    }
}

/// Waits for a line, as event loops do.
fn wait() -> bool {
    let mut socket = libc::pollfd {
        fd: SOCKET,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure is read and written.
    unsafe { libc::poll(&mut socket, 1, -1) == 1 }
}

fn work(memory: &File, questions: &Receiver<String>, reply: &Sender<String>) {
    let mut total = 0;
    let fraction = std::hint::black_box(0.1_f64);
    // SAFETY: a new counter, which this thread keeps.
    let events = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
    let shared = map(memory);
    let lock = recursive_lock();
    let wiped = wiped_in_children();
    while let Ok(question) = questions.recv() {
        let (word, argument) = question.split_once(' ').unwrap_or((&question, "0"));
        let argument: u64 = argument.parse().expect("a number");
        let answer = match word {
            "add" => {
                total += argument;
                total.to_string()
            }
            "signal" => {
                // SAFETY: the handler above is called.
                unsafe { libc::raise(libc::SIGUSR1) };
                SIGNALS.load(Ordering::SeqCst).to_string()
            }
            "events" => count_events(events, argument).to_string(),
            "number" => std::process::id().to_string(),
            "lock" => lock_twice(lock),
            "float" => fraction.to_string(),
            "memory" => {
                // SAFETY: the mapping lasts as long as the process; nobody else writes.
                unsafe {
                    shared.write_volatile(argument as u8);
                    shared.read_volatile().to_string()
                }
            }
            "peek" => {
                // SAFETY: as above.
                unsafe { shared.read_volatile().to_string() }
            }
            "wipe" => {
                // SAFETY: as above.
                unsafe { wiped.cast_mut().write_volatile(1) };
                "ok".to_owned()
            }
            "forbidden" => {
                // SAFETY: no memory is touched.
                unsafe { libc::syscall(FORBIDDEN, 0) };
                let error = std::io::Error::last_os_error();
                error.raw_os_error().unwrap_or(0).to_string()
            }
            "pipe" => {
                std::mem::forget(std::io::pipe().expect("a pipe"));
                "ok".to_owned()
            }
            "wiped" => {
                // SAFETY: as above.
                unsafe { wiped.read_volatile().to_string() }
            }
            "stack" => signal_stack().to_string(),
            "heap" => grow_heap(),
            "busy" => {
                let begin = Instant::now();
                let busy = Duration::from_millis(argument);
                std::thread::spawn(move || while begin.elapsed() < busy {});
                "ok".to_owned()
            }
            "timer" => {
                let mut timer = std::ptr::null_mut();
                // SAFETY: the number of the timer is written to our variable.
                let made = unsafe {
                    libc::timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &mut timer)
                };
                assert_eq!(made, 0);
                "ok".to_owned()
            }
            other => panic!("{other}?"),
        };
        reply.send(answer).expect("somebody asked");
    }
}

fn map(memory: &File) -> *mut u8 {
    let file = std::os::fd::AsRawFd::as_raw_fd(memory);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file,
            0,
        )
    };
    assert_ne!(mapped, libc::MAP_FAILED);
    mapped.cast()
}

/// A byte that is not 0, but in a child.
fn wiped_in_children() -> *const u8 {
    const LENGTH: usize = 4096;
    // SAFETY: a new mapping at an address of the kernel's choice, which is written before
    // anybody else knows of it.
    unsafe {
        let mapped = libc::mmap(
            std::ptr::null_mut(),
            LENGTH,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(mapped, libc::MAP_FAILED);
        assert_eq!(libc::madvise(mapped, LENGTH, libc::MADV_WIPEONFORK), 0);
        mapped.cast::<u8>().write(1);
        mapped.cast()
    }
}

/// Moves the end of the heap, as an allocator does.
fn grow_heap() -> String {
    const MORE: usize = 1 << 20;
    // SAFETY: memory is added alone, and what is written is in it.
    unsafe {
        let end = libc::sbrk(MORE as libc::intptr_t);
        if end.addr() == usize::MAX {
            return std::io::Error::last_os_error().to_string();
        }
        let bytes = std::slice::from_raw_parts_mut(end.cast::<u8>(), MORE);
        if bytes.iter().any(|byte| *byte != 0) {
            return "what was added was somebody's".to_owned();
        }
        bytes.fill(1);
    }
    "ok".to_owned()
}

/// Where the stack for this thread's signals is, which Rust's threads have.
fn signal_stack() -> usize {
    let mut stack = std::mem::MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: the kernel writes the structure, whose pointer is only looked at.
    let stack = unsafe {
        assert_eq!(libc::sigaltstack(std::ptr::null(), stack.as_mut_ptr()), 0);
        stack.assume_init()
    };
    assert_eq!(stack.ss_flags & libc::SS_DISABLE, 0);
    stack.ss_sp.addr()
}

/// Adds to an event counter, and returns what is in it, which stays there.
fn count_events(events: RawFd, more: u64) -> u64 {
    let mut count = [0_u8; 8];
    // SAFETY: eight bytes each, from and to variables of ours.
    unsafe {
        libc::write(events, more.to_ne_bytes().as_ptr().cast(), 8);
        libc::read(events, count.as_mut_ptr().cast(), 8);
        libc::write(events, count.as_ptr().cast(), 8);
    }
    u64::from_ne_bytes(count)
}

/// A lock that knows by number which thread has it.
fn recursive_lock() -> *mut libc::pthread_mutex_t {
    let lock: &mut libc::pthread_mutex_t = Box::leak(Box::new(libc::PTHREAD_MUTEX_INITIALIZER));
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: the attributes are made before they are used, and the lock is never moved.
    unsafe {
        libc::pthread_mutexattr_init(attributes.as_mut_ptr());
        libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_RECURSIVE);
        libc::pthread_mutex_init(lock, attributes.as_ptr());
    }
    lock
}

/// Locks it twice, and has another thread see that it is locked.
fn lock_twice(lock: *mut libc::pthread_mutex_t) -> String {
    let address = lock.expose_provenance();
    // SAFETY: the lock was made above, and lasts as long as the process.
    let locked =
        unsafe { libc::pthread_mutex_lock(lock) == 0 && libc::pthread_mutex_lock(lock) == 0 };
    let other = std::thread::spawn(move || {
        let lock = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: as above.
        unsafe { libc::pthread_mutex_trylock(lock) }
    });
    let busy = other.join().expect("it ended") == libc::EBUSY;
    // SAFETY: as above.
    let unlocked =
        unsafe { libc::pthread_mutex_unlock(lock) == 0 && libc::pthread_mutex_unlock(lock) == 0 };
    match locked && busy && unlocked {
        true => "ok".to_owned(),
        false => format!("{locked} {busy} {unlocked}"),
    }
}

/// Installs a filter of system calls.
fn forbid() {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERROR: u32 = 0x0005_0000;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        instruction(LOAD, 0, 0, 0),
        instruction(EQUAL, 0, 1, FORBIDDEN as u32),
        instruction(RETURN, 0, 0, ERROR | libc::EACCES as u32),
        instruction(RETURN, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads the filter, whose length it is told.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let installed = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &program,
        );
        assert_eq!(installed, 0);
    }
}
