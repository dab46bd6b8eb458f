//! The renderings of a report: for a browser, for a text, for a program and for
//! the terminal.
//!
//! What containers wrote is hostile. It is cleaned of control characters once,
//! here, and each rendering escapes every string that it puts out.

mod chart;
mod clean;
mod columns;
mod facts;
mod findings;
mod html;
mod markdown;
mod number;
mod prose;
mod terminal;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::model::Report;
use crate::raw;
pub use findings::findings;
pub use terminal::summary;

/// Bytes of each raw output that `report.html` carries.
const RAW_BOUND: u64 = 16 * 1024;

/// Raw outputs by the names that the report's cells give them.
type RawOutputs = BTreeMap<String, RawOutput>;

/// The beginning of a raw output, cleaned.
struct RawOutput {
    text: String,
    /// Bytes that follow it in the file.
    rest: u64,
}

/// Writes `report.json`, `report.md` and `report.html` into the folder in which
/// `raw/` is.
pub fn write(report: &Report, folder: &Path) -> io::Result<()> {
    let report = clean::cleaned(report)?;
    let raw_outputs = raw_outputs(&report, folder);
    let mut json = serde_json::to_string_pretty(&report)?;
    json.push('\n');
    for (name, content) in [
        ("report.json", json),
        ("report.md", markdown::page(&report)),
        ("report.html", html::page(&report, &raw_outputs)),
    ] {
        let path = folder.join(name);
        fs::write(&path, content).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
    }
    Ok(())
}

fn raw_outputs(report: &Report, folder: &Path) -> RawOutputs {
    let rows = report.sections.iter().flat_map(|section| &section.rows);
    rows.flat_map(|row| row.cells.values())
        .filter_map(|cell| cell.raw.clone())
        .filter_map(|name| {
            let (bytes, rest) = raw::excerpt(folder, &name, RAW_BOUND)?;
            let text = clean::clean(&String::from_utf8_lossy(&bytes));
            Some((name, RawOutput { text, rest }))
        })
        .collect()
}
