//! Section 5: how long it takes to run `true`.

mod timing;

use std::collections::BTreeMap;

use crate::context::{Context, failed};
use crate::error::{Error, Result};
use crate::model::{Cell, Row, Section, Subject, Unit};
use crate::runtime::{Container, Kind, Outcome};
use timing::Timed;

/// Runs that are not counted: they warm the host's caches, and make Caisson's template.
const WARM_UP: usize = 1;

/// Makes the section.
pub fn section(context: &Context<'_>) -> Result<Section> {
    let mut rows = vec![engine_row(context)?];
    if context.runtimes.get(Kind::Caisson).is_some() {
        rows.extend(caisson_rows(context)?);
    }
    Ok(Section {
        id: "startup".to_owned(),
        title: "Start-up".to_owned(),
        intro: format!(
            "A container that runs `true`: from the start of the command to its end, so that every part of a start and of a stop is in it. {} runs of each, in turn, so that whatever else this machine does meets all of them; {WARM_UP} more of each before, not counted. p95 is interpolated; the interval is that of the median, by order statistics.",
            context.options.runs
        ),
        rows,
    })
}

/// Times of one series, or how it failed.
#[derive(Default)]
struct Series {
    seconds: Vec<f64>,
    command: String,
    raw: Option<String>,
    failed: Option<Cell>,
}

impl Series {
    /// Adds a run; the first one that fails ends the series: a failure is no time.
    fn add(
        &mut self,
        context: &Context<'_>,
        row: &str,
        subject: Subject,
        outcome: &Outcome,
        counted: bool,
    ) -> Result<()> {
        self.command.clone_from(&outcome.command);
        self.raw = Some(context.keep(row, subject, outcome)?);
        if !outcome.success() {
            self.failed = Some(failed(outcome));
        } else if counted {
            self.seconds.push(outcome.wall.as_secs_f64());
        }
        Ok(())
    }

    fn cell(self) -> Cell {
        let count = self.seconds.len();
        let mut cell = match self.failed {
            None => Cell::measured(Unit::Seconds, self.seconds),
            Some(cell) if count == 0 => cell,
            Some(cell) => cell.with_note(format!("after {count} runs that were good")),
        };
        cell.command = Some(self.command).filter(|command| !command.is_empty());
        cell.raw = self.raw;
        cell
    }
}

/// The same command for every runtime, through the engine.
fn engine_row(context: &Context<'_>) -> Result<Row> {
    let mut row = Row::new("startup/true", "true, through the engine");
    row.command = "true".to_owned();
    row.shows = "What a user waits for a container that does nothing. Divide by runc's for what the boundary costs.".to_owned();
    row.does_not_show =
        "How fast anything runs in the container, or what a pull of the image takes.".to_owned();
    let container = Container::new(context.image, ["true"]);
    let mut all: BTreeMap<Subject, Series> = BTreeMap::new();
    for number in 0..context.options.runs + WARM_UP {
        (context.progress)(&format!("    run {number} of {}", context.options.runs));
        for runtime in &context.runtimes.present {
            let subject = Subject::from(runtime.kind);
            let series = all.entry(subject).or_default();
            if series.failed.is_some() {
                continue;
            }
            match runtime.run(&container) {
                Ok(outcome) => {
                    series.add(context, &row.id, subject, &outcome, number >= WARM_UP)?;
                }
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => series.failed = Some(Cell::failed(None, error.to_string())),
            }
        }
    }
    for (subject, series) in all {
        row.cells.insert(subject, series.cell());
    }
    context.name_absent(&mut row);
    row.relate_to(Subject::Runc);
    Ok(row)
}

/// `caisson run --timing`: forked of a template, and booted.
fn caisson_rows(context: &Context<'_>) -> Result<Vec<Row>> {
    let timed = Timed::new(context)?;
    let [mut fork, mut boot] = [Series::default(), Series::default()];
    let [mut fork_stages, mut boot_stages] = [timing::Stages::default(), timing::Stages::default()];
    for number in 0..context.options.runs + WARM_UP {
        (context.progress)(&format!(
            "    fork and boot {number} of {}",
            context.options.runs
        ));
        for (row, series, stages, mode) in [
            (FORK, &mut fork, &mut fork_stages, timing::Mode::Fork),
            (BOOT, &mut boot, &mut boot_stages, timing::Mode::Boot),
        ] {
            if series.failed.is_some() {
                continue;
            }
            let outcome = timed.run(mode)?;
            let counted = number >= WARM_UP;
            series.add(context, row, Subject::Caisson, &outcome, counted)?;
            if series.failed.is_none() && counted {
                if !mode.is_in(&outcome) {
                    series.failed = Some(Cell::failed(
                        None,
                        format!(
                            "this was to be measured {mode}, and was not: {}",
                            outcome.error_text()
                        ),
                    ));
                }
                stages.add(&outcome);
            }
        }
    }
    let mut rows = Vec::new();
    for (id, title, series, shows) in [
        (
            FORK,
            "caisson run, forked of a template",
            fork,
            "A whole `caisson run` as it is by default: the machine is a copy-on-write fork of one that has booted already.",
        ),
        (
            BOOT,
            "caisson run, booted",
            boot,
            "The same with `template = \"off\"`: the guest's kernel boots each time.",
        ),
    ] {
        let mut row = Row::new(id, title);
        row.shows = shows.to_owned();
        row.does_not_show = "What an engine adds; the row before has that.".to_owned();
        let cell = series.cell();
        row.command = cell.command.clone().unwrap_or_default();
        row.cells.insert(Subject::Caisson, cell);
        rows.push(row);
    }
    let mut row = Row::new("startup/stages", "Where the time of caisson run goes");
    row.command = timing::shown(timing::Mode::Fork);
    row.shows = "The median of each stage. An indented part is contained in the stage before it."
        .to_owned();
    row.does_not_show = "A sum: some stages run side by side.".to_owned();
    row.cells.insert(
        Subject::Caisson,
        Cell::text(timing::table(&fork_stages, &boot_stages)),
    );
    rows.push(row);
    Ok(rows)
}

const FORK: &str = "startup/fork";
const BOOT: &str = "startup/boot";
