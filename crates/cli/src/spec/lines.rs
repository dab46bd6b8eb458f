//! Files with one entry a line: `--env-file` and `--label-file`.

use std::path::Path;

use super::{Error, Result};

/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// The lines that are neither empty nor comments, with their numbers.
pub(super) fn read(flag: &'static str, file: &Path) -> Result<Vec<(usize, String)>> {
    let failed = |source| Error::File {
        flag,
        file: file.to_owned(),
        source,
    };
    let mut text = String::new();
    let mut reader = std::io::Read::take(std::fs::File::open(file).map_err(failed)?, LIMIT + 1);
    std::io::Read::read_to_string(&mut reader, &mut text).map_err(failed)?;
    if text.len() as u64 > LIMIT {
        let reason = format!("it is longer than {LIMIT} bytes");
        return Err(Error::Flag {
            flag,
            value: file.display().to_string(),
            reason,
        });
    }
    Ok(split(&text))
}

fn split(text: &str) -> Vec<(usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    (1..)
        .zip(text.lines())
        .map(|(number, line)| (number, line.trim_start()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| (number, line.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn comments_and_empty_lines_are_left_out() {
        let lines = split("\u{feff}A=1\r\n# no\n\n  B= 2 # kept\n");
        assert_eq!(
            lines,
            [(1, "A=1".to_owned()), (4, "B= 2 # kept".to_owned())]
        );
    }
}
