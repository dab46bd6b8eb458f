//! The system calls of the socket device.

/// Beside those of every device: connections.
pub const ALLOWED: &[libc::c_long] = &[
    // Its state's file is the only one that it has.
    libc::SYS_ftruncate,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// Another process's memory.
pub const FOREIGN_MEMORY: &[libc::c_long] = &[libc::SYS_pread64, libc::SYS_pwrite64];
