//! The system calls of the socket device.

/// Beside those of every device: connections, control socket and timer.
pub const ALLOWED: &[libc::c_long] = &[
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];
