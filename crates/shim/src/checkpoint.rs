//! A container that ran, as files that an engine keeps: what containerd makes an image of.
//!
//! ```text
//! checkpoint.json   what it is, and the checksums of the others
//! memory.zst        the memory of the machine
//! ...               the rest of the machine, as its driver has left it
//! ```
//!
//! An engine archives the folder byte by byte, holes included: memory that the guest has
//! not touched is left out.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use caisson_hypervisor::Template;
use caisson_hypervisor::template::{MEMORY, Recipe};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle;
use crate::error::{Error, Result};
use crate::tree::Place;

const RECORD: &str = "checkpoint.json";
const PACKED: &str = "memory.zst";

/// Changes whenever a checkpoint is written in another way.
const FORMAT: u32 = 2;

/// Most bytes of the record, and of a file of the machine beside its memory.
const RECORD_LIMIT: u64 = 1 << 20;
const FILE_LIMIT: u64 = 1 << 30;

/// The quickest: the container's engine waits.
const LEVEL: i32 = 1;

/// What is written down of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Which way to write it.
    format: u32,
    /// Name of the container in its guest.
    pub guest_id: String,
    /// What of the host the guest knows.
    pub places: Vec<Place>,
    /// Machines of this recipe can be copies.
    pub recipe: Recipe,
    /// Bytes of the machine's memory.
    memory: u64,
    /// SHA-256 of each file.
    files: BTreeMap<String, String>,
}

/// A checkpoint that is unpacked. Its files go when it is dropped.
#[derive(Debug)]
pub struct Checkpoint {
    /// What was written down.
    pub record: Record,
    folder: PathBuf,
}

/// Makes what a driver has left in a folder a checkpoint.
pub fn seal(folder: &Path, guest_id: &str, places: Vec<Place>, recipe: &Recipe) -> Result<()> {
    let failed = || Error::path("write the checkpoint in", folder);
    let memory = pack(&folder.join(MEMORY), &folder.join(PACKED)).map_err(failed())?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let checksum = checksum(&entry.path()).map_err(failed())?;
        files.insert(name, checksum);
    }
    let record = Record {
        format: FORMAT,
        guest_id: guest_id.to_owned(),
        places,
        recipe: recipe.clone(),
        memory,
        files,
    };
    let file = create(&folder.join(RECORD)).map_err(failed())?;
    serde_json::to_writer_pretty(file, &record).map_err(|error| failed()(io::Error::from(error)))
}

impl Checkpoint {
    /// Checks a checkpoint and unpacks it into a new folder.
    pub fn unpack(from: &Path, folder: PathBuf) -> Result<Self> {
        let failed = || Error::path("read the checkpoint in", from);
        let damaged =
            |what: String| Error::Invalid(format!("the checkpoint in {} {what}", from.display()));
        let text = bounded(&from.join(RECORD), RECORD_LIMIT).map_err(failed())?;
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| damaged(format!("is damaged: {RECORD}: {error}")))?;
        if record.format != FORMAT {
            return Err(damaged(format!(
                "was written in another way ({}): make it again",
                record.format
            )));
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(Error::path("make", &folder))?;
        let checkpoint = Self { record, folder };
        for (name, expected) in &checkpoint.record.files {
            if !bundle::is_name(name) {
                return Err(damaged(format!("is damaged: no file is called {name:?}")));
            }
            let copy = checkpoint.folder.join(name);
            copy_bounded(&from.join(name), &copy).map_err(failed())?;
            if checksum(&copy).map_err(failed())? != *expected {
                return Err(damaged(format!("is damaged: {name} has another checksum")));
            }
        }
        let packed = checkpoint.folder.join(PACKED);
        let memory = checkpoint.folder.join(MEMORY);
        unpack(&packed, &memory, checkpoint.record.memory)
            .map_err(|error| damaged(format!("is damaged: {PACKED}: {error}")))?;
        Ok(checkpoint)
    }

    /// Its machine, for a copy of this recipe.
    pub fn machine(&self, recipe: &Recipe) -> Result<Template> {
        let differences = self.record.recipe.differences(recipe);
        if !differences.is_empty() {
            return Err(Error::State(format!(
                "the checkpoint does not fit this installation: {} changed since it was made; \
                 make it again",
                differences.join(" and ")
            )));
        }
        Ok(Template {
            directory: self.folder.clone(),
            key: recipe.key(),
            // Whoever made the checkpoint is trusted with the guest, not with the host.
            has_process: false,
        })
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "a checkpoint stays unpacked");
        }
    }
}

