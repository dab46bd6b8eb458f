//! What a comparison found: the content of `report.json`.
//!
//! Sections fill it, the renderings read it, and nothing else passes between
//! them. `docs/compare-schema.json` describes the same as a JSON Schema. A change
//! that an old reader would misunderstand raises [`SCHEMA`].
//!
//! The numbers that are derived (percentiles, intervals, ratios) are made where a
//! value is made, so that every rendering and every reader shows the same.

mod cell;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::statistics::Ratio;
pub use cell::{Cell, Measurement, Relation, Unit, Value, Verdict};

/// Number of the schema that this version writes.
pub const SCHEMA: u32 = 1;

/// A whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began: `2026-11-24T11:02:33Z`.
    pub made_at: String,
    /// How long it took.
    pub took_seconds: f64,
    /// What was asked for.
    pub settings: Settings,
    /// The machine and the tools.
    pub environment: Environment,
    /// What was compared, and what could not be.
    pub runtimes: Vec<Runtime>,
    /// What stands out, each with the rows that show it.
    pub findings: Vec<Statement>,
    /// The rows.
    pub sections: Vec<Section>,
    /// What to use when, each with the rows that show it.
    pub advice: Vec<Statement>,
}

/// What was asked for, defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The command line, as it can be typed again.
    pub command: String,
    /// The image of the probes.
    pub image: String,
    /// Ids of the sections that were asked for.
    pub sections: Vec<String>,
    /// Runs of each start-up measurement.
    pub runs: usize,
    /// Whether rows were allowed that could disturb the host.
    #[serde(rename = "unsafe")]
    pub allow_unsafe: bool,
}

/// The machine and the tools.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Processor and memory.
    pub hardware: Hardware,
    /// The host's kernel: `6.18.5 #1 SMP`.
    pub kernel: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub distribution: String,
    /// `v1`, `v2` or `hybrid (v1 controllers)`.
    pub cgroup_mode: String,
    /// What started the containers.
    pub engine: Engine,
    /// What Caisson's machines ran on.
    pub hypervisor: Hypervisor,
    /// Version of each tool that took part.
    pub tools: Vec<Tool>,
}

/// Processor and memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// `AMD EPYC 7B13`.
    pub processor: String,
    /// How many processors there are.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether this is a machine of its own or a virtual one, if it tells.
    pub kind: Option<String>,
}

/// What started the containers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// `containerd`, `docker` or `caisson`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Why this one.
    pub reason: String,
}

/// What Caisson's machines ran on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hypervisor {
    /// `QEMU 7.2.22, TCG`.
    pub name: String,
    /// Why this one, in the words of `caisson doctor`.
    pub reason: String,
    /// False where the processor is emulated in software.
    pub hardware_virtualisation: bool,
}

/// A tool that took part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `runc`.
    pub name: String,
    /// What it says of itself; nothing if it is not installed.
    pub version: Option<String>,
}

/// Where a probe ran: a column of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Outside of any container.
    Host,
    /// runc: namespaces and cgroups of the host's kernel.
    Runc,
    /// crun: the same as runc, in C.
    Crun,
    /// gVisor's runsc: a kernel in user space.
    Runsc,
    /// Caisson: a virtual machine.
    Caisson,
}

impl Subject {
    /// All, in the order of the columns.
    pub const ALL: [Self; 5] = [
        Self::Host,
        Self::Runc,
        Self::Crun,
        Self::Runsc,
        Self::Caisson,
    ];

    /// The name in the JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Runsc => "runsc",
            Self::Caisson => "caisson",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A column of the report, and whether it could be filled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Runtime {
    /// Which.
    pub subject: Subject,
    /// Whether it is there.
    #[serde(flatten)]
    pub presence: Presence,
}

/// Whether a runtime is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "presence", rename_all = "kebab-case")]
pub enum Presence {
    /// It takes part.
    Installed {
        /// What it says of itself.
        version: String,
    },
    /// It does not.
    Absent {
        /// Why not.
        reason: String,
        /// What installs it, if something does.
        install: Option<String>,
    },
}

/// A sentence that rests on rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// One sentence, or two.
    pub sentence: String,
    /// Ids of the rows that show it. Never empty.
    pub cites: Vec<String>,
}

