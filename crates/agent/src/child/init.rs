//! `--init`: a first process that reaps what its container leaves behind and passes
//! on signals, with the program as its child.

use std::convert::Infallible;
use std::io;

use crate::error::{Error, Result};

/// Splits the process: the child returns, to become the program; the parent stays
/// as init and ends with the child's exit code.
pub(super) fn fork_under_init(terminal: bool) -> Result<()> {
    // What the program must not read or trace: this is still the agent's memory.
    // SAFETY: PR_SET_DUMPABLE takes a number.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } < 0 {
        return Err(Error::system("protect init")(io::Error::last_os_error()));
    }
    // A first process loses what it neither blocks nor handles, and the program may be told to
    // end as soon as it runs.
    let (all, before) = block_signals();
    // SAFETY: the process has one thread, and both sides go on with a whole copy.
    match unsafe { libc::fork() } {
        -1 => Err(Error::system("start the program under init")(
            io::Error::last_os_error(),
        )),
        0 => {
            own_group(terminal);
            // SAFETY: the set outlives the call.
            unsafe {
                libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut())
            };
            Ok(())
        }
        child => {
            let Err(error) = serve(child, &all);
            eprintln!("init: {error}");
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(255) }
        }
    }
}

/// The program leads its own process group, in the foreground of the terminal, so
/// that keys send their signals to it and not to init as well.
fn own_group(terminal: bool) {
    // SAFETY: numbers only; `signal` sets a disposition that `execve` keeps harmless.
    unsafe {
        libc::setpgid(0, 0);
        if terminal {
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetpgrp(0, libc::getpid());
            libc::signal(libc::SIGTTOU, libc::SIG_DFL);
        }
    }
}

/// Blocks every signal. Returns all of them, and those that were blocked before.
fn block_signals() -> (libc::sigset_t, libc::sigset_t) {
    // SAFETY: a signal set is plain data, filled before it is used.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: the sets outlive both calls.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
    }
    (all, before)
}

/// Reaps, and passes signals on, which are all blocked.
fn serve(program: libc::pid_t, all: &libc::sigset_t) -> Result<Infallible> {
    // Its streams and its reports are the program's.
    // SAFETY: nothing of this process uses a descriptor from here on.
    unsafe {
        libc::close_range(0, libc::c_uint::MAX, 0);
    }
    let failed = || Error::system("wait for signals");
    loop {
        if let Some(code) = reap(program) {
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(code) }
        }
        // SAFETY: waits for one of the set; nothing is written.
        let signal = unsafe { libc::sigwaitinfo(all, std::ptr::null_mut()) };
        match signal {
            libc::SIGCHLD => {}
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(failed()(error));
                }
            }
            // SAFETY: the program has not been waited for, so the number is its own.
            signal => unsafe {
                libc::kill(program, signal);
            },
        }
    }
}

/// Waits for whoever has ended. The program's exit code if it was among them.
fn reap(program: libc::pid_t) -> Option<i32> {
    let mut ended = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            pid if pid == program => {
                ended = Some(if libc::WIFSIGNALED(status) {
                    128 + libc::WTERMSIG(status)
                } else {
                    libc::WEXITSTATUS(status)
                });
            }
            0 | -1 => return ended,
            _ => {}
        }
    }
}
