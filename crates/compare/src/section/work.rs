//! Section 7: work of fixed kinds, and the memory that a runtime keeps for itself.

mod overhead;

use std::collections::BTreeMap;
use std::time::Duration;

use super::probe::{Account, IN_CONTAINER, Probe};
use crate::context::{Context, failed};
use crate::error::Result;
use crate::model::{Cell, Row, Section, Subject, Unit};
use crate::runtime::{Container, Mount, Outcome};

/// The section's id.
pub const ID: &str = "work";

/// Where containers have their volume, and a folder of their own files.
const VOLUME: &str = "/volume";
const FOLDER: &str = "/tmp";

/// Time for each measurement of a round, in milliseconds.
const TIME: &str = "100";

/// No container takes longer, also where a processor is emulated.
const DEADLINE: Duration = Duration::from_secs(180);

/// Containers that are started for each runtime; each measures three rounds.
const MOST_STARTS: usize = 3;

/// A kind of work.
struct Kind {
    /// What the probe calls it.
    name: &'static str,
    title: &'static str,
    unit: Unit,
    shows: &'static str,
    does_not_show: &'static str,
}

const CACHES: &str = "The disk alone: after a sync, the container's kernel is told to forget the \
                      file, but the host's kernel may still have it.";

/// What is measured once.
const KINDS: [Kind; 3] = [
    Kind {
        name: "hash",
        title: "Processor: hashes (FNV-1a) of 64 KiB",
        unit: Unit::OperationsPerSecond,
        shows: "Instructions of a program without system calls. Namespaces and hardware \
                virtualisation cost nothing here; an emulated processor does.",
        does_not_show: "More than one processor at work.",
    },
    Kind {
        name: "memory",
        title: "Memory: copies of 16 MiB",
        unit: Unit::BytesPerSecond,
        shows: "Bandwidth of memory, as one processor sees it.",
        does_not_show: "Latency, and what the first touch of a page costs.",
    },
    Kind {
        name: "system-calls",
        title: "System calls: getppid",
        unit: Unit::OperationsPerSecond,
        shows: "The way into the kernel and back. In a machine it is the guest's kernel, which is \
                reached without leaving the machine.",
        does_not_show: "System calls that do something.",
    },
];

/// What is measured on the rootfs and on a volume.
const FILE_KINDS: [Kind; 5] = [
    Kind {
        name: "small-files",
        title: "small files: create, write, stat, unlink",
        unit: Unit::OperationsPerSecond,
        shows: "The cost of metadata: on a volume of a machine, each step is a request to the host.",
        does_not_show: "Files that reach the disk: nothing is synchronised.",
    },
    Kind {
        name: "sequential-writes",
        title: "16 MiB in order, then fsync",
        unit: Unit::BytesPerSecond,
        shows: "Bandwidth of writes that are on disk when they are counted.",
        does_not_show: "A disk that has nothing else to do: others use the host's at the same time.",
    },
    Kind {
        name: "sequential-reads",
        title: "16 MiB read in order",
        unit: Unit::BytesPerSecond,
        shows: "Bandwidth of reads that the container's own kernel has not cached.",
        does_not_show: CACHES,
    },
    Kind {
        name: "random-writes",
        title: "4 KiB at random places, fdatasync after each",
        unit: Unit::OperationsPerSecond,
        shows: "What a database does: the latency of a write that must be on disk.",
        does_not_show: "Several writers at once.",
    },
    Kind {
        name: "random-reads",
        title: "4 KiB read at random places",
        unit: Unit::OperationsPerSecond,
        shows: "Latency of reads that the container's own kernel has not cached.",
        does_not_show: CACHES,
    },
];

/// Samples of one subject, by their names, or how it failed.
#[derive(Default)]
struct Measured {
    samples: BTreeMap<String, Vec<f64>>,
    command: String,
    raw: String,
    failure: Option<Cell>,
}

impl Measured {
    /// Adds what a run of the probe said.
    fn add(&mut self, outcome: &Outcome, raw: String) {
        let account = Account::read(&outcome.text());
        self.raw = raw;
        self.command.clone_from(&outcome.command);
        if !account.ended {
            let cell = failed(outcome);
            self.failure = Some(cell);
            return;
        }
        for (name, value) in account.samples {
            self.samples.entry(name).or_default().push(value);
        }
    }

    fn cell(&self, name: &str, unit: Unit) -> Cell {
        // Samples of other runs would hide it.
        let cell = match &self.failure {
            Some(failure) => failure.clone(),
            None => Cell::measured(unit, self.samples.get(name).cloned().unwrap_or_default()),
        };
        cell.with_command(&self.command).with_raw(&self.raw)
    }
}

