//! Which image a user means.

use super::index::{Index, Names};
use crate::{Error, Reference, Result};

/// Shortest part of an image ID that stands for the whole.
const MIN_ID_PREFIX: usize = 2;

/// An image found by a name.
pub(super) struct Found<'a> {
    pub(super) id: &'a str,
    pub(super) names: &'a Names,
    /// The complete name, if it was found by a name and not by its ID.
    pub(super) reference: Option<String>,
}

/// Names go before IDs, as with Docker: `cafe` may be both.
pub(super) fn find<'a>(index: &'a Index, name: &str) -> Result<Option<Found<'a>>> {
    if let Ok(reference) = Reference::parse(name) {
        // With a digest, the tag says nothing.
        let text = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()).to_string(),
            None => reference.to_string(),
        };
        for (id, names) in &index.images {
            if names.references.contains(&text) || names.digests.contains(&text) {
                return Ok(Some(Found {
                    id,
                    names,
                    reference: Some(text),
                }));
            }
        }
    }
    let Some(prefix) = id_prefix(name) else {
        return Ok(None);
    };
    let mut matches = index.images.iter().filter(|(id, _)| {
        id.strip_prefix("sha256:")
            .is_some_and(|hex| hex.starts_with(prefix))
    });
    match (matches.next(), matches.next()) {
        (None, _) => Ok(None),
        (Some((id, names)), None) => Ok(Some(Found {
            id,
            names,
            reference: None,
        })),
        (Some(_), Some(_)) => Err(Error::AmbiguousId(name.to_owned())),
    }
}

fn id_prefix(name: &str) -> Option<&str> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    ((MIN_ID_PREFIX..=64).contains(&hex.len()) && hex.bytes().all(is_hex)).then_some(hex)
}

/// Whether `reference` is the last tag and the digests are only those it was
/// pulled by: they go with it, as with Docker.
pub(super) fn only_name_but_for_digests(names: &Names, reference: &str) -> bool {
    names.references.len() == 1
        && names.references.contains(reference)
        && names.digests.iter().all(|digest| {
            match (Reference::parse(digest), Reference::parse(reference)) {
                (Ok(digest), Ok(reference)) => digest.name() == reference.name(),
                _ => false,
            }
        })
}
