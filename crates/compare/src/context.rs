//! What every section works with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{At, Error, Result};
use crate::model::{Cell, Row, Subject};
use crate::options::Options;
use crate::raw::{RawFolder, Transcript};
use crate::runtime::{Container, Ending, Image, Kind, Outcome, Runtime, Runtimes, output};

/// No command on the host takes longer, unless it hangs.
const HOST_DEADLINE: Duration = Duration::from_secs(300);

/// What every section works with.
pub struct Context<'a> {
    /// What the user asked for.
    pub options: &'a Options,
    /// The runtimes, on the engine of this comparison.
    pub runtimes: &'a Runtimes,
    /// The image of the probes, as that engine has it.
    pub image: &'a Image,
    /// Its archive, for another engine.
    pub archive: &'a Path,
    /// Where whole outputs go.
    pub raw: &'a RawFolder,
    /// A folder that is removed at the end.
    pub scratch: &'a Path,
    /// Takes a line about what is being done.
    pub progress: &'a dyn Fn(&str),
    /// Runtimes that hung, and in which row: each row would wait for the deadline again.
    pub hung: RefCell<BTreeMap<Subject, String>>,
}

impl Context<'_> {
    /// Runs a container under a runtime: what it printed, or that it failed and how. A runtime
    /// that hung is not asked again.
    pub fn ask(&self, row: &str, runtime: &Runtime, container: &Container) -> Result<Answer> {
        let subject = Subject::from(runtime.kind);
        if let Some(earlier) = self.hung.borrow().get(&subject) {
            let said = format!("not tried: it did not end in time in {earlier}");
            return Ok(Answer {
                cell: Cell::failed(None, said),
                outcome: None,
            });
        }
        let outcome = match runtime.run(container) {
            Ok(outcome) => outcome,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // The others can still answer.
            Err(error) => {
                return Ok(Answer {
                    cell: Cell::failed(None, error.to_string()),
                    outcome: None,
                });
            }
        };
        if matches!(outcome.ending, Ending::TimedOut(_)) {
            self.hung.borrow_mut().insert(subject, row.to_owned());
        }
        Ok(Answer {
            cell: self.cell(row, subject, &outcome)?,
            outcome: Some(outcome).filter(Outcome::success),
        })
    }

    /// Runs a command on the host, outside of any container.
    pub fn host(&self, words: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let mut outcome = output(command, HOST_DEADLINE, &self.options.interrupt)?;
        outcome.command = words.join(" ");
        Ok(outcome)
    }

    /// Keeps the whole output of a command and says where.
    pub fn keep(&self, row: &str, subject: Subject, outcome: &Outcome) -> Result<String> {
        let ending = format!(
            "{} after {:.3} s",
            outcome.ending,
            outcome.wall.as_secs_f64()
        );
        self.raw
            .append(
                row,
                subject,
                Transcript {
                    command: &outcome.command,
                    stdout: &outcome.stdout,
                    stderr: &outcome.stderr,
                    ending: &ending,
                },
            )
            .at(&self.options.out)
    }

    /// The cell of an outcome: what it printed, or that it failed and how.
    pub fn cell(&self, row: &str, subject: Subject, outcome: &Outcome) -> Result<Cell> {
        let raw = self.keep(row, subject, outcome)?;
        let cell = if outcome.success() {
            Cell::text(outcome.text())
        } else {
            failed(outcome)
        };
        Ok(cell.with_command(&outcome.command).with_raw(raw))
    }

    /// Says in a row which runtimes are not there, and what installs them.
    pub fn name_absent(&self, row: &mut Row) {
        for absent in &self.runtimes.absent {
            let text = format!("{}: {}", absent.reason, absent.remedy);
            row.cells
                .insert(absent.kind.into(), Cell::not_installed(text));
        }
    }

    /// A new folder that is removed at the end of the comparison.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        std::fs::create_dir_all(&path).at(&path)?;
        Ok(path)
    }
}

/// What a runtime answered.
pub struct Answer {
    /// For the report.
    pub cell: Cell,
    /// All of it, if it succeeded.
    pub outcome: Option<Outcome>,
}

/// The cell of a command that did not end with 0.
pub fn failed(outcome: &Outcome) -> Cell {
    let status = match outcome.ending {
        Ending::Exited(code) => Some(code),
        Ending::Signalled(_) | Ending::TimedOut(_) => None,
    };
    let mut said = vec![outcome.error_text(), outcome.text()];
    if status.is_none() {
        said.insert(0, outcome.ending.to_string());
    }
    said.retain(|text| !text.is_empty());
    Cell::failed(status, said.join("\n"))
}

impl From<Kind> for Subject {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Runc => Self::Runc,
            Kind::Crun => Self::Crun,
            Kind::Runsc => Self::Runsc,
            Kind::Caisson => Self::Caisson,
        }
    }
}
