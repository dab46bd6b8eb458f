//! What a registry's client needs of http, and nothing of registries' ways.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::error::printable;

/// Without an answer for so long, a connection counts as lost.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 10;

/// A client for one registry, which `is_local` says is on this host.
pub(super) fn http_client(is_local: bool) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder();
    if is_local {
        // A proxy would look for the registry on its own host.
        builder = builder.no_proxy();
    }
    builder
        .user_agent(concat!("caisson/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(reqwest::redirect::Policy::custom(|attempt| {
            let from_https = attempt
                .previous()
                .last()
                .is_some_and(|previous| previous.scheme() == "https");
            if from_https && attempt.url().scheme() != "https" {
                attempt.error("a redirection from https to http")
            } else if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirections")
            } else {
                attempt.follow()
            }
        }))
        .build()
}

/// Whether a registry is on this host: `localhost`, 127.0.0.0/8 or `[::1]`.
pub(super) fn is_local(registry: &str) -> bool {
    if let Some(rest) = registry.strip_prefix('[') {
        return rest
            .split(']')
            .next()
            .and_then(|address| address.parse::<Ipv6Addr>().ok())
            .is_some_and(|address| address.is_loopback());
    }
    let host = registry.split(':').next().unwrap_or(registry);
    host == "localhost"
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Seconds that a registry asks to wait (RFC 9110, 10.2.3; dates are not used
/// by registries).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// The message of a registry's error, fit to be shown on a terminal.
pub(super) fn message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let errors: Errors = serde_json::from_slice(body).ok()?;
    let first = errors.errors.into_iter().next()?;
    let text = match (first.message.is_empty(), first.code.is_empty()) {
        (false, _) => first.message,
        (true, false) => first.code,
        (true, true) => return None,
    };
    Some(printable(&text))
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_which_registries_are_local() {
        for registry in [
            "localhost",
            "localhost:5000",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:5000",
        ] {
            assert!(is_local(registry), "{registry}");
        }
        for registry in [
            "docker.io",
            "localhost.evil.io",
            "128.0.0.1",
            "[::2]:1",
            "127.0.0.1.io",
        ] {
            assert!(!is_local(registry), "{registry}");
        }
    }

    #[test]
    fn messages_are_fit_for_a_terminal() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no \u001b[31mentry"}]}"#;
        assert_eq!(message(body).unwrap(), "no [31mentry");
        assert_eq!(
            message(br#"{"errors":[{"code":"DENIED"}]}"#).unwrap(),
            "DENIED"
        );
        assert_eq!(message(b"<html>"), None);
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(9999));
        assert_eq!(message(long.as_bytes()).unwrap().len(), 300);
    }
}
