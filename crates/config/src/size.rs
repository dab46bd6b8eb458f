//! Sizes as people write them.

const UNITS: [(&str, u32); 5] = [("k", 10), ("m", 20), ("g", 30), ("t", 40), ("p", 50)];

/// Reads a size in bytes: `512m`, `1.5g`, `64MiB`, `4096`. As with Docker, units
/// are powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let expected = || "expected a size in bytes, or with a unit: 512m, 1.5g".to_owned();
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        unit => {
            let letter = unit
                .strip_suffix("ib")
                .or_else(|| unit.strip_suffix('b'))
                .unwrap_or(unit);
            UNITS
                .iter()
                .find(|(name, _)| *name == letter)
                .map(|(_, shift)| *shift)
                .ok_or_else(expected)?
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let unit = 1_u64 << shift;
    let whole = whole.parse::<u64>().map_err(|_| expected())?;
    let fraction: f64 = format!("0.{fraction}").parse().map_err(|_| expected())?;
    // Less than one unit, so that the conversion is exact enough for any of them.
    let part = (fraction * unit as f64) as u64;
    whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(|| "it is too large".to_owned())
}

/// The shortest exact way to write a size that [`parse`] reads.
pub fn show(bytes: u64) -> String {
    let exact = UNITS
        .iter()
        .rev()
        .find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    match exact {
        Some((unit, shift)) => format!("{}{}iB", bytes >> shift, unit.to_ascii_uppercase()),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("12b", 12),
            ("1k", 1024),
            ("64MB", 64 << 20),
            ("512MiB", 512 << 20),
            ("1.5g", 3 << 29),
            ("2 g", 2 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_words_are_no_sizes() {
        for text in [
            "",
            "m",
            "-1",
            "1x",
            "1.2.3m",
            "1mm",
            "ten",
            ".",
            "99999999p",
            "1e3",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (512 << 20, "512MiB"),
            (10 << 30, "10GiB"),
            (3 << 29, "1536MiB"),
        ] {
            assert_eq!(show(bytes), text);
            assert_eq!(parse(text), Ok(bytes));
        }
    }
}
