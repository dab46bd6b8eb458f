//! `caisson compare`, run to its end, and its report.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Caisson, kill};

/// A comparison is many commands, and the machine may have other things to do.
const DEADLINE: Duration = Duration::from_secs(900);

/// A report, and what was printed beside it.
pub struct Comparison {
    report: Value,
    /// Standard error.
    pub stderr: String,
}

impl Comparison {
    /// Compares runc and Caisson.
    ///
    /// # Panics
    /// If that fails, or takes too long.
    pub fn run(caisson: &Caisson, arguments: &[&str]) -> Self {
        let out = caisson.folder("out");
        let log = caisson.folder("log").join("stderr");
        let stderr = std::fs::File::create(&log).expect("a log");
        let mut child = caisson
            .command(["compare", "--runtime", "runc,caisson"])
            .args(arguments)
            .arg("--out")
            .arg(&out)
            .env("TMPDIR", caisson.folder("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait") {
                break status;
            }
            if begin.elapsed() > DEADLINE {
                kill(child.id(), "INT");
                child.wait().expect("ended");
                panic!("{arguments:?} did not end within {DEADLINE:?}");
            }
            std::thread::park_timeout(Duration::from_millis(50));
        };
        let stderr = std::fs::read_to_string(log).expect("a log");
        assert!(status.success(), "{status}: {stderr}");
        let text = std::fs::read(out.join("report.json")).expect("a report");
        Self {
            report: serde_json::from_slice(&text).expect("JSON"),
            stderr,
        }
    }

    /// The rows of all sections.
    pub fn rows(&self) -> impl Iterator<Item = &Value> {
        let sections = self.report["sections"].as_array().expect("sections");
        sections
            .iter()
            .flat_map(|section| section["rows"].as_array().expect("rows"))
    }

    /// What a subject answered in a row.
    ///
    /// # Panics
    /// If there is no such row or cell.
    pub fn cell(&self, row: &str, subject: &str) -> &Value {
        let found = self.rows().find(|candidate| candidate["id"] == row);
        let found = found.unwrap_or_else(|| panic!("there is no row {row}: {}", self.stderr));
        let cell = &found["cells"][subject];
        assert!(cell.is_object(), "{row} has no cell for {subject}");
        cell
    }

    /// The grade of an escape.
    pub fn verdict(&self, row: &str, subject: &str) -> String {
        let cell = self.cell(row, subject);
        let verdict = cell["value"]["verdict"].as_str();
        verdict
            .unwrap_or_else(|| panic!("{row}, {subject}: {cell}"))
            .to_owned()
    }

    /// The samples of a measurement.
    pub fn samples(&self, row: &str, subject: &str) -> Vec<f64> {
        let cell = self.cell(row, subject);
        let samples = cell["value"]["samples"].as_array();
        samples
            .unwrap_or_else(|| panic!("{row}, {subject}: {cell}"))
            .iter()
            .map(|sample| sample.as_f64().expect("a number"))
            .collect()
    }
}
