//! What a blob is named by: the SHA-256 of its bytes.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

const PREFIX: &str = "sha256:";
/// Digits of a SHA-256.
const HEX_LENGTH: usize = 64;

/// A digest as the OCI image specification writes it: `sha256:` and 64 lower-case
/// hexadecimal digits.
///
/// SHA-512, which the specification allows beside it, is refused: no registry
/// serves it. A value of this type is safe as a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Reads `sha256:<hex>`.
    pub fn parse(text: &str) -> Result<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix(PREFIX) {
            Some(hex) if hex.len() == HEX_LENGTH && hex.bytes().all(is_digit) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(Error::Digest(text.chars().take(100).collect())),
        }
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(Sha256::new_with_prefix(bytes))
    }

    /// The digest of what a hash was fed.
    pub(crate) fn of_hash(hash: Sha256) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(PREFIX.len() + HEX_LENGTH);
        text.push_str(PREFIX);
        for byte in hash.finalize() {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The 64 digits, without what names the algorithm.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Passes a stream on and fails at its end if it was not the one expected.
///
/// What was read before the end is not verified: whoever acts on it must be able
/// to undo that.
#[derive(Debug)]
pub(crate) struct VerifyingReader<R> {
    reader: R,
    hash: Sha256,
    expected: Digest,
}

impl<R> VerifyingReader<R> {
    pub(crate) fn new(reader: R, expected: Digest) -> Self {
        Self {
            reader,
            hash: Sha256::new(),
            expected,
        }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hash.update(&buffer[..count]);
        // A reader that was asked for nothing is not at its end.
        if count == 0 && !buffer.is_empty() {
            let actual = Digest::of_hash(self.hash.clone());
            if actual != self.expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "its digest is {actual}, not {}: it was changed",
                        self.expected
                    ),
                ));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, B.1.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn is_the_sha256() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(digest.hex(), &ABC[7..]);
        assert_eq!(Digest::parse(ABC).unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("{ABC:?}"));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"sha256:x\"").is_err());
    }

    #[test]
    fn refuses_what_is_no_digest() {
        for text in [
            String::new(),
            ABC[7..].to_owned(),
            ABC.to_uppercase(),
            format!("{ABC}0"),
            ABC[..70].to_owned(),
            ABC.replace("ba78", "../x"),
            format!("sha512:{}", "0".repeat(128)),
            format!("sha256:{}", "ä".repeat(32)),
        ] {
            assert!(Digest::parse(&text).is_err(), "{text}");
        }
        let long = Digest::parse(&"x".repeat(1 << 20)).unwrap_err();
        assert!(long.to_string().len() < 300);
    }

    #[test]
    fn verifies_at_the_end() {
        let mut text = String::new();
        VerifyingReader::new(&b"abc"[..], Digest::of(b"abc"))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "abc");

        let mut reader = VerifyingReader::new(&b"abd"[..], Digest::of(b"abc"));
        assert_eq!(reader.read(&mut []).unwrap(), 0);
        let mut buffer = [0; 8];
        assert_eq!(reader.read(&mut buffer).unwrap(), 3);
        for _ in 0..2 {
            let error = reader.read(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let said = error.to_string();
            assert!(
                said.contains(ABC) && said.contains(Digest::of(b"abd").hex()),
                "{said}"
            );
        }
    }
}
