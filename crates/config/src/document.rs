//! A configuration file, read with the places of its parts.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{KEYS, Key, Value};
use super::{Error, Result};

/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// A file whose keys are all known.
pub struct Document {
    /// The file.
    pub file: PathBuf,
    text: String,
    /// What it sets.
    pub entries: Vec<Entry>,
}

/// One line of it.
pub struct Entry {
    /// What is set.
    pub key: &'static Key,
    /// Where that stands, as a byte of the file.
    pub key_at: usize,
    /// To what.
    pub value: Value,
    /// Where that stands.
    pub value_at: usize,
}

impl Document {
    /// Reads a file. None if it does not exist.
    pub fn read(file: &Path) -> Result<Option<Self>> {
        let failed = |source| Error::Read {
            file: file.to_owned(),
            source,
        };
        let opened = match std::fs::File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        opened
            .take(LIMIT + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > LIMIT {
            return Err(failed(std::io::Error::other(format!(
                "it is longer than {LIMIT} bytes"
            ))));
        }
        Self::parse(file, text).map(Some)
    }

    /// Reads the text of a file.
    pub fn parse(file: &Path, text: String) -> Result<Self> {
        let mut document = Self {
            file: file.to_owned(),
            text,
            entries: Vec::new(),
        };
        let mut entries = Vec::new();
        let table = DeTable::parse(&document.text).map_err(|error| {
            let at = error.span().unwrap_or(Range::default()).start;
            document.mistake(at, error.message().to_owned())
        })?;
        for (name, value) in table.into_inner() {
            entries.push(document.entry(&name, value)?);
        }
        // In the order of the file, so that the first mistake is the one that is named.
        entries.sort_by_key(|entry| entry.key_at);
        document.entries = entries;
        Ok(document)
    }

    fn entry(
        &self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: Spanned<DeValue<'_>>,
    ) -> Result<Entry> {
        let (key_at, value_at) = (name.span().start, value.span().start);
        let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref()) else {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            let reason = format!(
                "there is no key {:?}; there are: {}",
                name.get_ref(),
                known.join(", ")
            );
            return Err(self.mistake(key_at, reason));
        };
        let value = plain(value.into_inner()).map_err(|found| {
            let reason = format!("{} cannot be {found}", key.name);
            self.mistake(value_at, reason)
        })?;
        Ok(Entry {
            key,
            key_at,
            value,
            value_at,
        })
    }

    /// An error about what stands at a byte of the file.
    pub fn mistake(&self, at: usize, reason: String) -> Error {
        let (line, column) = self.position(at);
        Error::Place {
            file: self.file.clone(),
            line,
            column,
            reason,
        }
    }

    /// Line and column of a byte, both from 1.
    pub fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// The value, or the name of what it is instead.
fn plain(value: DeValue<'_>) -> std::result::Result<Value, &'static str> {
    match value {
        DeValue::String(text) => Ok(Value::Text(text.into_owned())),
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Number)
            .map_err(|_| "so large or negative"),
        DeValue::Array(items) => items
            .into_iter()
            .map(|item| match item.into_inner() {
                DeValue::String(text) => Ok(text.into_owned()),
                _ => Err("a list of anything but strings"),
            })
            .collect::<std::result::Result<_, _>>()
            .map(Value::List),
        DeValue::Float(_) => Err("a number with a fraction"),
        DeValue::Boolean(_) => Err("true or false"),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Table(_) => Err("a table"),
    }
}