/// Whatever the guest held is for root alone.
fn create(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Compresses what is written of a file, in its place. Returns its size. Each piece has
/// its place and its length before it, 64 bits each, little endian.
fn pack(from: &Path, to: &Path) -> io::Result<u64> {
    let source = File::open(from)?;
    let size = source.metadata()?.len();
    let mut target = zstd::Encoder::new(create(to)?, LEVEL)?;
    target.include_checksum(true)?;
    let mut position = 0;
    loop {
        let begin = match seek(&source, SeekFrom::Data(position)) {
            Ok(begin) => begin,
            // No data follows.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        position = seek(&source, SeekFrom::Hole(begin))?;
        target.write_all(&begin.to_le_bytes())?;
        target.write_all(&(position - begin).to_le_bytes())?;
        seek(&source, SeekFrom::Start(begin))?;
        io::copy(&mut (&source).take(position - begin), &mut target)?;
    }
    target.finish()?;
    fs::remove_file(from)?;
    Ok(size)
}

/// Undoes [`pack`]. Pieces come in order.
fn unpack(from: &Path, to: &Path, size: u64) -> io::Result<()> {
    let mut source = BufReader::new(zstd::Decoder::new(File::open(from)?)?);
    let mut target = create(to)?;
    target.set_len(size)?;
    let mut end = 0;
    while !source.fill_buf()?.is_empty() {
        let (begin, length) = (number(&mut source)?, number(&mut source)?);
        let after = begin.checked_add(length);
        match after {
            Some(after) if begin >= end && length > 0 && after <= size => end = after,
            _ => return Err(io::Error::other("its pieces are not in order")),
        }
        seek(&target, SeekFrom::Start(begin))?;
        if io::copy(&mut (&mut source).take(length), &mut target)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    fs::remove_file(from)
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn checksum(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A regular file that is not larger than it may be.
fn open(path: &Path, limit: u64) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > limit {
        return Err(io::Error::other(format!(
            "{} is no file of a checkpoint",
            path.display()
        )));
    }
    Ok(file)
}

fn bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, limit)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn copy_bounded(from: &Path, to: &Path) -> io::Result<()> {
    let limit = if from.ends_with(PACKED) {
        u64::MAX
    } else {
        FILE_LIMIT
    };
    let mut source = BufReader::new(open(from, limit)?);
    let mut target = create(to)?;
    io::copy(&mut source, &mut target)?;
    target.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn recipe() -> Recipe {
        serde_json::from_value(serde_json::json!({
            "kind": {
                "driver": "qemu", "cpus": 1, "memory": 1, "kernel": "/k", "initramfs": "/i",
                "kernelParameters": [],
            },
            "inputs": {},
        }))
        .expect("a recipe")
    }

    #[test]
    fn a_checkpoint_is_what_was_sealed() {
        const SIZE: u64 = 64 << 20;
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let from = folder.join("from");
        fs::create_dir(&from).expect("a folder");
        let memory = File::create_new(from.join(MEMORY)).expect("a file");
        memory.set_len(SIZE).expect("sized");
        memory.write_all_at(b"touched", 9000).expect("written");
        fs::write(from.join("state"), "state").expect("written");
        let places = vec![Place {
            destination: "/".into(),
            name: "0".to_owned(),
            folder: true,
        }];
        seal(&from, "c", places.clone(), &recipe()).expect("sealed");
        assert!(!from.join(MEMORY).exists());
        let packed = from.join(PACKED).metadata().expect("there").len();
        assert!(packed < SIZE / 100, "{packed}");

        let open = || Checkpoint::unpack(&from, folder.join("to"));
        let found = open().expect("whole");
        assert_eq!(found.record.guest_id, "c");
        assert_eq!(found.record.places, places);
        let machine = found.machine(&recipe()).expect("fits");
        let memory = machine.directory.join(MEMORY);
        let metadata = memory.metadata().expect("there");
        assert_eq!(metadata.len(), SIZE);
        assert!(metadata.blocks() * 512 < SIZE / 100);
        let bytes = fs::read(&memory).expect("read");
        assert_eq!(&bytes[9000..9007], b"touched");
        let mut other = recipe();
        other.add("kernel", "another");
        let error = found.machine(&other).expect_err("another kernel");
        assert!(error.to_string().contains("kernel changed"), "{error}");
        drop(found);
        assert!(!folder.join("to").exists());

        fs::write(from.join("state"), "State").expect("written");
        let error = open().expect_err("tampered with").to_string();
        assert!(error.contains("state has another checksum"), "{error}");
        assert!(!folder.join("to").exists(), "nothing is left");
        fs::remove_file(from.join("state")).expect("removed");
        std::os::unix::fs::symlink("/dev/zero", from.join("state")).expect("a link");
        assert!(open().is_err());
        let text = fs::read_to_string(from.join(RECORD)).expect("read");
        for (is, other) in [
            ("\"state\"", "\"../state\""),
            ("\"format\": 2", "\"format\": 3"),
        ] {
            fs::write(from.join(RECORD), text.replace(is, other)).expect("written");
            assert!(open().is_err(), "{other}");
        }
        fs::write(from.join(RECORD), "{}").expect("written");
        assert!(open().is_err());
    }
}
