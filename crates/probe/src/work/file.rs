//! Files: many small ones, and one large one in order and at random.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use super::rate;
use crate::line;

/// Size of the large file.
const SIZE: u64 = 16 << 20;

/// What is read or written at a time, in order.
const CHUNK: usize = 1 << 20;

/// The same at random.
const PAGE: usize = 4096;

/// Random reads after which the cache is emptied again.
const READS: u64 = 64;

/// Measures in one place, and leaves nothing there.
pub fn measure(place: &str, folder: &Path, time: Duration) -> io::Result<()> {
    let folder = folder.join("caisson-probe-work");
    fs::create_dir_all(&folder)?;
    let measured = measure_in(place, &folder, time);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure_in(place: &str, folder: &Path, time: Duration) -> io::Result<()> {
    let sample = |name: &str, rate: f64| line::sample(&format!("{place}/{name}"), rate);

    let small = folder.join("small");
    let files = rate(time, || {
        File::create(&small)?.write_all(b"x")?;
        fs::metadata(&small)?;
        fs::remove_file(&small).map(|()| 1)
    })?;
    sample("small-files", files);

    let chunk = vec![7_u8; CHUNK];
    let large = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(folder.join("large"))?;
    let written = rate(time, || {
        for number in 0..SIZE / CHUNK as u64 {
            large.write_all_at(&chunk, number * CHUNK as u64)?;
        }
        large.sync_all().map(|()| SIZE)
    })?;
    sample("sequential-writes", written);

    let mut buffer = vec![0_u8; CHUNK];
    let read = rate(time, || {
        forget(&large)?;
        for number in 0..SIZE / CHUNK as u64 {
            large.read_exact_at(&mut buffer, number * CHUNK as u64)?;
        }
        Ok::<_, io::Error>(SIZE)
    })?;
    sample("sequential-reads", read);

    let mut random = Random(1);
    let page = vec![8_u8; PAGE];
    let written = rate(time, || {
        large.write_all_at(&page, random.page())?;
        large.sync_data().map(|()| 1)
    })?;
    sample("random-writes", written);

    let mut buffer = vec![0_u8; PAGE];
    let read = rate(time, || {
        forget(&large)?;
        for _ in 0..READS {
            large.read_exact_at(&mut buffer, random.page())?;
        }
        Ok::<_, io::Error>(READS)
    })?;
    sample("random-reads", read);
    Ok(())
}

/// Empties this kernel's cache of a file whose writes have been synchronised. The cache of a
/// kernel below is out of reach.
fn forget(file: &File) -> io::Result<()> {
    fadvise(file, 0, None, Advice::DontNeed)?;
    Ok(())
}

/// Marsaglia's xorshift: the same places in every run.
struct Random(u64);

impl Random {
    fn page(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (SIZE / PAGE as u64) * PAGE as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_in_the_file() {
        let mut random = Random(1);
        let places: Vec<u64> = (0..1000).map(|_| random.page()).collect();
        assert!(places.iter().all(|place| place + PAGE as u64 <= SIZE));
        assert!(places.iter().any(|place| *place > SIZE / 2));
    }

    #[test]
    fn nothing_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        measure("rootfs", folder.path(), Duration::from_millis(1)).expect("measured");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    }
}
