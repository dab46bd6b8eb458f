//! What one subject answered, in words and colour.

use maud::{Markup, html};

use crate::model::{Cell, Measurement, Row, Subject, Value, Verdict};
use crate::report::{clean, number, prose};

/// Lines of an answer that are seen without opening anything, beside others and
/// alone.
const LINES: usize = 10;
const LINES_ALONE: usize = 24;

/// Characters of such a line.
const WIDTH: usize = 140;

/// Characters of a line of a failure: nothing of it is left out lightly.
const SAID: usize = 1000;

/// A shorter text is not worth pointing elsewhere for.
const REPEATED_FROM: usize = 24;

pub fn cell(subject: Subject, cell: &Cell, row: &Row) -> Markup {
    html! {
        @match &cell.value {
            Value::Text { text } => {
                @if let Some(same) = same_as(subject, text, row) {
                    span.quiet { "the same as " (same) }
                } @else {
                    (output(text, row))
                }
            }
            Value::Measurement(one) => (measurement(one)),
            Value::Verdict { verdict, evidence } => {
                (badge(*verdict)) p { (prose::markup(evidence)) }
            }
            Value::Failed { status, output: said } => {
                span.badge.failed {
                    "✗ failed" @if let Some(status) = status { ", exit status " (status) }
                }
                pre { (clean::excerpt(said, LINES_ALONE, SAID).shown) }
            }
            Value::Skipped { reason } => { span.badge.skipped { "– skipped" } p { (prose::markup(reason)) } }
            Value::NotInstalled { install } => {
                span.badge.absent { "∅ not installed" }
                p { (prose::markup(install)) }
            }
        }
        @if let Some(note) = &cell.note { p.quiet { (prose::markup(note)) } }
    }
}

/// What a probe wrote. It stays closed where the row shows what differs.
fn output(text: &str, row: &Row) -> Markup {
    let is_closed = row.difference.is_some();
    let lines = if row.cells.len() == 1 {
        LINES_ALONE
    } else {
        LINES
    };
    let excerpt = clean::excerpt(text, lines, WIDTH);
    html! {
        @if excerpt.shown.trim().is_empty() {
            span.quiet { "no output" }
        } @else if is_closed && excerpt.lines > 1 {
            details { summary { (excerpt.lines) " lines" } pre.long tabindex="0" { (text) } }
        } @else {
            pre { (excerpt.shown) }
            @if !excerpt.whole {
                details { summary { "the whole output" } pre.long tabindex="0" { (text) } }
            }
        }
    }
}

fn measurement(one: &Measurement) -> Markup {
    let write = |value| number::quantity(value, one.unit);
    let summary = &one.summary;
    html! {
        span.number { (write(summary.p50)) }
        @if let Some(relation) = one.relation {
            span.ratio { (number::ratio(relation.ratio, relation.baseline)) }
        }
        @if summary.count == 1 {
            span.quiet { "one sample" }
        } @else {
            span.quiet {
                "median of " (summary.count)
                @match summary.median_interval {
                    Some(interval) => { ", 95 % interval " (number::range(interval, one.unit)) }
                    None => ", too few for an interval",
                }
            }
            span.quiet { "p95 " (write(summary.p95)) }
        }
    }
}

/// A grade: colour, sign and word say the same.
fn badge(verdict: Verdict) -> Markup {
    let (class, sign) = match verdict {
        Verdict::Contained => ("contained", "✓"),
        Verdict::HostAffected => ("affected", "✗"),
        Verdict::SharedByDesign => ("shared", "⇄"),
        Verdict::SetUpFailed => ("unproven", "?"),
    };
    html! { span class={ "badge " (class) } { (sign) " " (verdict.words()) } }
}

/// The first subject before this one that answered the same.
fn same_as(subject: Subject, text: &str, row: &Row) -> Option<Subject> {
    if text.trim().len() < REPEATED_FROM {
        return None;
    }
    row.cells
        .range(..subject)
        .find(|(_, other)| matches!(&other.value, Value::Text { text: other } if other == text))
        .map(|(subject, _)| *subject)
}
