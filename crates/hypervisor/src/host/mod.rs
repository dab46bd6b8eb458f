//! What there is to know about this host: measured once per boot, then read
//! from a file.

mod probe;
mod processor;
mod tsc;

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use probe::KvmProbe;

/// What the drivers need to know of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Identity of the boot for which this holds: firmware, kernel and the
    /// machine below may be others after the next.
    boot_id: String,
    /// What running a guest on `/dev/kvm` showed.
    pub kvm: KvmProbe,
    /// Frequency of the time stamp counter, kHz.
    pub tsc_khz: u32,
    /// Processor and kernel, as far as a guest on KVM depends on them.
    pub processor: String,
}

impl Host {
    /// Measures this host: the time the probe takes is under a millisecond with
    /// a good KVM and bounded by its deadline otherwise.
    ///
    /// # Errors
    /// When the counter's frequency cannot be measured or the processor is not known.
    pub fn measure() -> io::Result<Self> {
        Ok(Self {
            boot_id: boot_id()?,
            kvm: probe::probe(),
            tsc_khz: tsc::frequency()?,
            processor: processor::identity()?,
        })
    }

    /// Reads what was measured since the last boot from `cache`, or measures and
    /// writes it there. A cache that cannot be written is no error: the next
    /// caller measures again.
    ///
    /// # Errors
    /// See [`Host::measure`].
    pub fn load(cache: &Path) -> io::Result<Self> {
        if let Some(host) = read(cache)? {
            return Ok(host);
        }
        let host = Self::measure()?;
        if let Err(error) = write(cache, &host) {
            tracing::debug!(%error, path = %cache.display(), "the host's figures are not kept");
        }
        Ok(host)
    }
}

fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// The figures in `cache`, if it is whole, of this boot, and of the access that
/// this caller has to `/dev/kvm`.
fn read(cache: &Path) -> io::Result<Option<Host>> {
    let Some(host) = fs::read(cache)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Host>(&bytes).ok())
    else {
        return Ok(None);
    };
    let opens = probe::open().is_ok();
    let opened = !matches!(host.kvm, KvmProbe::Missing { .. });
    Ok((host.boot_id == boot_id()? && opens == opened).then_some(host))
}

fn write(cache: &Path, host: &Host) -> io::Result<()> {
    let folder = cache.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = cache.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.{}", std::process::id()));
    fs::write(&new, serde_json::to_vec(host)?)?;
    fs::rename(&new, cache).inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_read_back_until_the_next_boot() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = folder.path().join("run/host.json");
        let measured = Host::load(&cache).expect("measured");
        assert_eq!(read(&cache).expect("read"), Some(measured.clone()));

        let earlier = Host {
            boot_id: "an earlier boot".to_owned(),
            ..measured
        };
        write(&cache, &earlier).expect("written");
        assert_eq!(read(&cache).expect("read"), None);
    }

    #[test]
    fn a_broken_cache_is_measured_anew() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = folder.path().join("host.json");
        fs::write(&cache, b"{\"boot_id\":").expect("written");
        let measured = Host::load(&cache).expect("measured");
        assert_eq!(read(&cache).expect("read"), Some(measured));
    }
}
