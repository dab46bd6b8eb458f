//! `report.md`: for reading as text, and for what renders Markdown.

use std::fmt::Write;

use super::columns::Columns;
use super::prose::{Part, parts};
use super::{clean, facts, number};
use crate::model::{Cell, Measurement, Presence, Report, Section, Statement, Value};

/// Characters of an answer in a table's cell.
const WIDTH: usize = 160;

/// Lines of a difference that are written out.
const DIFFERENCE_LINES: usize = 30;

/// The whole text.
pub fn page(report: &Report) -> String {
    let mut page = String::from("# Container runtimes compared\n\n");
    let environment = &report.environment;
    paragraph(
        &mut page,
        &format!(
            "Made by `caisson compare` on {} in {}.",
            escape(&report.made_at),
            number::span(report.took_seconds)
        ),
    );
    if !environment.hypervisor.hardware_virtualisation {
        paragraph(
            &mut page,
            &format!(
                "**No hardware virtualisation here.** Caisson's machines ran on {}: a processor emulated in \
                 software. Every time, rate and ratio of Caisson in this report is a multiple of what it is on a \
                 machine with KVM.",
                escape(&environment.hypervisor.name)
            ),
        );
    }
    statements(&mut page, "What stands out", &report.findings);
    page.push_str("## Machine and tools\n\n");
    for (name, value) in facts::of(report) {
        let _ = writeln!(page, "- {name}: {}", escape(&value));
    }
    for runtime in &report.runtimes {
        let state = match &runtime.presence {
            Presence::Installed { version } => escape(version),
            Presence::Absent { reason, install } => format!(
                "not compared: {}{}",
                prose(reason),
                install
                    .as_ref()
                    .map(|install| format!(" (install it: {})", code(install)))
                    .unwrap_or_default()
            ),
        };
        let _ = writeln!(page, "- {}: {state}", runtime.subject);
    }
    for tool in &environment.tools {
        let version = tool.version.as_deref().unwrap_or("not installed");
        let _ = writeln!(page, "- {}: {}", escape(&tool.name), escape(version));
    }
    let _ = writeln!(
        page,
        "\nTo make this report again: {}\n",
        code(&report.settings.command)
    );
    for one in &report.sections {
        section(&mut page, one);
    }
    statements(&mut page, "What to use when", &report.advice);
    page
}

fn paragraph(page: &mut String, text: &str) {
    page.push_str(text);
    page.push_str("\n\n");
}

fn statements(page: &mut String, heading: &str, statements: &[Statement]) {
    if statements.is_empty() {
        return;
    }
    let _ = writeln!(page, "## {heading}\n");
    for statement in statements {
        let cites: Vec<String> = statement.cites.iter().map(|id| code(id)).collect();
        let _ = writeln!(
            page,
            "- {} ({})",
            prose(&statement.sentence),
            cites.join(", ")
        );
    }
    page.push('\n');
}

fn section(page: &mut String, section: &Section) {
    let _ = writeln!(page, "## {}\n", prose(&section.title));
    for text in section.intro.split("\n\n") {
        paragraph(page, &prose(text));
    }
    let columns = Columns::of(section);
    for (subject, install) in &columns.absent {
        paragraph(
            page,
            &format!("Not installed: {subject}. {}", prose(install)),
        );
    }
    let subjects = columns.present;
    if subjects.is_empty() {
        return;
    }
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name()).collect();
    let _ = writeln!(page, "| Probe | {} |", names.join(" | "));
    let _ = writeln!(page, "|---|{}", "---|".repeat(names.len()));
    for row in &section.rows {
        let _ = write!(page, "| {} ({}) |", prose(&row.title), code(&row.id));
        for subject in &subjects {
            let answer = row
                .cells
                .get(subject)
                .map_or_else(|| "not asked".to_owned(), answer);
            let _ = write!(page, " {answer} |");
        }
        page.push('\n');
    }
    page.push('\n');
    for row in &section.rows {
        let _ = writeln!(page, "### {} ({})\n", prose(&row.title), code(&row.id));
        for (name, text) in [("Shows", &row.shows), ("Does not show", &row.does_not_show)] {
            if !text.is_empty() {
                paragraph(page, &format!("{name}: {}", prose(text)));
            }
        }
        if !row.command.is_empty() {
            block(page, &row.command);
        }
        for (subject, cell) in &row.cells {
            if let Some(command) = &cell.command {
                paragraph(page, &format!("{subject}:"));
                block(page, command);
            }
            if let Some(raw) = &cell.raw {
                paragraph(page, &format!("Output of {subject}: {}", code(raw)));
            }
        }
        if let Some(difference) = &row.difference {
            let [first, second] = difference.between;
            for (subject, lines) in [
                (first, &difference.only_first),
                (second, &difference.only_second),
            ] {
                paragraph(page, &format!("Only in {subject}: {} lines.", lines.len()));
                if !lines.is_empty() {
                    let text = lines.join("\n");
                    block(page, &clean::excerpt(&text, DIFFERENCE_LINES, WIDTH).shown);
                    if let Some(more) = lines.len().checked_sub(DIFFERENCE_LINES + 1) {
                        paragraph(page, &format!("And {} more lines.", more + 1));
                    }
                }
            }
        }
    }
}

