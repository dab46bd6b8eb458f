//! `delete`: what containerd runs when a shim does not answer any more.
//!
//! A shim's mounts, taps and processes end with it, so that there is little to do: end one
//! that lives but is deaf, give back the network namespace, and remove its socket. The bundle is containerd's to remove.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::address::ADDRESS_FILE;
use crate::arguments::Arguments;
use crate::cgroup;
use crate::daemon::LOCK_FILE;
use crate::error::{Error, Result};
use crate::network;

/// Exit code of a container whose end nobody saw.
const KILLED: u32 = 137;

/// How long a killed shim may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether it is.
const PAUSE: Duration = Duration::from_millis(5);

/// Ends what is left of a shim and prints a `DeleteResponse`.
pub fn delete(arguments: &Arguments) -> Result<()> {
    let folder = if arguments.bundle.as_os_str().is_empty() {
        std::env::current_dir().map_err(Error::host("find the bundle"))?
    } else {
        arguments.bundle.clone()
    };
    let lock = folder.join(LOCK_FILE);
    // Only the bundle of a sandbox's first container has one: the other containers of a
    // pod have no shim of their own.
    let pid = if lock.exists() { end(&lock)? } else { 0 };
    if lock.exists() {
        cgroup::remove_recorded(&folder);
        network::part_recorded(&folder);
        remove_socket(&folder)?;
    }
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::from(SystemTime::now())),
        ..Default::default()
    };
    let bytes = response
        .write_to_bytes()
        .expect("a message without required fields can be written");
    std::io::stdout()
        .write_all(&bytes)
        .map_err(Error::host("write to standard output"))
}

/// Kills the shim that holds a lock and waits until it is gone. Returns its process id.
fn end(path: &Path) -> Result<u32> {
    let failed = || Error::path("end the shim of", path);
    let text = std::fs::read_to_string(path).map_err(failed())?;
    let Ok(number) = text.trim().parse::<i32>() else {
        return Ok(0);
    };
    let lock = File::open(path).map_err(failed())?;
    if lock.try_lock().is_ok() {
        return Ok(number.unsigned_abs());
    }
    // The lock is held, so the process lives. Opened first, the descriptor names it and no
    // other; the lock, if it is still held then, tells that it is the right one.
    let process = Pid::from_raw(number)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(process) = process else {
        return Ok(number.unsigned_abs());
    };
    if lock.try_lock().is_err() {
        rustix::process::pidfd_send_signal(&process, Signal::KILL)
            .map_err(|errno| failed()(errno.into()))?;
    }
    let begin = Instant::now();
    while lock.try_lock().is_err() {
        if begin.elapsed() > PATIENCE {
            return Err(failed()(std::io::Error::other("it does not end")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(number.unsigned_abs())
}

fn remove_socket(folder: &Path) -> Result<()> {
    let file = folder.join(ADDRESS_FILE);
    // Without an address, `start` failed before there was a socket.
    let Ok(address) = std::fs::read_to_string(&file) else {
        return Ok(());
    };
    let socket = Path::new(address.trim_start_matches("unix://"));
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::path("remove", socket)(error))
        }
        _ => Ok(()),
    }
}
