//! Requests about network interfaces that need no netlink (netdevice(7)).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use caisson_netlink::Mac;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Type of Ethernet's hardware addresses (linux/if_arp.h).
const ETHERNET: libc::sa_family_t = 1;

/// A socket over which interfaces are asked.
#[derive(Debug)]
pub struct Interfaces(OwnedFd);

impl Interfaces {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// Starts an interface.
    pub fn raise(&self, name: &str) -> io::Result<()> {
        let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let mut request = request(name)?;
        request.ifr_ifru.ifru_flags = flags;
        self.ask(libc::SIOCSIFFLAGS, &request)
    }

    /// Gives an interface another hardware address.
    pub fn set_mac(&self, name: &str, mac: Mac) -> io::Result<()> {
        let mut address = libc::sockaddr {
            sa_family: ETHERNET,
            sa_data: [0; 14],
        };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed();
        }
        let mut request = request(name)?;
        request.ifr_ifru.ifru_hwaddr = address;
        self.ask(libc::SIOCSIFHWADDR, &request)
    }

    fn ask(&self, what: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
        // SAFETY: both requests read an `ifreq`, which outlives the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), what, &raw const *request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an `ifreq` is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than there is room for: the name ends with a zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}
