//! What one subject answered to one probe.

use serde::{Deserialize, Serialize};

use super::Subject;
use crate::statistics::{Ratio, Summary};

/// What one subject answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// The answer.
    pub value: Value,
    /// What was typed for this subject, if the row's command does not say it.
    pub command: Option<String>,
    /// A remark for the reader.
    pub note: Option<String>,
    /// The file with the whole output, relative to the report's folder:
    /// `raw/kernel-uname-runc.txt`.
    pub raw: Option<String>,
}

impl Cell {
    fn new(value: Value) -> Self {
        Self {
            value,
            command: None,
            note: None,
            raw: None,
        }
    }

    /// Text that was seen.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Value::Text { text: text.into() })
    }

    /// Samples of a measurement. None at all, or one that is no number, is a
    /// failure: it must not look like a measurement.
    pub fn measured(unit: Unit, samples: Vec<f64>) -> Self {
        let Some(summary) = Summary::of(&samples) else {
            return Self::failed(
                None,
                format!("no usable samples out of {} measured", samples.len()),
            );
        };
        Self::new(Value::Measurement(Measurement {
            unit,
            samples,
            summary,
            relation: None,
        }))
    }

    /// The grade of an escape, and what outside was seen to come to it.
    pub fn verdict(verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self::new(Value::Verdict {
            verdict,
            evidence: evidence.into(),
        })
    }

    /// The probe failed: with which exit status, if it got to have one, and what
    /// it said.
    pub fn failed(status: Option<i32>, output: impl Into<String>) -> Self {
        Self::new(Value::Failed {
            status,
            output: output.into(),
        })
    }

    /// The probe was not tried.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(Value::Skipped {
            reason: reason.into(),
        })
    }

    /// The runtime is not there.
    pub fn not_installed(install: impl Into<String>) -> Self {
        Self::new(Value::NotInstalled {
            install: install.into(),
        })
    }

    /// With what was typed.
    pub fn with_command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// With a remark.
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// With the file of its whole output.
    pub fn with_raw(mut self, raw: impl Into<String>) -> Self {
        self.raw = Some(raw.into());
        self
    }

    /// The measurement, if it is one.
    pub fn measurement(&self) -> Option<&Measurement> {
        match &self.value {
            Value::Measurement(measurement) => Some(measurement),
            _ => None,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Value {
    /// What was seen, shortened to what is read; the raw file has all of it.
    Text {
        /// As the probe wrote it: hostile, the renderings clean it.
        text: String,
    },
    /// What was measured.
    Measurement(Measurement),
    /// What became of an escape.
    Verdict {
        /// The grade.
        verdict: Verdict,
        /// What was seen from outside.
        evidence: String,
    },
    /// The probe failed.
    Failed {
        /// Its exit status; nothing if it did not start or did not end in time.
        status: Option<i32>,
        /// What it said.
        output: String,
    },
    /// The probe was not tried.
    Skipped {
        /// Why not: `needs --unsafe`.
        reason: String,
    },
    /// The runtime is not there.
    NotInstalled {
        /// What installs it.
        install: String,
    },
}

/// Samples, and what they come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Of what.
    pub unit: Unit,
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
    /// What they come to.
    pub summary: Summary,
    /// How it stands to another subject's.
    pub relation: Option<Relation>,
}

/// How a measurement stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relation {
    /// Whose measurement it is divided by.
    pub baseline: Subject,
    /// The quotient.
    pub ratio: Ratio,
}

/// What a sample counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Time: less is better.
    #[serde(rename = "s")]
    Seconds,
    /// Memory: less is better.
    #[serde(rename = "B")]
    Bytes,
    /// Throughput: more is better.
    #[serde(rename = "B/s")]
    BytesPerSecond,
    /// System calls, files or hashes a second: more is better.
    #[serde(rename = "op/s")]
    OperationsPerSecond,
    /// Answers with status 200 a second: more is better.
    #[serde(rename = "requests/s")]
    RequestsPerSecond,
}

impl Unit {
    /// Whether the smaller number is the better one.
    pub fn less_is_better(self) -> bool {
        matches!(self, Self::Seconds | Self::Bytes)
    }
}

/// What became of an escape, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The attack ran, and its victim on the host did not notice.
    Contained,
    /// The victim on the host was changed, read, slowed or ended.
    HostAffected,
    /// The victim was changed, through something that the user had shared with
    /// the container to be changed.
    SharedByDesign,
    /// The attack did not get to run. This is no pass.
    SetUpFailed,
}

impl Verdict {
    /// All, the best first.
    pub const ALL: [Self; 4] = [
        Self::Contained,
        Self::HostAffected,
        Self::SharedByDesign,
        Self::SetUpFailed,
    ];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Contained => "contained",
            Self::HostAffected => "host affected",
            Self::SharedByDesign => "shared by design",
            Self::SetUpFailed => "set-up failed",
        }
    }
}
