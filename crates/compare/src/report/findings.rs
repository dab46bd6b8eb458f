//! What stands out in a report, derived from its rows.

use std::collections::BTreeMap;

use super::number;
use crate::model::{Cell, Report, Row, Section, Statement, Subject, Value, Verdict};
use crate::statistics::Ratio;

/// What a reader should know first. Each sentence cites its rows; there is none
/// about what was not measured.
pub fn findings(report: &Report) -> Vec<Statement> {
    let mut statements = Vec::new();
    statements.extend(kernels(report));
    for section in &report.sections {
        statements.extend(verdicts(section));
        statements.extend(costs(section));
    }
    statements.extend(failures(report));
    statements.retain(|statement| !statement.cites.is_empty());
    statements
}

/// Row that asks for a number which a kernel draws at each boot.
const BOOT_ID: &str = "kernel/boot-id";

/// Who shares the host's kernel.
fn kernels(report: &Report) -> Option<Statement> {
    let rows = report.sections.iter().flat_map(|section| &section.rows);
    let row = rows.into_iter().find(|row| row.id == BOOT_ID)?;
    let text = |subject: &Subject| match &row.cells.get(subject)?.value {
        Value::Text { text } => Some(text.trim()),
        _ => None,
    };
    let host = text(&Subject::Host)?;
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for subject in row
        .cells
        .keys()
        .filter(|subject| **subject != Subject::Host)
    {
        match text(subject) {
            Some(text) if text == host => shared.push(subject.name()),
            Some(_) => own.push(subject.name()),
            None => {}
        }
    }
    let mut parts = Vec::new();
    for (names, what) in [
        (shared, "on the host's kernel"),
        (own, "on a kernel of their own"),
    ] {
        if !names.is_empty() {
            parts.push(format!("{what}: {}", names.join(", ")));
        }
    }
    Some(Statement {
        sentence: format!("Containers run {}.", parts.join("; ")),
        cites: vec![row.id.clone()],
    })
    .filter(|_| !parts.is_empty())
}

/// How the escapes of a section went, a sentence for each runtime. On the host they
/// only show that they work.
fn verdicts(section: &Section) -> Vec<Statement> {
    let mut statements = Vec::new();
    for subject in Subject::ALL
        .into_iter()
        .filter(|subject| *subject != Subject::Host)
    {
        let mut graded: BTreeMap<Verdict, Vec<&Row>> = BTreeMap::new();
        for (row, cell) in cells(section, subject) {
            if let Value::Verdict { verdict, .. } = cell.value {
                graded.entry(verdict).or_default().push(row);
            }
        }
        let total: usize = graded.values().map(Vec::len).sum();
        if total == 0 {
            continue;
        }
        let counts: Vec<String> = Verdict::ALL
            .iter()
            .filter_map(|verdict| {
                let rows = graded.get(verdict)?;
                Some(format!("{} {}", rows.len(), verdict.words()))
            })
            .collect();
        // The rows that a reader wants to see are those that did not hold.
        let held = Verdict::Contained;
        let mut cited: Vec<&Row> = graded
            .iter()
            .filter(|(verdict, _)| **verdict != held)
            .flat_map(|(_, rows)| rows.iter().copied())
            .collect();
        if cited.is_empty() {
            cited = graded.remove(&held).unwrap_or_default();
        }
        statements.push(Statement {
            sentence: format!(
                "{} under {subject}: {} ({total} graded).",
                section.title,
                counts.join(", ")
            ),
            cites: ids(cited),
        });
    }
    statements
}

/// What each runtime costs beside the baseline, over the measurements of a
/// section.
fn costs(section: &Section) -> Vec<Statement> {
    let mut statements = Vec::new();
    for subject in Subject::ALL
        .into_iter()
        .filter(|subject| *subject != Subject::Host)
    {
        let mut costs: Vec<(&Row, Subject, Ratio)> = cells(section, subject)
            .filter_map(|(row, cell)| {
                let (relation, cost) = number::cost(cell.measurement()?)?;
                Some((row, relation.baseline, cost))
            })
            .collect();
        costs.sort_by(|left, right| left.2.value.total_cmp(&right.2.value));
        let written = |(row, baseline, cost): &(&Row, Subject, Ratio)| {
            format!("{}: {}", row.title, number::ratio(*cost, *baseline))
        };
        let sentence = match costs.as_slice() {
            [] => continue,
            [one] => format!("{}: what {subject} costs. {}.", section.title, written(one)),
            [least, .., most] => format!(
                "{}: what {subject} costs, over {} rows. Least, {}. Most, {}.",
                section.title,
                costs.len(),
                written(least),
                written(most)
            ),
        };
        let mut cited: Vec<&Row> = costs.iter().map(|(row, ..)| *row).collect();
        if cited.len() > 2 {
            cited = vec![cited[0], cited[cited.len() - 1]];
        }
        statements.push(Statement {
            sentence,
            cites: ids(cited),
        });
    }
    statements
}

/// Which probes failed, a sentence for each runtime.
fn failures(report: &Report) -> Vec<Statement> {
    let mut statements = Vec::new();
    for subject in Subject::ALL {
        let tried: Vec<(&Row, &Cell)> = report
            .sections
            .iter()
            .flat_map(|section| cells(section, subject))
            .filter(|(_, cell)| {
                !matches!(
                    cell.value,
                    Value::Skipped { .. } | Value::NotInstalled { .. }
                )
            })
            .collect();
        let failed: Vec<&Row> = tried
            .iter()
            .filter(|(_, cell)| matches!(cell.value, Value::Failed { .. }))
            .map(|(row, _)| *row)
            .collect();
        if !failed.is_empty() {
            statements.push(Statement {
                sentence: format!(
                    "{} of {} probes failed under {subject}: a failure is no result, its row has what was said.",
                    failed.len(),
                    tried.len()
                ),
                cites: ids(failed),
            });
        }
    }
    statements
}

fn cells(section: &Section, subject: Subject) -> impl Iterator<Item = (&Row, &Cell)> {
    let cell = move |row: &Row| row.cells.contains_key(&subject);
    section
        .rows
        .iter()
        .filter(move |row| cell(row))
        .map(move |row| (row, &row.cells[&subject]))
}

fn ids(rows: Vec<&Row>) -> Vec<String> {
    rows.into_iter().map(|row| row.id.clone()).collect()
}
