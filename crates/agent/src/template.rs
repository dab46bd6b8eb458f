//! Being frozen.
//!
//! A template is a machine with at most disks, frozen while its agent waits to be asked
//! something; a snapshot is one with a container, frozen in [`let_go`]. Whatever runs before
//! in a template, a rehearsal too, is in the memory of every fork: nothing may draw random bytes
//! and keep them, read `boot_id` or open a TCP connection, for the kernel makes their secrets at
//! first use and would make them for all forks alike. What the kernel draws and forgets, as it
//! does for each program that it executes, is no secret of a fork: each is given fresh entropy
//! before it executes one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::OnceLock;

use caisson_protocol::agent::Network;
use caisson_protocol::{
    LET_GO, NETWORK_PARAMETER, NEW_DISK_PARAMETER, TEMPLATE_PARAMETER, WAKE_UP_GONE, WAKE_UP_LIMIT,
};
use protobuf::Message;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::device;
use crate::error::{Error, Result};

const CONSOLE: &str = "/dev/ttyS0";

/// The serial port on which the host wakes this machine. It stays open, and as the first
/// wait has set it: to give it back would be code that every copy runs for the first time.
static PORT: OnceLock<File> = OnceLock::new();

/// Where there is a link for each vsock device, of which the machine has one.
const VSOCK: &str = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";

/// The template that this machine is to become.
#[derive(Debug, PartialEq)]
pub struct Wanted {
    /// Serial number of the disk that it has mounted.
    pub new_disk: Option<String>,
    /// What its forks' only interface is nearly always given.
    pub network: Option<Network>,
}

/// Whether this machine is to be frozen, and how.
pub fn wanted() -> Result<Option<Wanted>> {
    let line = fs::read_to_string("/proc/cmdline")
        .map_err(Error::system("read the kernel's command line"))?;
    of_command_line(&line)
}

fn of_command_line(line: &str) -> Result<Option<Wanted>> {
    let words = || line.split_ascii_whitespace();
    if !words().any(|word| word == TEMPLATE_PARAMETER) {
        return Ok(None);
    }
    let value =
        |parameter: &str| words().find_map(|word| word.strip_prefix(parameter)?.strip_prefix('='));
    Ok(Some(Wanted {
        new_disk: value(NEW_DISK_PARAMETER).map(str::to_owned),
        network: value(NETWORK_PARAMETER).map(network).transpose()?,
    }))
}

fn network(digits: &str) -> Result<Network> {
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes: Option<Vec<_>> = digits.as_bytes().chunks(2).map(byte).collect();
    bytes
        .and_then(|bytes| Network::parse_from_bytes(&bytes).ok())
        .ok_or_else(|| Error::Invalid(format!("{digits} is no network")))
}

/// Lets the host make a snapshot of the machine. Returns when it goes on, and in each
/// copy, with a new vsock device. Meanwhile nothing of the agent runs.
pub fn let_go() -> Result<()> {
    device::let_go(&vsock()?)?;
    let line = wake_up().map_err(Error::system("wait on the serial console"))?;
    let devices = Devices::read(&line)?;
    let mut gone = devices.gone.into_iter().map(device::name);
    gone.try_for_each(|name| device::let_go(&name))?;
    devices.new.into_iter().try_for_each(device::bind)
}

/// Name of the vsock device on its bus.
fn vsock() -> Result<String> {
    let failed = || Error::path("look for the vsock device in", Path::new(VSOCK));
    for entry in fs::read_dir(VSOCK).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if !path.join("device").exists() {
            continue;
        }
        let path = path.canonicalize().map_err(failed())?;
        let platform = path.parent().and_then(Path::file_name);
        if let Some(name) = platform.and_then(|name| name.to_str()) {
            return Ok(name.to_owned());
        }
    }
    Err(Error::Missing("vsock device".to_owned()))
}

/// Says that the machine can be frozen, and waits for a line.
fn wake_up() -> std::io::Result<String> {
    let mut console = port()?;
    console.write_all(format!("{LET_GO}\n").as_bytes())?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < WAKE_UP_LIMIT {
        let mut bytes = [0; WAKE_UP_LIMIT];
        let read = console.read(&mut bytes)?;
        line.extend_from_slice(&bytes[..read]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn port() -> std::io::Result<&'static File> {
    if let Some(port) = PORT.get() {
        return Ok(port);
    }
    let port = File::options().read(true).write(true).open(CONSOLE)?;
    let mut raw = tcgetattr(&port)?;
    raw.make_raw();
    tcsetattr(&port, OptionalActions::Now, &raw)?;
    Ok(PORT.get_or_init(|| port))
}

/// What the host says of devices when it wakes this machine.
#[derive(Debug, PartialEq, Eq)]
struct Devices {
    /// Those to look at.
    new: Vec<u32>,
    /// Those to let go of.
    gone: Vec<u32>,
}

impl Devices {
    fn read(line: &str) -> Result<Self> {
        let numbers = |words: &str| {
            let numbers = words.split_ascii_whitespace().map(str::parse);
            numbers
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| Error::Invalid(format!("{line:?} does not name devices")))
        };
        let (new, gone) = line.split_once(WAKE_UP_GONE).unwrap_or((line, ""));
        Ok(Self {
            new: numbers(new)?,
            gone: numbers(gone)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use caisson_protocol::agent::Interface;

    use super::*;

    #[test]
    fn the_command_line_says_whether_a_template_is_wanted() {
        let read = |line| of_command_line(line).expect("a command line");
        assert_eq!(read("quiet caisson.new_disk=scratch"), None);
        let bare = Wanted {
            new_disk: None,
            network: None,
        };
        assert_eq!(read("caisson.template quiet\n"), Some(bare));
        let with_disk = Wanted {
            new_disk: Some("scratch".to_owned()),
            network: None,
        };
        let line = "quiet caisson.template caisson.new_disk=scratch\n";
        assert_eq!(read(line), Some(with_disk));
    }

    #[test]
    fn a_network_is_read_from_digits() {
        let network = Network {
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                mtu: 1500,
                ..Default::default()
            }],
            ..Default::default()
        };
        let bytes = network.write_to_bytes().expect("encoded");
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = format!("caisson.template caisson.network={digits}");
        let wanted = of_command_line(&line).expect("read").expect("a template");
        assert_eq!(wanted.network, Some(network));
        for wrong in ["0", "zz", "0a"] {
            let line = format!("caisson.template caisson.network={wrong}");
            assert!(of_command_line(&line).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_are_numbers() {
        let read = |line| Devices::read(line).map(|devices| (devices.new, devices.gone));
        assert_eq!(read("0 2 3\n").expect("devices"), (vec![0, 2, 3], vec![]));
        assert_eq!(read("0 - 5 6\n").expect("devices"), (vec![0], vec![5, 6]));
        assert_eq!(read("\n").expect("none"), (vec![], vec![]));
        assert!(read("0 ../x\n").is_err());
        assert!(read("0 - 1 - 2\n").is_err());
    }
}
