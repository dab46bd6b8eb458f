//! Escapes: each is tried against a victim that the comparison made, and judged by looking at the
//! victim from outside.
//!
//! The host's column is the control: the same attack without a container must succeed, or the row
//! proves nothing. What an attack says only decides whether it ran at all; a runtime or a probe
//! that breaks is never a pass.

mod bomb;
mod list;
mod verdict;
mod victim;

use std::time::Duration;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::model::{Cell, Row, Section, Subject, Verdict};
use crate::runtime::{Container, Mount, Outcome, Runtime};

use super::probe::{Account, IN_CONTAINER, Probe};
use verdict::{Try, judge};
use victim::Victim;

/// The section's id.
pub const ID: &str = "escapes";

/// No attack takes longer, unless it hangs.
const DEADLINE: Duration = Duration::from_secs(300);

/// Characters of a refusal that are evidence; the raw output has all of them.
const MOST_REFUSAL: usize = 200;

/// An escape, before its victim is made.
struct Escape {
    /// Below the section's id.
    id: &'static str,
    title: &'static str,
    shows: &'static str,
    does_not_show: &'static str,
    /// With every right that an engine gives.
    privileged: bool,
    /// What it could do to the host; such rows need `--unsafe`.
    disturbs: Option<&'static str>,
    /// The victim is shared with the container for being changed.
    by_design: bool,
    make: fn(&Context<'_>, &Probe) -> Result<Attack>,
}

/// An escape whose victim is there.
struct Attack {
    victim: Box<dyn Victim>,
    /// The control: the attack on the host, all words.
    control: Vec<String>,
    /// The probe's words in a container.
    words: Vec<String>,
    mounts: Vec<Mount>,
    host_pid: bool,
    memory: Option<u64>,
    pids: Option<i64>,
    /// Being killed in the middle of it is what is to become of the attack.
    ends_by_kill: bool,
    /// Folders to start in, one container each, beside the usual one.
    start_in: Vec<String>,
}

impl Attack {
    /// An attack with the probe's `words`, the same on the host and in a container.
    fn new(victim: impl Victim + 'static, probe: &Probe, words: &[&str]) -> Self {
        let words: Vec<String> = std::iter::once("escape")
            .chain(words.iter().copied())
            .map(str::to_owned)
            .collect();
        Self {
            victim: Box::new(victim),
            control: std::iter::once(probe.shown())
                .chain(words.iter().cloned())
                .collect(),
            words,
            mounts: Vec::new(),
            host_pid: false,
            memory: None,
            pids: None,
            ends_by_kill: false,
            start_in: Vec::new(),
        }
    }

    /// With other words for the control.
    fn with_control<S: AsRef<str>>(mut self, words: &[S]) -> Self {
        self.control = words.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }
}

/// The section.
pub fn section(context: &Context<'_>) -> Result<Section> {
    let probe = Probe::find(&context.options.caisson)?;
    let rows = list::ESCAPES
        .iter()
        .map(|escape| escape.row(context, &probe))
        .collect::<Result<_>>()?;
    Ok(Section {
        id: ID.to_owned(),
        title: "Escapes".to_owned(),
        intro: "Each attack has a victim that the comparison made: a file, a process, a disk in a \
                file, a cgroup hierarchy. It is tried on the host first, without any container, \
                where it must succeed; then in each runtime. What counts is what happened to the \
                victim, seen from the host. An attack that did not get to run is no pass: it is \
                graded as a failed set-up."
            .to_owned(),
        rows,
    })
}

impl Escape {
    fn row(&self, context: &Context<'_>, probe: &Probe) -> Result<Row> {
        let mut row = Row::new(format!("{}/{}", ID, self.id), self.title);
        row.shows = self.shows.to_owned();
        row.does_not_show = self.does_not_show.to_owned();
        let subjects = || {
            std::iter::once(Subject::Host).chain(
                context
                    .runtimes
                    .present
                    .iter()
                    .map(|runtime| runtime.kind.into()),
            )
        };
        context.name_absent(&mut row);
        if let Some(disturbs) = self.disturbs
            && !context.options.allow_unsafe
        {
            let reason = format!("needs --unsafe: {disturbs}");
            for subject in subjects() {
                row.cells.insert(subject, Cell::skipped(&reason));
            }
            return Ok(row);
        }
        let filled = (self.make)(context, probe)
            .and_then(|mut attack| self.fill(&mut row, context, probe, &mut attack));
        match filled {
            Ok(()) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                let evidence = format!("the comparison failed: {error}");
                for subject in subjects() {
                    let failed = || Cell::verdict(Verdict::SetUpFailed, &evidence);
                    row.cells.entry(subject).or_insert_with(failed);
                }
            }
        }
        Ok(row)
    }

