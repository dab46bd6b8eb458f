//! Environment variables of a process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Error, Result, lines};

/// Where programs are looked for if the image does not say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Terminal type of Docker's choice.
pub(super) const DEFAULT_TERM: &str = "TERM=xterm";

/// Checks `NAME=VALUE` or `NAME`.
pub fn variable(text: &str) -> std::result::Result<String, String> {
    if name(text).is_empty() {
        return Err("expected NAME=VALUE, or NAME to take its value from here".to_owned());
    }
    Ok(text.to_owned())
}

fn name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

/// A way to read variables of our own environment.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Our own environment. A value that is not UTF-8 cannot be written down.
pub(super) fn ours(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What files and flags ask for, files first. A name without a value that is not
/// set here stays a bare name when it comes from a flag: it removes the image's.
pub(super) fn requested(
    files: &[PathBuf],
    flags: &[String],
    lookup: Lookup<'_>,
) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for file in files {
        read(file, lookup, &mut variables)?;
    }
    let known = |variable: &String| match variable.contains('=') {
        true => variable.clone(),
        false => lookup(variable).map_or(variable.clone(), |value| format!("{variable}={value}")),
    };
    variables.extend(flags.iter().map(known));
    Ok(variables)
}

fn read(file: &Path, lookup: Lookup<'_>, variables: &mut Vec<String>) -> Result<()> {
    for (number, line) in lines::read("--env-file", file)? {
        let name = name(&line);
        if name.is_empty() || name.contains(char::is_whitespace) {
            let reason = "expected NAME=VALUE or NAME, the name without spaces".to_owned();
            return Err(Error::Line {
                flag: "--env-file",
                file: file.to_owned(),
                number,
                reason,
            });
        }
        if line.contains('=') {
            variables.push(line);
        } else if let Some(value) = lookup(name) {
            variables.push(format!("{line}={value}"));
        }
    }
    Ok(())
}

/// The whole environment of a container's first process. `HOME` is left to the
/// agent, who knows the user.
pub(super) fn merge(
    image: &[String],
    requested: &[String],
    hostname: &str,
    terminal: bool,
) -> Vec<String> {
    let mut defaults = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if terminal {
        defaults.push(DEFAULT_TERM.to_owned());
    }
    let asked: BTreeSet<&str> = requested.iter().map(|variable| name(variable)).collect();
    let of_image = image
        .iter()
        .filter(|variable| !asked.contains(name(variable)));
    let overrides: Vec<String> = requested.iter().chain(of_image).cloned().collect();
    replace_or_append(defaults, &overrides)
}

/// Sets variables; a bare name removes one.
pub(super) fn replace_or_append(mut variables: Vec<String>, overrides: &[String]) -> Vec<String> {
    for variable in overrides {
        let place = variables
            .iter()
            .position(|other| name(other) == name(variable));
        match (place, variable.contains('=')) {
            (Some(place), true) => variables[place].clone_from(variable),
            (Some(place), false) => drop(variables.remove(place)),
            (None, true) => variables.push(variable.clone()),
            (None, false) => {}
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn set_here(name: &str) -> Option<String> {
        (name == "HERE").then(|| "yes".to_owned())
    }

    #[test]
    fn flags_go_over_the_image_and_both_over_the_defaults() {
        let merged = merge(
            &strings(&["PATH=/bin", "LANG=C", "A=image", "TERM=dumb"]),
            &strings(&["A=flag", "B=1", "B=2", "HOSTNAME", "LANG"]),
            "box",
            true,
        );
        assert_eq!(merged, ["PATH=/bin", "TERM=dumb", "A=flag", "B=2"]);
    }

    #[test]
    fn there_is_always_a_path() {
        assert_eq!(
            merge(&[], &[], "box", false),
            [DEFAULT_PATH, "HOSTNAME=box"]
        );
        assert_eq!(
            merge(&[], &[], "box", true),
            [DEFAULT_PATH, "HOSTNAME=box", DEFAULT_TERM]
        );
    }

    #[test]
    fn bare_names_take_our_value() {
        let flags = strings(&["HERE", "GONE", "X=1"]);
        let requested = requested(&[], &flags, &set_here).expect("no files");
        assert_eq!(requested, ["HERE=yes", "GONE", "X=1"]);
    }

    #[test]
    fn files_come_before_flags() {
        let directory = tempfile::tempdir().expect("a folder");
        let file = directory.path().join("env");
        std::fs::write(&file, "# comment\nA=1 # no comment\nHERE\nGONE\n\nB=\n").expect("written");
        let requested = requested(&[file], &strings(&["A=2"]), &set_here).expect("reads");
        assert_eq!(requested, ["A=1 # no comment", "HERE=yes", "B=", "A=2"]);
    }

    #[test]
    fn mistakes_in_files_have_a_place() {
        let directory = tempfile::tempdir().expect("a folder");
        let file = directory.path().join("env");
        for (text, place) in [("A=1\nB C=2", "line 2"), ("=1", "line 1")] {
            std::fs::write(&file, text).expect("written");
            let error = requested(std::slice::from_ref(&file), &[], &set_here)
                .expect_err(text)
                .to_string();
            assert!(
                error.contains("--env-file") && error.contains(place),
                "{error}"
            );
        }
        let error = requested(&[directory.path().join("none")], &[], &set_here)
            .expect_err("missing")
            .to_string();
        assert!(
            error.contains("--env-file") && error.contains("none"),
            "{error}"
        );
    }

    #[test]
    fn variables_have_a_name() {
        assert!(variable("A=1").is_ok());
        assert!(variable("A").is_ok());
        assert!(variable("=1").is_err());
        assert!(variable("").is_err());
    }
}
