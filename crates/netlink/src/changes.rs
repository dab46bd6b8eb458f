//! Being told that a namespace has changed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
};

/// Devices, addresses and routes of both families: `RTMGRP_*` of `linux/rtnetlink.h`.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

/// A socket that can be read when something has changed in the namespace in which it was
/// opened. What it was is not told: whoever looks sees more than messages can say, some
/// of which may have been lost.
#[derive(Debug)]
pub struct Changes(OwnedFd);

impl Changes {
    /// Opens one in the calling thread's network namespace. From here on no change is missed.
    pub fn open() -> io::Result<Self> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            // The first protocol of the family, NETLINK_ROUTE.
            None,
        )?;
        bind(
            &fd,
            &netlink::SocketAddrNetlink::new(0, GROUPS.cast_unsigned()),
        )?;
        Ok(Self(fd))
    }

    /// Forgets the changes until now. Returns whether there were any.
    pub fn forget(&self) -> bool {
        let mut any = false;
        let mut buffer = [0; 4096];
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::TRUNC) {
                // More than there was room for: something has changed.
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