    fn fill(
        &self,
        row: &mut Row,
        context: &Context<'_>,
        probe: &Probe,
        attack: &mut Attack,
    ) -> Result<()> {
        row.command = attack.control.join(" ");
        let words: Vec<&str> = attack.control.iter().map(String::as_str).collect();
        attack.victim.begin()?;
        let outcome = context.host(&words)?;
        let control = Try::of(outcome);
        let damage = attack.victim.damage(&control.outcome.text())?;
        let remark = attack.victim.remark();
        let succeeded = damage.is_some();
        let raw = context.keep(&row.id, Subject::Host, &control.outcome)?;
        let (verdict, evidence) = judge(&[control], damage, self.by_design);
        let mut cell = Cell::verdict(verdict, evidence).with_raw(raw);
        if succeeded {
            cell = with(cell, remark.as_deref());
        } else {
            cell.value = Cell::verdict(Verdict::SetUpFailed, control_failed(&cell)).value;
        }
        row.cells.insert(Subject::Host, cell);
        attack.victim.reset()?;
        for runtime in &context.runtimes.present {
            let cell = if succeeded {
                self.cell(row, context, probe, attack, runtime)?
            } else {
                let evidence =
                    "not tried: the attack has no effect on this host even without a container";
                Cell::verdict(Verdict::SetUpFailed, evidence)
            };
            row.cells.insert(runtime.kind.into(), cell);
        }
        Ok(())
    }

    fn cell(
        &self,
        row: &Row,
        context: &Context<'_>,
        probe: &Probe,
        attack: &mut Attack,
        runtime: &Runtime,
    ) -> Result<Cell> {
        let mut container = self.container(context, probe, attack);
        let subject = runtime.kind.into();
        let (mut tries, mut damage, mut notes) = (Vec::new(), None, Vec::new());
        let mut command = String::new();
        let mut raw = String::new();
        attack.victim.begin()?;
        let folders = std::iter::once(None).chain(attack.start_in.iter().cloned().map(Some));
        for folder in folders.collect::<Vec<_>>() {
            container.workdir = folder;
            let mut outcome = match runtime.run(&container) {
                Ok(outcome) => outcome,
                Err(Error::Unsupported { engine, what }) => {
                    let error = Error::Unsupported { engine, what };
                    return Ok(Cell::skipped(error.to_string()));
                }
                Err(error) => return Err(error),
            };
            raw = context.keep(&row.id, subject, &outcome)?;
            if container.host_pid && !Account::read(&outcome.text()).started {
                // A machine cannot join the host's processes. The attack is tried without that.
                notes.push(format!(
                    "the host's process namespace was refused: {}",
                    refusal(&outcome)
                ));
                container.host_pid = false;
                outcome = runtime.run(&container)?;
                raw = context.keep(&row.id, subject, &outcome)?;
            }
            if command.is_empty() {
                command.clone_from(&outcome.command);
            }
            let found = attack.victim.damage(&outcome.text())?;
            let one = Try::of(outcome).starting_in(container.workdir.as_deref());
            tries.push(if attack.ends_by_kill {
                one.ended_by_kill()
            } else {
                one
            });
            if found.is_some() {
                damage = found;
                break;
            }
        }
        let (verdict, evidence) = judge(&tries, damage, self.by_design);
        notes.extend(attack.victim.remark());
        attack.victim.reset()?;
        let cell = Cell::verdict(verdict, evidence)
            .with_command(command)
            .with_raw(raw);
        let note = notes.join("; ");
        Ok(with(
            cell,
            Some(note.as_str()).filter(|note| !note.is_empty()),
        ))
    }

    fn container(&self, context: &Context<'_>, probe: &Probe, attack: &Attack) -> Container {
        let command = std::iter::once(IN_CONTAINER.to_owned()).chain(attack.words.iter().cloned());
        let mut container = Container::new(context.image, command);
        container.privileged = self.privileged;
        container.host_pid = attack.host_pid;
        container.memory = attack.memory;
        container.pids = attack.pids;
        container.mounts = vec![probe.mount()];
        container.mounts.extend(attack.mounts.iter().cloned());
        container.deadline = DEADLINE;
        container
    }
}

fn with(cell: Cell, note: Option<&str>) -> Cell {
    match note {
        Some(note) => cell.with_note(note),
        None => cell,
    }
}

/// What the control showed, when it should have shown an effect.
fn control_failed(cell: &Cell) -> String {
    let said = match &cell.value {
        crate::model::Value::Verdict { evidence, .. } => evidence.as_str(),
        _ => "",
    };
    format!("on the host itself the attack had no effect, so this row proves nothing: {said}")
}

/// The first line of a refusal; programs explain themselves in the others.
fn refusal(outcome: &Outcome) -> String {
    let said = outcome.error_text();
    let line = said.lines().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("without a word").trim();
    line.chars().take(MOST_REFUSAL).collect()
}
