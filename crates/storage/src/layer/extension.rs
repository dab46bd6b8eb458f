//! What the headers before an entry say about it: GNU's long names and PAX records
//! (POSIX 1003.1, pax, "pax Extended Header").

use std::collections::BTreeMap;

use super::Refusal;
use super::sparse::{Segments, decimal};
use crate::erofs::{Timestamp, XattrKey};

const DAMAGED: Refusal = "its PAX header is damaged";

/// The records of one PAX header.
#[derive(Debug, Default)]
pub(super) struct Extension {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub modified: Option<Timestamp>,
    pub xattrs: BTreeMap<XattrKey, Vec<u8>>,
    pub sparse: Sparse,
}

/// `GNU.sparse.*`.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub version: (u64, u64),
    /// Size of the file with its holes.
    pub size: Option<u64>,
    /// What the formats 0.0 and 0.1 have in the header.
    pub segments: Option<Segments>,
    offset: Option<u64>,
}

impl Extension {
    pub(super) fn parse(content: &[u8]) -> Result<Self, Refusal> {
        let mut extension = Self::default();
        let mut left = content;
        while !left.is_empty() {
            let (record, rest) = split_record(left)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or(DAMAGED)?;
            extension.take(&record[..equals], &record[equals + 1..])?;
            left = rest;
        }
        Ok(extension)
    }

    /// libarchive writes attributes in a form of its own as well, but this one always.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if let Some(key) = xattr_key(name)? {
                self.xattrs.insert(key, value.to_vec());
            }
            return Ok(());
        }
        // An empty value takes a record back.
        if value.is_empty() {
            return Ok(());
        }
        let number = || decimal(value).ok_or(DAMAGED);
        match key {
            // The name of a sparse file is a made-up one, for programs that do not
            // know the format, if this record follows.
            b"path" if self.sparse.segments.is_none() && self.sparse.version == (0, 0) => {
                self.path = Some(value.to_vec());
            }
            b"GNU.sparse.name" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.modified = Some(timestamp(value).ok_or("its time is no number")?),
            b"GNU.sparse.major" => self.sparse.version.0 = number()?,
            b"GNU.sparse.minor" => self.sparse.version.1 = number()?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(number()?),
            b"GNU.sparse.map" => self.sparse.segments = Some(Segments::parse_list(value)?),
            b"GNU.sparse.numblocks" => {
                self.sparse.segments.get_or_insert_default();
            }
            b"GNU.sparse.offset" => self.sparse.offset = Some(number()?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or(DAMAGED)?;
                let segments = self.sparse.segments.get_or_insert_default();
                segments.push(offset, number()?)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// One record without its length and line end, and what follows it. The length counts
/// all of the record, itself too.
fn split_record(content: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let space = content
        .iter()
        .take(20)
        .position(|byte| *byte == b' ')
        .ok_or(DAMAGED)?;
    let length = decimal(&content[..space])
        .and_then(|length| usize::try_from(length).ok())
        .filter(|length| (space + 2..=content.len()).contains(length))
        .ok_or(DAMAGED)?;
    let (record, rest) = content.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n").ok_or(DAMAGED)?;
    Ok((record, rest))
}

/// The attribute with this name, None for one that the disk does not get: those of
/// overlayfs, by which an image could make the guest's overlay show what is not
/// there, and those that EROFS has no place for.
fn xattr_key(name: &[u8]) -> Result<Option<XattrKey>, Refusal> {
    if name.contains(&0) {
        return Err("it has an extended attribute with a NUL in its name");
    }
    let is_overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    Ok(match is_overlay {
        true => None,
        false => XattrKey::parse(name),
    })
}

/// Seconds with a fraction, before 1970 if negative.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let point = text
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let mut nanoseconds = 0;
    let mut unit = 100_000_000;
    for digit in text.iter().skip(point + 1) {
        if !digit.is_ascii_digit() {
            return None;
        }
        nanoseconds += u32::from(digit - b'0') * unit;
        unit /= 10;
    }
    Some(match (is_negative, nanoseconds) {
        (false, nanoseconds) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds,
        },
        (true, nanoseconds) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        let time =
            |text: &str| timestamp(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.0000000019"), Some((12, 1)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-3"), Some((-3, 0)));
        for bad in ["", "-", ".5", "1.x", "1e3", "99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn records_may_have_line_ends_in_them() {
        let content = b"30 SCHILY.xattr.user.a=b\nc=\0d\n16 linkpath=a=b\n";
        let extension = Extension::parse(content).unwrap();
        let key = XattrKey::parse(b"user.a").unwrap();
        assert_eq!(extension.xattrs[&key], b"b\nc=\0d");
        assert_eq!(extension.link.unwrap(), b"a=b");
    }

    #[test]
    fn keeps_only_attributes_that_do_no_harm() {
        let content = b"25 SCHILY.xattr.user.a=x\n36 SCHILY.xattr.trusted.overlay.a=x\n\
            33 SCHILY.xattr.user.overlay.a=x\n26 SCHILY.xattr.btrfs.a=x\n24 SCHILY.xattr.user.=x\n";
        let extension = Extension::parse(content).unwrap();
        let key = XattrKey::parse(b"user.a").unwrap();
        assert_eq!(extension.xattrs, BTreeMap::from([(key, b"x".to_vec())]));
    }

    #[test]
    fn refuses_damaged_records() {
        for bad in [
            "x", "5 a=b", "6 a=b", "7 ab\n", "99 a=b\n", "3 \n", "0 a=b\n", "6 a=b\nx",
        ] {
            assert!(Extension::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
