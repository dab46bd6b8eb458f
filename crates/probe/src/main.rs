//! What `caisson compare` runs in each container: one static program without any needs, so that
//! every image can hold it and every runtime runs the very same code.
//!
//! It says what it does line by line ([`mod@line`]), and what it says is never taken for the result:
//! the comparison looks at the victims from outside.

mod escape;
mod frame;
mod line;
mod work;

use std::process::ExitCode;

const USAGE: &str = "\
usage: caisson-probe escape ATTACK [ARGUMENT...]
       caisson-probe work FOLDER VOLUME MILLISECONDS
       caisson-probe canary TOKEN [ignored]
       caisson-probe send INTERFACE TIMES    (frames as lines of hexadecimal digits)
       caisson-probe listen INTERFACE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        // The kernel gives a release agent one argument: the path of a cgroup.
        [program, cgroup] if cgroup.starts_with('/') => escape::cgroup::released(program, cgroup),
        [_, "escape", attack, rest @ ..] => escape::run(attack, rest),
        [_, "work", folder, volume, milliseconds] => work::run(folder, volume, milliseconds),
        [_, "send", interface, times] => frame::send(interface, times),
        [_, "listen", interface] => frame::listen(interface),
        [_, "canary", ..] => escape::signal::canary(),
        _ => false,
    };
    if done {
        ExitCode::SUCCESS
    } else {
        eprintln!("{USAGE}");
        ExitCode::FAILURE
    }
}
