//! Frames of Ethernet as they are, honest or not (packet(7)): sent from a container, and seen
//! by its neighbours.

use std::ffi::CString;
use std::fmt::Write;
use std::io::{self, BufRead};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::line;

/// Longest frame that is looked at; those of networks are shorter.
const LONGEST: usize = 64 << 10;

/// Sends the frames that come on standard input, all of them `times` times over.
pub fn send(interface: &str, times: &str) -> bool {
    let Ok(times) = times.parse::<u32>() else {
        return false;
    };
    let frames: Option<Vec<_>> = io::stdin()
        .lock()
        .lines()
        .map(|line| bytes(line.ok()?.trim()))
        .collect();
    let Some(frames) = frames else {
        return false;
    };
    match send_all(interface, &frames, times) {
        Ok(sent) => line::done(format_args!("sent {sent} frames")),
        Err(error) => line::refused(format_args!("send out of {interface}"), error),
    }
    line::end();
    true
}

fn send_all(interface: &str, frames: &[Vec<u8>], times: u32) -> io::Result<u64> {
    let socket = open(interface)?;
    let mut sent = 0;
    for _ in 0..times {
        for frame in frames {
            // SAFETY: the kernel reads the frame, whose length is given.
            let result =
                unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            match (result, io::Error::last_os_error()) {
                (0.., _) => sent += 1,
                // The queue is full; a flood does not wait.
                (_, error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                (_, error) => return Err(error),
            }
        }
    }
    Ok(sent)
}

/// Shows every frame that arrives, until it is killed.
pub fn listen(interface: &str) -> bool {
    if let Err(error) = show_all(interface) {
        line::refused(format_args!("listen on {interface}"), error);
    }
    true
}

fn show_all(interface: &str) -> io::Result<()> {
    let socket = open(interface)?;
    line::done(format_args!("listen on {interface}"));
    let mut buffer = vec![0_u8; LONGEST];
    loop {
        // SAFETY: the kernel writes into the buffer, whose length is given.
        let length = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut digits = String::with_capacity(2 * length);
        for byte in &buffer[..length] {
            // Writing to a string cannot fail.
            let _ = write!(digits, "{byte:02x}");
        }
        line::inside(digits);
    }
}

/// A socket for all frames of an interface.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: the name is a string that ends with a zero.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if number == 0 {
        return Err(io::Error::last_os_error());
    }
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: this only makes a descriptor.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            every_protocol.into(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a `sockaddr_ll` is plain data for which all zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every_protocol;
    address.sll_ifindex = number.cast_signed();
    // SAFETY: the kernel reads the address, whose size is given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// What hexadecimal digits say; none if they say nothing.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_bytes() {
        assert_eq!(bytes("00ff0A"), Some(vec![0, 255, 10]));
        assert_eq!(bytes(""), Some(Vec::new()));
        assert_eq!(bytes("0g"), None);
        assert_eq!(bytes("é"), None);
    }
}
