//! From a stream or a compressed file to a plain file that can be read at random.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::tar::rewind;
use crate::error::IoContext;
use crate::{Error, Result};

/// Largest archive after decompression, in bytes. Disks are smaller as a rule;
/// this ends a bomb on those that are not.
const MAX_ARCHIVE: u64 = 1 << 40;
const MAGIC_LENGTH: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(magic: &[u8], name: &str) -> Result<Self> {
        let unsupported = |program: &str| Error::Archive {
            archive: name.to_owned(),
            object: "the archive".to_owned(),
            reason: format!("it is compressed with {program}: decompress it first ({program} -d)"),
        };
        match magic {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(unsupported("xz")),
            _ => Ok(Self::None),
        }
    }
}

/// The file itself if it is not compressed, else its content in a file that has
/// no name any more.
pub(super) fn plain_file(mut file: File, name: &str, staging: &Path) -> Result<File> {
    let magic = read_magic(&mut file, name)?;
    rewind(&mut file, name)?;
    match Compression::of(&magic, name)? {
        Compression::None => Ok(file),
        compression => spool(file, compression, name, staging),
    }
}

/// The content of a stream in a file that has no name any more.
pub(super) fn plain_stream(mut stream: impl Read, name: &str, staging: &Path) -> Result<File> {
    let magic = read_magic(&mut stream, name)?;
    let compression = Compression::of(&magic, name)?;
    spool(magic.as_slice().chain(stream), compression, name, staging)
}

fn read_magic(stream: &mut impl Read, name: &str) -> Result<Vec<u8>> {
    let mut magic = Vec::new();
    stream
        .take(MAGIC_LENGTH as u64)
        .read_to_end(&mut magic)
        .context("read", Path::new(name))?;
    if magic.is_empty() {
        return Err(Error::Archive {
            archive: name.to_owned(),
            object: "the archive".to_owned(),
            reason: "it is empty".to_owned(),
        });
    }
    Ok(magic)
}

fn spool(stream: impl Read, compression: Compression, name: &str, staging: &Path) -> Result<File> {
    let stream = BufReader::with_capacity(1 << 17, stream);
    let mut file = tempfile::tempfile_in(staging).context("create a file in", staging)?;
    let copied = match compression {
        Compression::None => copy(stream, &mut file),
        Compression::Gzip => copy(MultiGzDecoder::new(stream), &mut file),
        Compression::Zstd => {
            zstd::Decoder::with_buffer(stream).and_then(|decoder| copy(decoder, &mut file))
        }
    };
    if copied.context("read or decompress", Path::new(name))? > MAX_ARCHIVE {
        return Err(Error::Archive {
            archive: name.to_owned(),
            object: "the archive".to_owned(),
            reason: "it has more than 1 TiB".to_owned(),
        });
    }
    Ok(file)
}

fn copy(stream: impl Read, file: &mut File) -> std::io::Result<u64> {
    std::io::copy(&mut stream.take(MAX_ARCHIVE + 1), file)
}
