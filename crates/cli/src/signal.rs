//! Names of signals.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// A signal by name, with or without `SIG`, or by number.
pub fn parse(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err("a signal's number is 1 to 64".to_owned())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        return real_time(34, offset);
    }
    if let Some(offset) = name.strip_prefix("SIGRTMAX") {
        return real_time(64, offset);
    }
    Signal::from_str(&name)
        .map(|signal| signal as i32)
        .map_err(|_| format!("{text} is not the name of a signal"))
}

/// The name of a signal; its number, if it is a real-time one.
pub fn name(number: i32) -> String {
    Signal::try_from(number)
        .map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

fn real_time(base: i32, offset: &str) -> Result<i32, String> {
    let offset = if offset.is_empty() {
        Ok(0)
    } else {
        offset.parse::<i32>()
    };
    match offset.map(|offset| base + offset) {
        Ok(number @ 34..=64) => Ok(number),
        _ => Err("real-time signals are SIGRTMIN to SIGRTMAX".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{name, parse};

    #[test]
    fn what_is_shown_can_be_read() {
        for number in 1..=64 {
            assert_eq!(parse(&name(number)), Ok(number));
        }
        assert_eq!(name(15), "SIGTERM");
    }

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("10", 10),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["0", "65", "NOPE", "SIGRTMIN-1", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
