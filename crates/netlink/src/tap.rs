//! Tap devices (Documentation/networking/tuntap.rst).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Makes a tap in this thread's network namespace. It is gone when its last descriptor
/// is closed. The kernel replaces `%d` in the name; the name it has is returned. With
/// `offloads`, frames have a header (`struct virtio_net_hdr`) that says what is still to be done
/// to them.
pub fn open(name: &str, offloads: bool) -> io::Result<(OwnedFd, String)> {
    /// `TUNSETIFF` of `linux/if_tun.h`.
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: an `ifreq` is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let header = if offloads { libc::IFF_VNET_HDR } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | header;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request
        .ifr_name
        .iter()
        .take_while(|&&byte| byte != 0)
        .map(|&byte| char::from(byte.cast_unsigned()))
        .collect();
    Ok((device.into(), name))
}

/// Whether a tap takes frames to which something is still to be done.
pub fn takes_offloads(tap: BorrowedFd<'_>) -> io::Result<bool> {
    /// `TUNGETIFF` of `linux/if_tun.h`.
    const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
    // SAFETY: an `ifreq` is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes the `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(tap.as_raw_fd(), TUNGETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_VNET_HDR != 0)
}
