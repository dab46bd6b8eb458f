//! A section: its overview, and a table with a group of lines for each row.

use maud::{Markup, html};

use super::cell;
use crate::model::{Difference, Row, Section};
use crate::raw::slug;
use crate::report::columns::Columns;
use crate::report::{RawOutputs, chart, clean, prose};

/// Lines of a difference that are seen without opening anything.
const DIFFERENCE_LINES: usize = 14;

/// Characters of such a line.
const WIDTH: usize = 200;

pub fn section(section: &Section, raw_outputs: &RawOutputs) -> Markup {
    let columns = Columns::of(section);
    let overview = chart::ratios(section);
    let charts: Vec<Option<Markup>> = section.rows.iter().map(chart::intervals).collect();
    html! {
        section id={ "section-" (slug(&section.id)) } {
            h2 { (section.title) }
            @for paragraph in section.intro.split("\n\n") { p { (prose::markup(paragraph)) } }
            @if let Some(overview) = &overview { (overview) }
            @if charts.iter().any(Option::is_some) {
                p.quiet { "In the charts of single rows: " (chart::LEGEND) }
            }
            @for (subject, install) in &columns.absent {
                p.quiet { span.badge.absent { "∅ " (subject) " not installed" } " " (prose::markup(install)) }
            }
            @if section.rows.is_empty() {
                p { "There are no rows." }
            } @else {
                // Narrow screens show the table as blocks, which would take its
                // meaning from screen readers: the roles give it back.
                table.rows role="table" {
                    caption { (section.title) ": what each answered" }
                    thead role="rowgroup" {
                        tr role="row" {
                            th scope="col" role="columnheader" { "Probe" }
                            @for subject in &columns.present {
                                th scope="col" role="columnheader" { (subject) }
                            }
                        }
                    }
                    @for (row, chart) in section.rows.iter().zip(&charts) {
                        (group(row, chart.as_ref(), overview.is_some(), &columns, raw_outputs))
                    }
                }
            }
        }
    }
}

fn group(
    row: &Row,
    chart: Option<&Markup>,
    is_closed: bool,
    columns: &Columns<'_>,
    raw_outputs: &RawOutputs,
) -> Markup {
    html! {
        tbody role="rowgroup" id=(slug(&row.id)) {
            tr role="row" {
                th scope="row" role="rowheader" {
                    (prose::markup(&row.title))
                    " " a.self href={ "#" (slug(&row.id)) } { (row.id) }
                }
                @if let Some(subject) = columns.only(row) {
                    // Its answer may be a table of its own: it gets all the room.
                    td role="cell" colspan=(columns.present.len()) {
                        span.only { (subject) }
                        (cell::cell(subject, &row.cells[&subject], row))
                    }
                } @else {
                    @for subject in &columns.present {
                        td role="cell" {
                            span.who aria-hidden="true" { (subject) }
                            @match row.cells.get(subject) {
                                Some(one) => (cell::cell(*subject, one, row)),
                                None => span.quiet { "not asked" },
                            }
                        }
                    }
                }
            }
            tr.more role="row" {
                td role="cell" colspan=(columns.present.len() + 1) {
                    @match chart {
                        // The overview comes before: one chart for each row would bury the table.
                        Some(chart) if is_closed => details { summary { "Sample by sample" } (chart) },
                        Some(chart) => (chart),
                        None => {}
                    }
                    @if let Some(difference) = &row.difference { (lines(difference)) }
                    @if !row.shows.is_empty() { p { strong { "Shows: " } (prose::markup(&row.shows)) } }
                    @if !row.does_not_show.is_empty() { p { strong { "Does not show: " } (prose::markup(&row.does_not_show)) } }
                    (repeat(row, raw_outputs))
                }
            }
        }
    }
}

fn lines(difference: &Difference) -> Markup {
    let [first, second] = difference.between;
    if difference.only_first.is_empty() && difference.only_second.is_empty() {
        return html! {
            p { "No difference between " (first) " and " (second) ": " (difference.common) " lines are in both." }
        };
    }
    html! {
        div.difference {
            @for (subject, lines) in [(first, &difference.only_first), (second, &difference.only_second)] {
                div {
                    h3 { "Only in " (subject) ": " (lines.len()) @if lines.len() == 1 { " line" } @else { " lines" } }
                    @if !lines.is_empty() {
                        @let text = lines.join("\n");
                        @let excerpt = clean::excerpt(&text, DIFFERENCE_LINES, WIDTH);
                        pre { (excerpt.shown) }
                        @if !excerpt.whole {
                            details {
                                summary { "All " (lines.len()) " lines" }
                                pre.long tabindex="0" { (text) }
                            }
                        }
                    }
                }
            }
            p.quiet { (difference.common) " lines are in both." }
        }
    }
}

/// How to see the same by hand, and what came of it here.
fn repeat(row: &Row, raw_outputs: &RawOutputs) -> Markup {
    html! {
        details {
            summary { "Repeat by hand, raw outputs" }
            @if !row.command.is_empty() { pre.command { (row.command) } }
            @for (subject, one) in &row.cells {
                @if one.command.is_some() || one.raw.is_some() {
                    h3 { (subject) }
                    @if let Some(command) = &one.command { pre.command { (command) } }
                    @if let Some(name) = &one.raw {
                        p.quiet { "Output, from " code { (name) } ":" }
                        @match raw_outputs.get(name) {
                            Some(output) => {
                                pre.long tabindex="0" { (output.text) }
                                @if output.rest > 0 { p.quiet { (output.rest) " more bytes are in the file." } }
                            }
                            None => p.quiet { "The file is missing." },
                        }
                    }
                }
            }
        }
    }
}
