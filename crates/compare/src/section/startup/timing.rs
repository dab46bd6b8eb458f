//! `caisson run --timing`, and the table that it prints.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::runtime::{Interrupt, Outcome, output};
use crate::statistics::Summary;

const DEADLINE: Duration = Duration::from_secs(120);

/// How the machine is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Of a template.
    Fork,
    /// From its kernel's first instruction.
    Boot,
}

impl Mode {
    /// Whether a run was of this kind: its first line says which it was.
    pub fn is_in(self, outcome: &Outcome) -> bool {
        outcome.error_text().starts_with(&self.to_string())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fork => "forked",
            Self::Boot => "booted",
        })
    }
}

/// The command as it is typed.
pub fn shown(mode: Mode) -> String {
    let command = "caisson run --rm --network none --timing busybox true";
    match mode {
        Mode::Fork => command.to_owned(),
        Mode::Boot => format!("CAISSON_TEMPLATE=off {command}"),
    }
}

/// A Caisson of its own, with the image of the probes.
pub struct Timed {
    caisson: PathBuf,
    folder: PathBuf,
    image: String,
    interrupt: Interrupt,
}

impl Timed {
    /// Loads the image.
    pub fn new(context: &Context<'_>) -> Result<Self> {
        let mut timed = Self {
            caisson: context.options.caisson.clone(),
            folder: context.folder("timed")?,
            image: String::new(),
            interrupt: context.options.interrupt.clone(),
        };
        let archive = context.archive.to_string_lossy();
        let mut load = timed.command();
        load.args(["load", "--quiet", "--input", &archive]);
        let outcome = output(load, DEADLINE, &timed.interrupt)?;
        if !outcome.success() {
            return Err(Error::Command(Box::new(outcome)));
        }
        let said = outcome.text();
        let name = said.lines().last().unwrap_or_default();
        let name = name.strip_prefix("Loaded image: ").unwrap_or(name);
        name.trim().clone_into(&mut timed.image);
        Ok(timed)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.caisson);
        command
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--run-directory")
            .arg(self.folder.join("run"));
        command
    }

    /// One run of `true`.
    pub fn run(&self, mode: Mode) -> Result<Outcome> {
        let mut command = self.command();
        command.args([
            "run",
            "--rm",
            "--network",
            "none",
            "--timing",
            &self.image,
            "true",
        ]);
        let template = match mode {
            Mode::Fork => "auto",
            Mode::Boot => "off",
        };
        command.env("CAISSON_TEMPLATE", template);
        let mut outcome = output(command, DEADLINE, &self.interrupt)?;
        outcome.command = shown(mode).replace("busybox", &self.image);
        Ok(outcome)
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        // Only one that was interrupted is still there. While the comparison is taken down, too.
        let ask = |words: &[&str]| {
            let mut command = self.command();
            command.args(words);
            output(command, DEADLINE, &Interrupt::default())
        };
        let left = ask(&["ps", "--all", "--quiet"]).map_or(String::new(), |said| said.text());
        for id in left.lines() {
            let _ = ask(&["rm", "--force", id]);
        }
    }
}

/// Times of the stages of some runs, in milliseconds, in the order of the table.
#[derive(Debug, Default)]
pub struct Stages(Vec<(String, Vec<f64>)>);

impl Stages {
    /// Adds those of a run.
    pub fn add(&mut self, outcome: &Outcome) {
        for line in outcome.error_text().lines() {
            let Some((name, time)) = stage(line) else {
                continue;
            };
            match self.0.iter_mut().find(|(other, _)| *other == name) {
                Some((_, times)) => times.push(time),
                None => self.0.push((name, vec![time])),
            }
        }
    }

    fn median(&self, name: &str) -> Option<f64> {
        let (_, times) = self.0.iter().find(|(other, _)| other == name)?;
        Some(Summary::of(times)?.p50)
    }
}

/// A line of the table: name, beginning and length.
fn stage(line: &str) -> Option<(String, f64)> {
    let (rest, length) = line.trim_end().rsplit_once(' ')?;
    let (name, begin) = rest.trim_end().rsplit_once(' ')?;
    begin.parse::<f64>().ok()?;
    Some((name.trim_end().to_owned(), length.parse().ok()?))
}

/// The medians of both kinds side by side.
pub fn table(fork: &Stages, boot: &Stages) -> String {
    let mut names: Vec<&str> = fork.0.iter().map(|(name, _)| name.as_str()).collect();
    for (position, (name, _)) in boot.0.iter().enumerate() {
        if !names.contains(&name.as_str()) {
            // Beside the stage that it comes after in a boot.
            let before = boot.0[..position].iter().rev();
            let place = before
                .filter_map(|(name, _)| names.iter().position(|other| other == name))
                .next();
            names.insert(place.map_or(0, |place| place + 1), name);
        }
    }
    let cell = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.1}"));
    let mut text = format!("{:18} {:>10} {:>10}", "stage", "fork, ms", "boot, ms");
    for name in names {
        text.push_str(&format!(
            "\n{name:18} {:>10} {:>10}",
            cell(fork.median(name)),
            cell(boot.median(name))
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Ending;

    fn outcome(text: &str) -> Outcome {
        Outcome {
            ending: Ending::Exited(0),
            stdout: Vec::new(),
            stderr: text.as_bytes().to_vec(),
            wall: Duration::ZERO,
            command: String::new(),
        }
    }

    #[test]
    fn medians_of_stages_stand_side_by_side() {
        let mut fork = Stages::default();
        for time in ["10.0", "30.0", "20.0"] {
            fork.add(&outcome(&format!(
                "forked from template 12ab; qemu with TCG: 1.3\nSTAGE   BEGIN ms   LENGTH ms\n\
                 machine   1.0    5.0\nguest wake-up   5.0   {time}\nagent: configure   9.0   1.0\n"
            )));
        }
        let mut boot = Stages::default();
        boot.add(&outcome(
            "booted: off\nmachine  1.0  6.0\nguest boot   5.0   500.0\nagent: configure  1.0  2.0",
        ));
        let table = table(&fork, &boot);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["machine", "5.0", "6.0"]);
        assert_eq!(lines[1], ["guest", "boot", "-", "500.0"]);
        assert_eq!(lines[2], ["guest", "wake-up", "20.0", "-"]);
        assert_eq!(lines[3], ["agent:", "configure", "1.0", "2.0"]);
    }

    #[test]
    fn a_run_says_what_it_was() {
        let forked = outcome("forked from template 12ab; qemu");
        assert!(Mode::Fork.is_in(&forked) && !Mode::Boot.is_in(&forked));
    }
}
