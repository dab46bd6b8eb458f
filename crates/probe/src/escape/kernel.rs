//! The kernel itself: its parameters, its magic key and its modules.

use std::fs::{self, File};
use std::io::Write;

use rustix::io::Errno;

use crate::line;

/// Writes a parameter and reads it back.
pub fn parameter(path: &str, value: &str) {
    let what = format!("write {value:?} to {path}");
    line::attempt(&what);
    // Opened, not made: on a file system of our own it would prove nothing.
    let written = File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    if line::outcome(what, written).is_some() {
        match fs::read_to_string(path) {
            Ok(now) if now.trim_end() == value => {
                line::inside(format_args!("{path} reads {value:?} here"));
            }
            Ok(now) => line::refused("keep it", format_args!("it reads {:?}", now.trim_end())),
            Err(error) => line::refused("read it back", error),
        }
    }
}

/// Presses `h` on the magic key (Documentation/admin-guide/sysrq.rst): the kernel lists the keys
/// in its log, and does nothing else.
pub fn sysrq() {
    let what = "write h to /proc/sysrq-trigger";
    line::attempt(what);
    let pressed = File::options()
        .write(true)
        .open("/proc/sysrq-trigger")
        .and_then(|mut file| file.write_all(b"h"));
    line::outcome(what, pressed);
}

/// Offers the kernel a module that is none: whoever may load modules hears ENOEXEC, and the log
/// says why; nothing is ever loaded.
pub fn module() {
    let what = "load a module";
    line::attempt(what);
    match rustix::system::init_module(&[0; 256], c"") {
        Ok(()) => line::done(what),
        Err(Errno::NOEXEC) => line::done("the kernel took the bytes and found no module in them"),
        Err(error) => line::refused(what, error),
    }
}
