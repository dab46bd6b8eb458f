//! The guest's identity.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use caisson_protocol::SHARE_ROOT;
use caisson_protocol::agent::ConfigureRequest;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::{MountFlags, mount};
use rustix::time::{ClockId, Timespec};

use crate::error::{self, Error, Result};
use crate::{connections, device, network};

/// Most random bytes that are taken at once.
const ENTROPY_LIMIT: usize = 512;

/// Does all that the request asks for.
pub fn configure(request: &ConfigureRequest) -> Result<()> {
    reseed(&request.entropy)?;
    set_clock(request.realtime_ns)?;
    for device in &request.devices {
        device::bind(*device)?;
    }
    if !request.hostname.is_empty() {
        rustix::system::sethostname(request.hostname.as_bytes()).map_err(Error::system(
            format!("set the host name {:?}", request.hostname),
        ))?;
    }
    for (key, value) in &request.sysctls {
        let path = sysctl_path(key)?;
        fs::write(&path, value).map_err(Error::path("set the kernel parameter", &path))?;
    }
    if request.again {
        network::take_down(&request.network)?;
        connections::reset();
    }
    network::set_up(&request.network)?;
    if request.again {
        look_again(Path::new(SHARE_ROOT))?;
    }
    if !request.share_tag.is_empty() {
        mount_share(&request.share_tag)?;
    }
    Ok(())
}

/// Credits random bytes of the host and makes the kernel use them at once, so that
/// two guests made from one memory image differ from here on (random(4)).
fn reseed(entropy: &[u8]) -> Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

    /// `struct rand_pool_info`.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        bytes: libc::c_int,
        buffer: [u8; ENTROPY_LIMIT],
    }

    if entropy.is_empty() {
        return Ok(());
    }
    let entropy = &entropy[..entropy.len().min(ENTROPY_LIMIT)];
    let mut pool = Pool {
        bits: entropy.len() as libc::c_int * 8,
        bytes: entropy.len() as libc::c_int,
        buffer: [0; ENTROPY_LIMIT],
    };
    pool.buffer[..entropy.len()].copy_from_slice(entropy);
    let failed = || Error::system("seed the random number generator");
    let device = fs::OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .map_err(failed())?;
    // SAFETY: RNDADDENTROPY reads `bytes` bytes of the buffer that follows its two
    // integers, and the buffer is at least that long.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &pool) };
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let reseeded = unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) };
    if added < 0 || reseeded < 0 {
        return Err(failed()(std::io::Error::last_os_error()));
    }
    Ok(())
}

/// Sets the wall clock; 0 leaves it as it is.
pub fn set_clock(realtime_ns: i64) -> Result<()> {
    if realtime_ns <= 0 {
        return Ok(());
    }
    let now = Timespec {
        tv_sec: realtime_ns / 1_000_000_000,
        tv_nsec: realtime_ns % 1_000_000_000,
    };
    rustix::time::clock_settime(ClockId::Realtime, now).map_err(Error::system("set the clock"))
}

/// `net.ipv4.ip_forward` is `/proc/sys/net/ipv4/ip_forward`. A slash is a dot of a name:
/// `net.ipv4.conf.eth0/100.arp_filter`, as sysctl(8) has it.
pub fn sysctl_path(key: &str) -> Result<PathBuf> {
    let mut path = PathBuf::from("/proc/sys");
    for part in key.split('.') {
        let part = part.replace('/', ".");
        if part.is_empty() || part == "." || part == ".." {
            return Err(Error::Invalid(format!("{key:?} is no kernel parameter")));
        }
        path.push(part);
    }
    Ok(path)
}

fn mount_share(tag: &str) -> Result<()> {
    error::name("a share", tag)?;
    fs::create_dir_all(SHARE_ROOT).map_err(Error::path("make", Path::new(SHARE_ROOT)))?;
    mount(
        tag,
        SHARE_ROOT,
        "virtiofs",
        MountFlags::NODEV,
        None::<&std::ffi::CStr>,
    )
    .map_err(Error::system(format!("mount the share {tag}")))
}

/// Has the kernel ask for the attributes of what is shared, which it believes for a while:
/// a copy may have other files in the places of the first one's.
fn look_again(share: &Path) -> Result<()> {
    let entries = match fs::read_dir(share) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::path("list", share)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::path("list", share))?.path();
        let flags = AtFlags::STATX_FORCE_SYNC;
        rustix::fs::statx(CWD, &path, flags, StatxFlags::BASIC_STATS)
            .map_err(Error::path("look at", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_stays_below_proc_sys() {
        assert_eq!(
            sysctl_path("net.core.somaxconn").expect("a parameter"),
            Path::new("/proc/sys/net/core/somaxconn")
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/100.arp_filter").expect("a parameter"),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/arp_filter")
        );
        for hostile in ["", "..kernel", "a.//.b", "a./.b", "net..core"] {
            assert!(sysctl_path(hostile).is_err(), "{hostile:?}");
        }
    }
}