/// Makes the section.
pub fn section(context: &Context<'_>) -> Result<Section> {
    let probe = Probe::find(&context.options.caisson)?;
    let starts = context.options.runs.clamp(1, MOST_STARTS);
    let mut measured: BTreeMap<Subject, Measured> = BTreeMap::new();
    for _ in 0..starts {
        // In turn, so that a busy minute of the host hits them all.
        on_the_host(context, &probe, measured.entry(Subject::Host).or_default())?;
        for runtime in &context.runtimes.present {
            let subject = runtime.kind.into();
            let volume = context.folder(&format!("{ID}/volume-{subject}"))?;
            let command = [IN_CONTAINER, "work", FOLDER, VOLUME, TIME];
            let mut container = Container::new(context.image, command);
            container.mounts = vec![probe.mount(), Mount::writable(volume, VOLUME)];
            container.deadline = DEADLINE;
            let outcome = runtime.run(&container)?;
            let raw = context.keep("work/probe", subject, &outcome)?;
            measured.entry(subject).or_default().add(&outcome, raw);
        }
    }
    let mut rows: Vec<Row> = KINDS
        .iter()
        .map(|kind| row(context, &measured, kind, None))
        .collect();
    for place in ["rootfs", "volume"] {
        let of_place = |kind| row(context, &measured, kind, Some(place));
        rows.extend(FILE_KINDS.iter().map(of_place));
    }
    rows.push(overhead::row(context, &probe, starts)?);
    Ok(Section {
        id: ID.to_owned(),
        title: "Work".to_owned(),
        intro: format!(
            "The same static program does work of fixed kinds in each container, {TIME} ms of each \
             at a time, three rounds a container, {starts} containers of each runtime in turn. \
             Ratios are to runc. The rootfs is where the container's own files are; the volume is a \
             folder of the host, and both are on the same file system of the host. Under an engine, \
             Caisson's rootfs is shared from the host like a volume; with `caisson run` it is a disk."
        ),
        rows,
    })
}

/// The host measures in folders where the runtimes have theirs.
fn on_the_host(context: &Context<'_>, probe: &Probe, measured: &mut Measured) -> Result<()> {
    let rootfs = context.folder(&format!("{ID}/rootfs-host"))?;
    let volume = context.folder(&format!("{ID}/volume-host"))?;
    let (rootfs, volume) = (rootfs.to_string_lossy(), volume.to_string_lossy());
    let outcome = context.host(&[&probe.shown(), "work", &rootfs, &volume, TIME])?;
    let raw = context.keep("work/probe", Subject::Host, &outcome)?;
    measured.add(&outcome, raw);
    Ok(())
}

fn row(
    context: &Context<'_>,
    measured: &BTreeMap<Subject, Measured>,
    kind: &Kind,
    place: Option<&str>,
) -> Row {
    let (id, name, title) = match place {
        Some(place) => (
            format!("{ID}/{place}-{}", kind.name),
            format!("{place}/{}", kind.name),
            format!("On the {place}, {}", kind.title),
        ),
        None => (
            format!("{ID}/{}", kind.name),
            kind.name.to_owned(),
            kind.title.to_owned(),
        ),
    };
    let mut row = Row::new(id, title);
    row.command = format!("caisson-probe work {FOLDER} {VOLUME} {TIME}");
    row.shows = kind.shows.to_owned();
    row.does_not_show = kind.does_not_show.to_owned();
    for (subject, of_subject) in measured {
        row.cells
            .insert(*subject, of_subject.cell(&name, kind.unit));
    }
    context.name_absent(&mut row);
    row.relate_to(Subject::Runc);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value;
    use crate::runtime::Ending;

    fn outcome(code: i32, stdout: &str) -> Outcome {
        Outcome {
            ending: Ending::Exited(code),
            stdout: stdout.into(),
            stderr: b"why".to_vec(),
            wall: Duration::from_secs(1),
            command: "run".to_owned(),
        }
    }

    #[test]
    fn samples_of_all_runs_are_one_measurement() {
        let mut measured = Measured::default();
        for value in ["1", "2"] {
            let said = format!("sample hash {value}\nsample hash 3\nend\n");
            measured.add(&outcome(0, &said), "raw/a".to_owned());
        }
        let cell = measured.cell("hash", Unit::OperationsPerSecond);
        let samples = cell.measurement().map(|found| found.samples.clone());
        assert_eq!(samples, Some(vec![1.0, 3.0, 2.0, 3.0]));
        let missing = measured.cell("memory", Unit::BytesPerSecond);
        assert!(matches!(missing.value, Value::Failed { .. }));
    }

    #[test]
    fn a_run_that_broke_off_is_a_failure_of_all_rows() {
        let mut measured = Measured::default();
        measured.add(&outcome(0, "sample hash 1\nend\n"), String::new());
        measured.add(&outcome(137, "sample hash 1\n"), String::new());
        let cell = measured.cell("hash", Unit::OperationsPerSecond);
        assert!(
            matches!(
                cell.value,
                Value::Failed {
                    status: Some(137),
                    ..
                }
            ),
            "{cell:?}"
        );
    }
}
