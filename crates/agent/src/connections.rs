//! Connections of a guest to other machines, which a copy of the guest does not have.
//!
//! Both ends of a connection would go on sending what belongs to the other's. The kernel
//! ends one for whoever holds it: `connect(2)` with `AF_UNSPEC` resets a connection, and
//! every process with the socket, also one that waits for it, gets `ECONNRESET`. The
//! agent gets at the sockets by `pidfd_getfd(2)`.
//!
//! Connections that wait to be accepted, and those that were closed with something left to
//! be sent, have no such holder. They are ended by their names (sock_diag(7)); whoever
//! accepts one gets `ECONNABORTED`.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use caisson_netlink::{AT_REST, Connections};
use rustix::net::AddressFamily;
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// Resets every TCP connection that leaves the guest. The interfaces have no addresses
/// any more, so nobody outside hears of it.
pub fn reset() {
    disconnect_held();
    if let Err(error) = destroy_others() {
        eprintln!("agent: a connection that nobody holds cannot be ended: {error}");
    }
}

/// Ends those that a process has.
fn disconnect_held() {
    let mut seen = BTreeSet::new();
    for (pid, number, socket) in sockets() {
        // Children share the sockets of their parents.
        if seen.contains(&socket) {
            continue;
        }
        let reset = || -> rustix::io::Result<()> {
            let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            let socket = rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())?;
            if leaves_guest(socket.as_fd()) {
                disconnect(socket.as_fd())?;
            }
            Ok(())
        };
        match reset() {
            Ok(()) => drop(seen.insert(socket)),
            Err(errno) => eprintln!("agent: a connection cannot be reset: {errno}"),
        }
    }
}

/// Ends the others.
fn destroy_others() -> std::io::Result<()> {
    let mut connections = Connections::open()?;
    let all = connections.tcp()?;
    let mut ended = Ok(());
    for connection in all.iter().filter(|end| !is_loopback(end.local)) {
        // One that fails is no reason to leave the others.
        ended = ended.and(connections.destroy(connection));
    }
    ended
}

/// Process, descriptor and name of the sockets of every process but this one.
fn sockets() -> Vec<(Pid, i32, PathBuf)> {
    let own = std::process::id();
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own);
    let mut sockets = Vec::new();
    for pid in processes {
        let Some(number) = Pid::from_raw(pid.cast_signed()) else {
            continue;
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        sockets.extend(descriptors.filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let is_socket = target.to_str()?.starts_with("socket:");
            let descriptor = entry.file_name().to_str()?.parse().ok()?;
            is_socket.then_some((number, descriptor, target))
        }));
    }
    sockets
}

/// Whether it is a TCP connection whose other end is elsewhere, established or not.
fn leaves_guest(socket: BorrowedFd<'_>) -> bool {
    let family = sockopt::socket_domain(socket);
    let internet = matches!(family, Ok(AddressFamily::INET | AddressFamily::INET6));
    if !internet || sockopt::socket_protocol(socket) != Ok(Some(rustix::net::ipproto::TCP)) {
        return false;
    }
    let local = rustix::net::getsockname(socket).and_then(SocketAddr::try_from);
    let connected = matches!(state(socket), Some(state) if !AT_REST.contains(&state));
    connected && local.is_ok_and(|local| !is_loopback(local.ip()))
}

/// The first member of `struct tcp_info`.
fn state(socket: BorrowedFd<'_>) -> Option<u8> {
    let mut state = 0_u8;
    let mut length = size_of::<u8>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is what `state` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length == 1).then_some(state)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn disconnect(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // SAFETY: a `sockaddr` is plain data for which all zeros are valid: AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the address is complete and outlives the call.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const nowhere,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reset_is_seen_by_who_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut near =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        assert_eq!(state(near.as_fd()), Some(1));
        assert_eq!(state(listener.as_fd()), Some(10));
        assert!(!leaves_guest(near.as_fd()), "its other end is here");
        disconnect(near.as_fd()).expect("reset");
        let error = near.read(&mut [0]).expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(!leaves_guest(listener.as_fd()));
    }
}
