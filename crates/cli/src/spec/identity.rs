//! Names: of the container, of its host, of its user.

/// Longest host name that a kernel takes (`HOST_NAME_MAX`).
const HOST_NAME_MAX: usize = 64;

/// Checks the name of a container or volume.
pub fn container_name(text: &str) -> Result<String, String> {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = characters.as_str();
    if first
        && !rest.is_empty()
        && rest
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    {
        return Ok(text.to_owned());
    }
    Err("expected a letter or digit, then one or more letters, digits, `_`, `.` or `-`".to_owned())
}

/// Checks a host name.
pub fn host_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if text.len() <= HOST_NAME_MAX && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a host name: letters, digits and hyphens, at most {HOST_NAME_MAX} in all"
    ))
}

/// Reads `NAME:ADDRESS` or `NAME=ADDRESS` into a line of `/etc/hosts`.
pub fn host_line(text: &str) -> Result<String, String> {
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or("expected NAME:ADDRESS, such as db:10.0.0.2")?;
    if address == "host-gateway" {
        return Err(
            "a container cannot reach the host's loopback; name an address of the host".to_owned(),
        );
    }
    let name = host_name(name)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(format!("{address}\t{name}")),
        Err(_) => Err(format!("{address} is not an IP address")),
    }
}

/// Checks the form of `USER[:GROUP]`; who that is, only the image knows.
pub fn user(text: &str) -> Result<String, String> {
    let mut parts = text.split(':');
    let (user, group, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let word =
        |word: &str| !word.is_empty() && !word.chars().any(|c| c.is_control() || c.is_whitespace());
    if word(user) && group.is_none_or(word) && more.is_none() {
        return Ok(text.to_owned());
    }
    Err("expected USER or USER:GROUP, each a name or a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_names() {
        for good in ["web", "a1", "db_1.x-y"] {
            assert!(container_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "_a", "a b", "a/b", "ä1", "../x"] {
            assert!(container_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_names() {
        for good in ["a", "web-1.example.org", "A_b"] {
            assert!(host_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a b", "a\nb", &"x".repeat(65)] {
            assert!(host_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_lines() {
        for (text, line) in [
            ("db:10.0.0.2", "10.0.0.2\tdb"),
            ("db=10.0.0.2", "10.0.0.2\tdb"),
            ("db:::1", "::1\tdb"),
            ("db=[fe80::1]", "fe80::1\tdb"),
        ] {
            assert_eq!(host_line(text).as_deref(), Ok(line), "{text}");
        }
        for bad in [
            "db",
            "db:",
            "db:x",
            ":1.2.3.4",
            "db:host-gateway",
            "a\tb:1.2.3.4",
        ] {
            assert!(host_line(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn users() {
        for good in ["root", "1000", "1000:1000", "www-data:adm"] {
            assert!(user(good).is_ok(), "{good}");
        }
        for bad in ["", ":", "a:", ":b", "a:b:c", "a b"] {
            assert!(user(bad).is_err(), "{bad}");
        }
    }
}
