//! Labels of a container.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Error, Result, lines};
use crate::flags::CreateFlags;

/// Reads `NAME=VALUE`, or `NAME` for an empty value.
pub fn parse(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("expected NAME or NAME=VALUE, the name without spaces".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// The image's labels, those of files over them, those of flags over both.
pub(super) fn merge(
    image: &BTreeMap<String, String>,
    flags: &CreateFlags,
) -> Result<BTreeMap<String, String>> {
    let mut labels = image.clone();
    for file in &flags.label_file {
        labels.extend(read(file)?);
    }
    labels.extend(flags.label.iter().cloned());
    Ok(labels)
}

fn read(file: &Path) -> Result<Vec<(String, String)>> {
    lines::read("--label-file", file)?
        .into_iter()
        .map(|(number, line)| {
            parse(&line).map_err(|reason| Error::Line {
                flag: "--label-file",
                file: file.to_owned(),
                number,
                reason,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn labels_have_a_name() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(parse("a=b=c"), pair("a", "b=c"));
        assert_eq!(parse("a"), pair("a", ""));
        assert_eq!(parse("a="), pair("a", ""));
        assert!(parse("=b").is_err());
        assert!(parse("").is_err());
        assert!(parse("a b=c").is_err());
    }
}
