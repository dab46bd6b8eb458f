//! What an engine can name as a stream: a path, or `fifo://`, `file://`, `binary://`.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// Where an output goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// Nobody wants it.
    Nothing,
    /// A FIFO.
    Fifo(PathBuf),
    /// A file, to which both outputs are appended.
    File(PathBuf),
    /// A program that is given both outputs.
    Program(Program),
}

/// A logging program and its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Key and value of each parameter of the URI.
    pub arguments: Vec<String>,
}

impl Target {
    /// Reads a path or URI.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::Nothing);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Fifo(text.into()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(decode(path)?);
        if !path.is_absolute() {
            return Err(Error::Invalid(format!("{text}: expected an absolute path")));
        }
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" => Ok(Self::Program(Program {
                path,
                arguments: arguments(query)?,
            })),
            _ => Err(Error::Invalid(format!(
                "{text}: a stream can be fifo, file or binary, not {scheme}"
            ))),
        }
    }
}

fn arguments(query: &str) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        arguments.push(decode(&key.replace('+', " "))?);
        arguments.push(decode(&value.replace('+', " "))?);
    }
    Ok(arguments)
}

/// Takes percent signs away (RFC 3986, 2.1).
fn decode(text: &str) -> Result<String> {
    let wrong = || Error::Invalid(format!("{text}: not a URI"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = rest.next().and_then(|digit| char::from(digit).to_digit(16));
            digit
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or_else(wrong)
        };
        bytes.push(digit()? << 4 | digit()?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_paths_or_uris() {
        let parse = |text| Target::parse(text).expect(text);
        assert_eq!(parse(""), Target::Nothing);
        assert_eq!(parse("/run/f"), Target::Fifo("/run/f".into()));
        assert_eq!(parse("fifo:///run/f"), Target::Fifo("/run/f".into()));
        assert_eq!(parse("file:///a%20b"), Target::File("/a b".into()));
        assert_eq!(
            parse("binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib&x"),
            Target::Program(Program {
                path: "/usr/bin/nerdctl".into(),
                arguments: ["_NERDCTL_INTERNAL_LOGGING", "/var/lib", "x", ""]
                    .map(str::to_owned)
                    .into(),
            })
        );
        for text in [
            "npipe:///x",
            "file://x",
            "file:///%",
            "file:///%zz",
            "file:///%ff",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
