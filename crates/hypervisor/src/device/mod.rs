//! Device processes: `caisson-devices` serves one device of one machine over
//! vhost-user.

mod control;
mod state;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::process::{Descriptors, Process};
use crate::{Error, Result, Share};

pub(crate) use control::Control;
pub(crate) use state::State;

/// Names of the device processes.
pub(crate) const VSOCK: &str = "the vsock device";
pub(crate) const FS: &str = "the file system device";

/// A device process and the far end of its vhost-user connection, for the VMM.
#[derive(Debug)]
pub(crate) struct Device {
    /// Serves the device; ends with the connection.
    pub(crate) process: Process,
    /// The VMM's end.
    pub(crate) connection: UnixStream,
}

/// Who a socket device serves.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// Its address.
    pub(crate) cid: u64,
    /// Ports of the host that it may connect to.
    pub(crate) host_ports: Vec<u32>,
}

/// Starts a virtio socket device and opens its control socket. With
/// `foreign_memory` it waits for [`Control::give_memory`] and reaches the guest's
/// memory, at the addresses of the VMM's process, through that. It goes on with the
/// connections that another one noted in `state`, if that is not empty.
pub(crate) fn vsock(
    program: &Path,
    run_directory: &Path,
    guest: &Guest,
    foreign_memory: bool,
    state: Option<File>,
) -> Result<(Device, Control)> {
    let failed = |source| Error::Host {
        doing: "cannot make the sockets of the vsock device".to_owned(),
        source,
    };
    let (listener, connection) = connection(run_directory, "vsock").map_err(failed)?;
    let (ours, theirs) = control::pair().map_err(failed)?;
    let control = Control::new(ours).map_err(failed)?;
    let mut descriptors = Descriptors::default();
    let listener = descriptors.add(listener);
    let theirs = descriptors.add(theirs);
    let mut arguments: Vec<OsString> = vec![
        "vsock".into(),
        format!("--cid={}", guest.cid).into(),
        format!("--listener-fd={listener}").into(),
        format!("--control-fd={theirs}").into(),
    ];
    if foreign_memory {
        arguments.push("--foreign-memory".into());
    }
    if let Some(state) = state {
        let state = descriptors.add(state);
        arguments.push(format!("--state-fd={state}").into());
    }
    arguments.extend(
        guest
            .host_ports
            .iter()
            .map(|port| format!("--host-port={port}").into()),
    );
    let process = Process::spawn(VSOCK, program, arguments, descriptors, None, &[])?;
    Ok((
        Device {
            process,
            connection,
        },
        control,
    ))
}

/// Starts a virtio file system device. Its tag is the VMM's to tell. It goes on with what
/// another one wrote to `state`, if that is not empty.
pub(crate) fn fs(
    program: &Path,
    run_directory: &Path,
    share: &Share,
    state: File,
) -> Result<(Device, State)> {
    let failed = |source| Error::Host {
        doing: "cannot make the sockets of the file system device".to_owned(),
        source,
    };
    let (listener, connection) = connection(run_directory, "fs").map_err(failed)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut descriptors = Descriptors::default();
    let listener = descriptors.add(listener);
    let control = descriptors.add(theirs);
    let file = descriptors.add(state.try_clone().map_err(failed)?);
    let state = State::new(state, ours).map_err(failed)?;
    let mut arguments: Vec<OsString> = vec![
        "fs".into(),
        format!("--listener-fd={listener}").into(),
        format!("--control-fd={control}").into(),
        format!("--state-fd={file}").into(),
    ];
    if let Some(tree) = &share.tree {
        let mut argument = OsString::from("--tree=");
        argument.push(tree);
        arguments.push(argument);
    }
    for mount in &share.mounts {
        let flag = if mount.read_only {
            "--mount-ro"
        } else {
            "--mount"
        };
        let mut argument = OsString::from(format!("{flag}={}=", mount.name));
        argument.push(&mount.source);
        arguments.push(argument);
    }
    let process = Process::spawn(FS, program, arguments, descriptors, None, &[])?;
    let device = Device {
        process,
        connection,
    };
    Ok((device, state))
}

/// A listening socket with one connection waiting in it. Its path is gone when
/// this returns: nobody else can connect.
fn connection(run_directory: &Path, name: &str) -> io::Result<(OwnedFd, UnixStream)> {
    // A socket's path has at most 107 bytes, whatever the folder's name is.
    let folder: File = rustix::fs::open(
        run_directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?
    .into();
    let path = PathBuf::from(format!(
        "/proc/self/fd/{}/{name}.sock",
        std::os::fd::AsRawFd::as_raw_fd(&folder)
    ));
    let listener = UnixListener::bind(&path)?;
    let connection = UnixStream::connect(&path);
    std::fs::remove_file(&path)?;
    Ok((listener.into(), connection?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_leaves_no_path_and_no_limit_on_its_length() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let deep = folder.path().join("x".repeat(200));
        std::fs::create_dir(&deep).expect("folder");
        let (listener, mut ours) = connection(&deep, "vsock").expect("connected");
        assert_eq!(std::fs::read_dir(&deep).expect("folder").count(), 0);

        let (mut theirs, _) = UnixListener::from(listener).accept().expect("accepted");
        io::Write::write_all(&mut ours, b"x").expect("written");
        drop(ours);
        let mut read = Vec::new();
        io::Read::read_to_end(&mut theirs, &mut read).expect("read");
        assert_eq!(read, b"x");
    }
}