/// One of our sentences.
fn prose(sentence: &str) -> String {
    let parts = parts(sentence).into_iter();
    parts
        .map(|part| match part {
            Part::Words(words) => escape(words),
            Part::Code(text) => code(text),
        })
        .collect()
}

/// What a subject answered, in one line.
fn answer(cell: &Cell) -> String {
    let mut answer = match &cell.value {
        Value::Text { text } => first_line(text),
        Value::Measurement(one) => measurement(one),
        Value::Verdict { verdict, evidence } => {
            format!("**{}**: {}", verdict.words(), prose(evidence))
        }
        Value::Failed { status, output } => format!(
            "**failed**, {}: {}",
            status.map_or_else(
                || "no exit status".to_owned(),
                |status| format!("exit status {status}")
            ),
            first_line(output)
        ),
        Value::Skipped { reason } => format!("skipped: {}", prose(reason)),
        Value::NotInstalled { install } => format!("not installed: {}", prose(install)),
    };
    if let Some(note) = &cell.note {
        let _ = write!(answer, " ({})", prose(note));
    }
    answer
}

fn measurement(one: &Measurement) -> String {
    let mut text = number::quantity(one.summary.p50, one.unit);
    if let Some(relation) = one.relation {
        let _ = write!(
            text,
            ", {}",
            number::ratio(relation.ratio, relation.baseline)
        );
    }
    let _ = write!(
        text,
        "; n {}, p95 {}",
        one.summary.count,
        number::quantity(one.summary.p95, one.unit)
    );
    if let Some(interval) = one.summary.median_interval {
        let _ = write!(
            text,
            ", 95 % interval {}",
            number::range(interval, one.unit)
        );
    }
    text
}

fn first_line(text: &str) -> String {
    let excerpt = clean::excerpt(text.trim(), 1, WIDTH);
    match (excerpt.shown.is_empty(), excerpt.lines) {
        (true, _) => "no output".to_owned(),
        (false, 1) => code(&excerpt.shown),
        (false, lines) => format!("{} and {} more lines", code(&excerpt.shown), lines - 1),
    }
}

/// Code in a line, fit for a table's cell. A longer fence than any inside it
/// keeps the text from ending it; a bar would end the cell even in code.
fn code(text: &str) -> String {
    let text = text.replace('\n', " ⏎ ").replace('|', "\\|");
    let fence = "`".repeat(longest_run(&text) + 1);
    let space = if fence.len() > 1 { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

fn block(page: &mut String, text: &str) {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    let _ = writeln!(page, "{fence}text\n{text}\n{fence}\n");
}

/// Length of the longest run of backticks.
fn longest_run(text: &str) -> usize {
    text.split(|character| character != '`')
        .map(str::len)
        .max()
        .unwrap_or(0)
}

/// Text that is text: nothing in it is markup, HTML or the end of a cell.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push(' '),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                escaped.push('\\');
                escaped.push(character);
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text() {
        assert_eq!(escape("<b>|x|*_`"), "&lt;b&gt;\\|x\\|\\*\\_\\`");
        assert_eq!(escape("![x](y)"), "\\!\\[x\\](y)");
    }

    #[test]
    fn code_cannot_be_ended_by_its_text() {
        assert_eq!(code("ls"), "`ls`");
        assert_eq!(code("a`b|c"), "`` a`b\\|c ``");
        let mut page = String::new();
        block(&mut page, "x\n```\n# y");
        assert_eq!(page, "````text\nx\n```\n# y\n````\n\n");
    }
}
