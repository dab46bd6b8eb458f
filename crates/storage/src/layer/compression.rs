//! What a layer is compressed with.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Compressed bytes read at once.
const BUFFER: usize = 256 << 10;
/// Longest of the marks below.
const MARK: usize = 6;

/// The content of a stream, whatever it is compressed with. Its first bytes tell:
/// the media types of registries are wrong too often.
pub(super) fn decompress<'a>(mut layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::with_capacity(MARK);
    (&mut layer).take(MARK as u64).read_to_end(&mut start)?;
    let refuse = |what| {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "it is compressed with {what}, which layers of images never are: gzip and zstd are known"
            ),
        ))
    };
    let kind = Kind::of(&start);
    let layer = BufReader::with_capacity(BUFFER, io::Cursor::new(start).chain(layer));
    match kind {
        Kind::Gzip => Ok(Box::new(MultiGzDecoder::new(layer))),
        Kind::Zstd => zstd(layer),
        Kind::Bzip2 => refuse("bzip2"),
        Kind::Xz => refuse("xz"),
        Kind::Plain => Ok(Box::new(layer)),
    }
}

/// All frames of a stream. The window is at most 128 MiB, zstd's own default.
fn zstd<'a>(layer: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(Box::new(zstd::stream::read::Decoder::with_buffer(layer)?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Kind {
    fn of(start: &[u8]) -> Self {
        match start {
            // RFC 1952, 2.3.1.
            [0x1f, 0x8b, ..] => Self::Gzip,
            // RFC 8878, 3.1: a frame, or one to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Xz,
            _ => Self::Plain,
        }
    }
}