/// One subject of the comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// `kernel`, as `--only` takes it: lower-case letters, digits and `-`.
    pub id: String,
    /// `Kernel and CPU`.
    pub title: String,
    /// What is compared here, and how.
    pub intro: String,
    /// The rows, in the order in which they are read.
    pub rows: Vec<Row>,
}

/// One probe, and what each subject answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Unique in the report: `kernel/uname`, the section's id first.
    pub id: String,
    /// `Kernel release`.
    pub title: String,
    /// What anybody can type to see the same. A cell's own goes before it.
    pub command: String,
    /// What the row shows.
    pub shows: String,
    /// What it must not be taken for.
    pub does_not_show: String,
    /// An answer for each subject that takes part.
    pub cells: BTreeMap<Subject, Cell>,
    /// What differs between two of them.
    pub difference: Option<Difference>,
}

impl Row {
    /// A row without answers yet.
    pub fn new(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            command: String::new(),
            shows: String::new(),
            does_not_show: String::new(),
            cells: BTreeMap::new(),
            difference: None,
        }
    }

    /// Gives every measurement its ratio to the baseline's, if that was measured
    /// in the same unit. Call it when all cells are there.
    pub fn relate_to(&mut self, baseline: Subject) {
        let Some(Value::Measurement(base)) = self.cells.get(&baseline).map(|cell| &cell.value)
        else {
            return;
        };
        let base = base.clone();
        for (subject, cell) in &mut self.cells {
            if let Value::Measurement(measurement) = &mut cell.value
                && *subject != baseline
                && measurement.unit == base.unit
            {
                measurement.relation = Ratio::of(&measurement.samples, &base.samples)
                    .map(|ratio| Relation { baseline, ratio });
            }
        }
    }
}

/// Lines that only one of two subjects has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Between which.
    pub between: [Subject; 2],
    /// Lines that only the first has.
    pub only_first: Vec<String>,
    /// Lines that only the second has.
    pub only_second: Vec<String>,
    /// How many lines both have.
    pub common: usize,
}

impl Difference {
    /// Compares two texts as sets of lines; order and repetition do not count.
    pub fn of(between: [Subject; 2], first: &str, second: &str) -> Self {
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
            lines.retain(|line| !line.is_empty());
            lines.sort();
            lines.dedup();
            lines
        };
        let (first, second) = (lines(first), lines(second));
        let only = |of: &[String], other: &[String]| -> Vec<String> {
            let absent = |line: &&String| other.binary_search(line).is_err();
            of.iter().filter(absent).cloned().collect()
        };
        let only_first = only(&first, &second);
        Self {
            between,
            common: first.len() - only_first.len(),
            only_second: only(&second, &first),
            only_first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_to_the_baseline_of_the_same_unit() {
        let mut row = Row::new("startup/true", "Start and end");
        let series = |factor: f64| (1..=20).map(|sample| f64::from(sample) * factor).collect();
        for (subject, cell) in [
            (Subject::Host, Cell::measured(Unit::Bytes, series(1.0))),
            (Subject::Runc, Cell::measured(Unit::Seconds, series(1.0))),
            (Subject::Crun, Cell::failed(Some(1), "no cgroup")),
            (Subject::Caisson, Cell::measured(Unit::Seconds, series(4.0))),
        ] {
            row.cells.insert(subject, cell);
        }
        row.relate_to(Subject::Runc);
        let relation = |subject| row.cells[&subject].measurement().unwrap().relation;
        assert_eq!(relation(Subject::Host), None);
        assert_eq!(relation(Subject::Runc), None);
        let relation = relation(Subject::Caisson).unwrap();
        assert_eq!(relation.baseline, Subject::Runc);
        assert!((relation.ratio.value - 4.0).abs() < 1e-9);
    }

    #[test]
    fn no_samples_are_a_failure() {
        for samples in [vec![], vec![1.0, f64::NAN]] {
            let cell = Cell::measured(Unit::Seconds, samples);
            assert!(matches!(cell.value, Value::Failed { .. }), "{cell:?}");
        }
    }

    #[test]
    fn difference_is_of_sets_of_lines() {
        let between = [Subject::Runc, Subject::Caisson];
        let found = Difference::of(between, "b\na\n\na \nc\n", "c\nd\n");
        assert_eq!(found.only_first, ["a", "b"]);
        assert_eq!(found.only_second, ["d"]);
        assert_eq!(found.common, 1);
    }
}
