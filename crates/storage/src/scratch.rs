//! The disk that takes what a container writes.
//!
//! Each begins as a sparse copy of an empty ext4 file system that is made
//! once for each size: `mkfs.ext4` is then no part of a start, and a copy of 10 GiB
//! has some 200 KiB to write.
//!
//! Why the template is made as it is:
//!
//! - A **journal**, though a small one. A guest may be killed at any moment and the
//!   container started again on the same disk, and nobody runs `e2fsck` in
//!   between: without a journal the kernel would mount whatever half-written
//!   metadata there is. 8 MiB are enough for the bursts of a package manager, and
//!   a journal that is written in a circle costs the host its whole size.
//! - **No checksums of metadata** (`metadata_csum`). They are for media that lie.
//!   Here they would be computed by a guest whose processor may be emulated; the
//!   host's own file system has whatever checksums its owner wants.
//! - **Inode tables count as zeroed.** The template is a new sparse file, so they
//!   are. A disk made with `lazy_itable_init` would have every guest write
//!   160 MiB of zeros (for 10 GiB) after its first mount.
//! - **Nothing reserved** for root and for growth: a container is root in its
//!   guest, and the disk never grows.
//! - The **folders** that overlayfs wants are there: the guest would have to
//!   allocate its first blocks for them, which is a lot of code to run for the
//!   first time.
//! - The features and sizes are all named, and the host's `mke2fs.conf` is not
//!   read, so that the template is the same on every host.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{SeekFrom, seek};
use tempfile::NamedTempFile;

use crate::error::IoContext;
use crate::store::{NamedLock, create_folder, sync_parent};
use crate::{Digest, Error, Result};

const BLOCK: u64 = 4096;
/// Smallest disk: the journal takes a quarter of it.
const MIN_SIZE: u64 = 32 << 20;
/// Largest disk. The numbers of blocks have 32 bits, which end at 16 TiB.
const MAX_SIZE: u64 = 8 << 40;

/// Every disk has the same identity: it is the only one of its kind in its guest.
const OPTIONS: &[&str] = &[
    "-q",
    "-F",
    "-b",
    "4096",
    "-I",
    "256",
    "-i",
    "16384",
    "-m",
    "0",
    "-G",
    "16",
    "-J",
    "size=8",
    // A damaged file system takes no more writes.
    "-e",
    "remount-ro",
    "-U",
    "ca155000-0000-4000-8000-000000000001",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,\
     huge_file,uninit_bg,dir_nlink,extra_isize",
    "-E",
    // `discard` is what finds the inode tables zeroed without writing them.
    "discard,lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0,\
     hash_seed=ca155000-0000-4000-8000-000000000002",
];

/// Commands for debugfs: the folders of a writable layer, as overlayfs wants them.
const FOLDERS: &str = "mkdir upper\nmkdir work\n\
     set_inode_field upper mode 040755\nset_inode_field work mode 040755\n";

/// Where programs for root are, if they are not in `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The empty disk of which those that take what a container writes are copies: a sparse
/// file with an ext4 file system of `size` bytes (rounded up to 4 KiB).
///
/// `cache` is where it is kept; it is created if need be. The disk appears there whole or
/// not at all.
pub fn empty_disk(size: u64, cache: &Path) -> Result<PathBuf> {
    if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
        return Err(Error::DiskSize(size));
    }
    make_once(size.next_multiple_of(BLOCK), cache)
}

