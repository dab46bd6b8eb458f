//! The program that is run in every container, and what it says.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::runtime::Mount;

/// Where containers have it.
pub const IN_CONTAINER: &str = "/caisson-probe";

const NAME: &str = "caisson-probe";

/// The program.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Where the host has it.
    pub path: PathBuf,
}

impl Probe {
    /// In the build tree and where it is installed, as seen from the `caisson` command. Not beside
    /// it: `cargo build` leaves one there that needs libraries, which images do not have.
    pub fn find(caisson: &Path) -> Result<Self> {
        let real = caisson
            .canonicalize()
            .unwrap_or_else(|_| caisson.to_owned());
        let folder = real.parent().unwrap_or(Path::new("/"));
        ["../guest", "../lib/caisson"]
            .iter()
            .map(|place| folder.join(place).join(NAME))
            .find_map(|path| path.canonicalize().ok())
            .map(|path| Self { path })
            .ok_or(Error::Probe)
    }

    /// As a user types it.
    pub fn shown(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// What puts it into a container.
    pub fn mount(&self) -> Mount {
        Mount::read_only(&self.path, IN_CONTAINER)
    }
}

/// What the probe said of one attempt. It is no evidence of what happened outside, but without
/// its last word nothing has been tried.
#[derive(Debug, Default, PartialEq)]
pub struct Account {
    /// Whether it said anything: the probe was started.
    pub started: bool,
    /// Whether it came to its end.
    pub ended: bool,
    /// What was accepted, refused, or worked inside, in this order.
    pub steps: Vec<Step>,
    /// Measurements.
    pub samples: Vec<(String, f64)>,
}

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The kernel accepted it.
    Done(String),
    /// It did not, and why.
    Refused(String),
    /// It worked, within the container's own boundary.
    Inside(String),
}

impl Account {
    /// Reads what the probe printed; other lines are not its.
    pub fn read(text: &str) -> Self {
        let mut account = Self::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.to_owned();
            match word {
                "try" => {}
                "done" => account.steps.push(Step::Done(rest)),
                "refused" => account.steps.push(Step::Refused(rest)),
                "inside" => account.steps.push(Step::Inside(rest)),
                "end" => account.ended = true,
                "sample" => {
                    let sample = rest.split_once(' ').and_then(|(name, value)| {
                        Some((name.to_owned(), value.parse::<f64>().ok()?))
                    });
                    account.samples.extend(sample);
                }
                _ => continue,
            }
            account.started = true;
        }
        account
    }

    /// The steps that tell how far it came: what was refused and what worked inside.
    pub fn summary(&self) -> String {
        let told: Vec<&str> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Refused(text) => Some(text.as_str()),
                Step::Inside(text) => Some(text.as_str()),
                Step::Done(_) => None,
            })
            .collect();
        if told.is_empty() {
            return "every step was accepted, and had no effect there".to_owned();
        }
        told.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_line_by_line() {
        let account = Account::read(
            "warning: not ours\ntry a\ndone a\ntry b\nrefused b: no\nsample hash 12.5\nsample x\nend\n",
        );
        assert!(account.started && account.ended);
        assert_eq!(
            account.steps,
            [Step::Done("a".into()), Step::Refused("b: no".into())]
        );
        assert_eq!(account.samples, [("hash".to_owned(), 12.5)]);
        assert_eq!(account.summary(), "b: no");
    }

    #[test]
    fn without_a_last_word_it_has_not_ended() {
        let account = Account::read("try a\ndone a\ntry b");
        assert!(account.started && !account.ended);
        assert_eq!(
            Account::read("exec failed: no such file"),
            Account::default()
        );
    }

    #[test]
    fn the_probe_is_found_from_the_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let caisson = folder.path().join("release/caisson");
        for part in ["release", "guest"] {
            std::fs::create_dir(folder.path().join(part)).expect("a folder");
        }
        std::fs::write(&caisson, "").expect("written");
        let error = Probe::find(&caisson).expect_err("there is none");
        assert!(error.to_string().contains("make build"), "{error}");
        std::fs::write(folder.path().join("guest/caisson-probe"), "").expect("written");
        let probe = Probe::find(&caisson).expect("there");
        assert!(probe.path.ends_with("guest/caisson-probe"));
    }
}
