//! Waiting to be forked.
//!
//! A template is a machine without devices, frozen while its agent waits in
//! [`wait`]. Whatever runs in it before is in the memory of every fork: nothing
//! here may draw random bytes, read `boot_id` or open a TCP connection, for the
//! kernel makes their secrets at first use and would make them for all forks alike.

use std::fs::{self, File};
use std::io::{Read, Write};

use caisson_protocol::{TEMPLATE_PARAMETER, TEMPLATE_READY, WAKE_UP_LIMIT};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::error::{Error, Result};
use crate::network;

const CONSOLE: &str = "/dev/ttyS0";

/// Whether this machine is to be frozen.
pub fn is_wanted() -> Result<bool> {
    let line = fs::read_to_string("/proc/cmdline")
        .map_err(Error::system("read the kernel's command line"))?;
    Ok(line
        .split_ascii_whitespace()
        .any(|word| word == TEMPLATE_PARAMETER))
}

/// Lets the host freeze the machine. Returns in a fork, once its devices are there.
pub fn wait() -> Result<()> {
    let line = wake_up().map_err(Error::system("wait on the serial console"))?;
    for device in devices(&line)? {
        network::bind(device)?;
    }
    Ok(())
}

fn wake_up() -> std::io::Result<String> {
    let mut console = File::options().read(true).write(true).open(CONSOLE)?;
    let cooked = tcgetattr(&console)?;
    let mut raw = cooked.clone();
    raw.make_raw();
    tcsetattr(&console, OptionalActions::Now, &raw)?;
    console.write_all(format!("{TEMPLATE_READY}\n").as_bytes())?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < WAKE_UP_LIMIT {
        let mut bytes = [0; WAKE_UP_LIMIT];
        let read = console.read(&mut bytes)?;
        line.extend_from_slice(&bytes[..read]);
    }
    tcsetattr(&console, OptionalActions::Now, &cooked)?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn devices(line: &str) -> Result<Vec<u32>> {
    line.split_ascii_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::Invalid(format!("{line:?} does not name devices")))
}

#[cfg(test)]
mod tests {
    use super::devices;

    #[test]
    fn devices_are_numbers() {
        assert_eq!(devices("0 2 3\n").expect("devices"), [0, 2, 3]);
        assert!(devices("\n").expect("none").is_empty());
        assert!(devices("0 ../x\n").is_err());
        assert!(devices("-1").is_err());
    }
}