/// Copies a disk that nobody writes to into the new file `to`. Where the file system can,
/// both share their blocks until one is written.
pub fn copy_disk(from: &Path, to: &Path) -> std::io::Result<()> {
    let source = File::open(from)?;
    let target = File::create_new(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    copy_data(&source, &target, source.metadata()?.len())
}

fn make_once(size: u64, cache: &Path) -> Result<PathBuf> {
    let options = Digest::of([OPTIONS.join("\0").as_str(), FOLDERS].concat().as_bytes());
    let name = format!("scratch-{size}-{}.ext4", &options.hex()[..16]);
    let path = cache.join(&name);
    if path.exists() {
        return Ok(path);
    }
    create_folder(cache)?;
    let _lock = NamedLock::acquire(&cache.join(format!("{name}.lock")), || {})?;
    // Somebody else may have made it while we waited.
    if path.exists() {
        return Ok(path);
    }
    let file = NamedTempFile::new_in(cache).context("create a file in", cache)?;
    file.as_file()
        .set_len(size)
        .context("enlarge", file.path())?;
    make_file_system(file.path())?;
    file.as_file()
        .sync_all()
        .context("synchronise", file.path())?;
    file.persist(&path)
        .map_err(|error| error.error)
        .context("create", &path)?;
    sync_parent(&path)?;
    Ok(path)
}

fn make_file_system(path: &Path) -> Result<()> {
    let mut mkfs = tool("mkfs.ext4")?;
    run("mkfs.ext4", mkfs.args(OPTIONS).arg(path), "")?;
    // Not by `mkfs.ext4 -d`, which gives folders the owner that they have here.
    let mut debugfs = tool("debugfs")?;
    debugfs.args(["-w", "-f", "-"]).arg(path);
    run("debugfs", &mut debugfs, FOLDERS)
}

/// A program of e2fsprogs that makes the same file system at every time.
fn tool(name: &'static str) -> Result<Command> {
    let program = find_program(name).ok_or(Error::MissingProgram {
        program: name,
        package: "e2fsprogs",
    })?;
    let mut command = Command::new(program);
    command
        .env("MKE2FS_CONFIG", "/dev/null")
        // The times in the file system; the older name and the newer.
        .env("E2FSPROGS_FAKE_TIME", "1")
        .env("SOURCE_DATE_EPOCH", "1");
    Ok(command)
}

fn run(program: &'static str, command: &mut Command, input: &str) -> Result<()> {
    let path = PathBuf::from(command.get_program());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run", &path)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it says itself what is wrong.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().context("run", &path)?;
    if output.status.success() {
        return Ok(());
    }
    // What comes before the last line is about the configuration that we withhold.
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    Err(Error::Program {
        program,
        status: output.status,
        said: last.unwrap_or("no message").trim().to_owned(),
    })
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Makes `to`, an empty file, a copy of the first `size` bytes of `from`, in which
/// blocks of zeros are holes.
///
/// Plain reads and writes: of a template there is so little to copy that reflinks would
/// not save anything, and they do not exist everywhere.
fn copy_data(from: &File, to: &File, size: u64) -> std::io::Result<()> {
    to.set_len(size)?;
    let mut buffer = vec![0; 1 << 16];
    let mut position = 0;
    // The file's own position is not used, but `seek` moves it.
    while let Some(start) = seek_to(from, SeekFrom::Data(position))? {
        let end = seek_to(from, SeekFrom::Hole(start))?
            .unwrap_or(size)
            .min(size);
        position = start;
        while position < end {
            let wanted = buffer.len().min((end - position) as usize);
            let piece = &mut buffer[..wanted];
            from.read_exact_at(piece, position)?;
            for (number, block) in piece.chunks(BLOCK as usize).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    to.write_all_at(block, position + number as u64 * BLOCK)?;
                }
            }
            position += wanted as u64;
        }
        if position >= size {
            break;
        }
    }
    Ok(())
}

/// Where the next data or hole is; None if there is none.
fn seek_to(file: &File, target: SeekFrom) -> std::io::Result<Option<u64>> {
    match seek(file, target) {
        Ok(position) => Ok(Some(position)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const SIZE: u64 = 10 << 30;

    fn program(name: &str) -> Command {
        let path = SYSTEM_FOLDERS
            .map(|folder| Path::new(folder).join(name))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("{name} is missing: apt-get install e2fsprogs"));
        Command::new(path)
    }

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_copy_is_a_clean_file_system_and_small() {
        let scratch = tempfile::tempdir().unwrap();
        let (cache, disk) = (scratch.path().join("cache"), scratch.path().join("disk"));
        copy_disk(&empty_disk(SIZE, &cache).unwrap(), &disk).unwrap();
        let metadata = std::fs::metadata(&disk).unwrap();
        assert_eq!(metadata.len(), SIZE);
        assert!(
            metadata.blocks() * 512 < 1 << 20,
            "{} blocks of 512 bytes",
            metadata.blocks()
        );
        let checked = program("e2fsck").arg("-fn").arg(&disk).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");

        // No guest is to zero inode tables, and all have a journal.
        let shown = program("dumpe2fs").arg(&disk).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let groups = shown
            .lines()
            .filter(|line| line.starts_with("Group "))
            .count();
        assert_eq!(groups as u64, SIZE / (128 << 20));
        assert_eq!(shown.matches("ITABLE_ZEROED").count(), groups);
        assert!(shown.contains("has_journal"), "{shown}");
    }

    #[test]
    fn there_is_one_empty_disk_of_each_size() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = scratch.path().join("a/cache");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| empty_disk(MIN_SIZE, &cache).unwrap());
            }
        });
        let [template] = &names(&cache)[..] else {
            panic!("{:?}", names(&cache));
        };
        let template = cache.join(template);
        let first = std::fs::read(&template).unwrap();
        let made = std::fs::metadata(&template).unwrap();
        // Rounded up, this is a size of its own.
        let other = empty_disk(MIN_SIZE + 1, &cache).unwrap();
        let other = std::fs::metadata(other).unwrap();
        assert_eq!(other.len(), MIN_SIZE + BLOCK);
        assert_eq!(names(&cache).len(), 2);
        let kept = std::fs::metadata(&template).unwrap();
        assert_eq!((kept.ino(), kept.mtime()), (made.ino(), made.mtime()));

        let elsewhere = scratch.path().join("elsewhere");
        let same = empty_disk(MIN_SIZE, &elsewhere).unwrap();
        assert!(first == std::fs::read(same).unwrap());
    }

    #[test]
    fn refuses_what_cannot_be() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = scratch.path().join("cache");
        for size in [0, MIN_SIZE - 1, MAX_SIZE + 1, u64::MAX] {
            let error = empty_disk(size, &cache).unwrap_err();
            assert!(matches!(error, Error::DiskSize(_)), "{error}");
        }
        assert!(!cache.exists());
    }
}
