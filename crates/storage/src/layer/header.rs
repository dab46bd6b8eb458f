//! Headers of tar archives: POSIX 1003.1, pax, "ustar Interchange Format", and what
//! GNU and star made of it.

use super::Refusal;

pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

/// Who wrote a header, as far as its fields depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Old,
    Ustar,
    Star,
    Gnu,
}

impl<'a> Header<'a> {
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, Refusal> {
        // The sum of all bytes, those of the sum itself taken as spaces. Old
        // programs added signed characters.
        let around = || block[..148].iter().chain(&block[156..]);
        let spaces = 8 * i64::from(b' ');
        let unsigned: i64 = spaces + around().map(|byte| i64::from(*byte)).sum::<i64>();
        let signed: i64 = spaces + around().map(|byte| i64::from(*byte as i8)).sum::<i64>();
        match number(&block[148..156]) {
            Some(sum) if sum == unsigned || sum == signed => Ok(Self(block)),
            _ => Err("there is no tar header, or it is damaged"),
        }
    }

    /// What the entry is.
    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let prefix = match self.format() {
            Format::Ustar => text(&self.0[345..500]),
            Format::Star => text(&self.0[345..476]),
            Format::Old | Format::Gnu => &[],
        };
        let name = text(&self.0[..100]);
        match prefix {
            [] => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn permissions(&self) -> Result<u16, Refusal> {
        let mode = number(&self.0[100..108]).ok_or("its mode is no number")?;
        Ok((mode & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Result<i64, Refusal> {
        number(&self.0[108..116]).ok_or("its user ID is no number")
    }

    pub(super) fn gid(&self) -> Result<i64, Refusal> {
        number(&self.0[116..124]).ok_or("its group ID is no number")
    }

    pub(super) fn size(&self) -> Result<u64, Refusal> {
        size(&self.0[124..136])
    }

    pub(super) fn modified(&self) -> Result<i64, Refusal> {
        number(&self.0[136..148]).ok_or("its time is no number")
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Result<(i64, i64), Refusal> {
        if self.format() == Format::Old {
            return Ok((0, 0));
        }
        number(&self.0[329..337])
            .zip(number(&self.0[337..345]))
            .ok_or("its device number is no number")
    }

    /// The first four segments of a sparse file in GNU's old format.
    pub(super) fn sparse_segments(&self) -> &'a [u8] {
        &self.0[386..482]
    }

    /// Whether blocks with more segments follow.
    pub(super) fn has_more_segments(&self) -> bool {
        self.0[482] != 0
    }

    /// Size of such a file with its holes.
    pub(super) fn sparse_size(&self) -> Result<u64, Refusal> {
        size(&self.0[483..495])
    }

    fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, ..] if self.0[508..] == *b"tar\0" => Format::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
            _ => Format::Old,
        }
    }
}

/// A size or an offset.
pub(super) fn size(field: &[u8]) -> Result<u64, Refusal> {
    number(field)
        .and_then(|number| u64::try_from(number).ok())
        .ok_or("its size is no number")
}

/// What is before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or the bytes of a number if the first has its highest bit set.
/// Nothing at all is 0.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement, of which the second highest bit of the field is the sign.
        let high = i64::from(first & 0x7f);
        let start = if high & 0x40 == 0 { high } else { high - 0x80 };
        return rest.iter().try_fold(start, |number, byte| {
            Some(number.checked_mul(256)? | i64::from(*byte))
        });
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_i64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"12345678"), None);
        assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(
            number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            Some(-2)
        );
        let mut large = [0; 12];
        large[0] = 0x80;
        large[4..].copy_from_slice(&i64::MAX.to_be_bytes());
        assert_eq!(number(&large), Some(i64::MAX));
        large[3] = 1;
        assert_eq!(number(&large), None);
    }

    #[test]
    fn reads_what_another_program_wrote() {
        let mut theirs = tar::Header::new_ustar();
        theirs
            .set_path(format!("{}/{}", "d".repeat(90), "f".repeat(90)))
            .unwrap();
        theirs.set_mode(0o4755);
        theirs.set_uid(1000);
        theirs.set_gid(5);
        theirs.set_mtime(1_700_000_000);
        theirs.set_size(77);
        theirs.set_device_major(1).unwrap();
        theirs.set_device_minor(3).unwrap();
        theirs.set_cksum();
        let mut bytes = *theirs.as_bytes();
        let ours = Header::parse(&bytes).unwrap();
        assert_eq!(ours.path(), theirs.path_bytes().into_owned());
        assert_eq!(ours.permissions(), Ok(0o4755));
        assert_eq!((ours.uid(), ours.gid()), (Ok(1000), Ok(5)));
        assert_eq!((ours.size(), ours.modified()), (Ok(77), Ok(1_700_000_000)));
        assert_eq!(ours.device(), Ok((1, 3)));
        bytes[0] ^= 1;
        assert!(Header::parse(&bytes).is_err());
    }
}
