//! `report.html`: one file that needs nothing else, and no scripts.
//!
//! maud escapes every string that is put into the page, so that a container's
//! output cannot become a part of it by an oversight. A content security policy
//! forbids the browser the rest.

mod cell;
mod section;

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{RawOutputs, facts, number, prose};
use crate::model::{Presence, Report, Statement, Subject};
use crate::raw::slug;

/// Nothing is loaded and nothing runs; the styles are in the page.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("style.css");

/// Rows that a sentence links to; the others are in the JSON.
const CITES: usize = 6;

/// The whole page.
pub fn page(report: &Report, raw_outputs: &RawOutputs) -> String {
    let titles: Titles = report
        .sections
        .iter()
        .flat_map(|section| &section.rows)
        .map(|row| (row.id.as_str(), row.title.as_str()))
        .collect();
    let title = title(report);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.kind { "caisson compare" }
                    h1 { (title) }
                    p.lead {
                        "Made on " (report.made_at) " in " (number::span(report.took_seconds))
                        " under " (report.environment.engine.name) " " (report.environment.engine.version) " on "
                        (report.environment.hardware.processors) " × " (report.environment.hardware.processor) "."
                    }
                    @if !report.environment.hypervisor.hardware_virtualisation {
                        p.warning role="note" {
                            strong { "No hardware virtualisation here." }
                            " Caisson's machines ran on " (report.environment.hypervisor.name)
                            ": a processor emulated in software. Every time, rate and ratio of Caisson in this report \
                             is a multiple of what it is on a machine with KVM. What a container sees and what \
                             becomes of an escape does not depend on it."
                        }
                    }
                    (contents(report))
                }
                main {
                    (statements("findings", "What stands out", &report.findings, &titles))
                    (environment(report))
                    @for part in &report.sections { (section::section(part, raw_outputs)) }
                    (statements("what-to-use-when", "What to use when", &report.advice, &titles))
                }
                footer {
                    p {
                        "The same in other forms: " code { "report.json" } ", " code { "report.md" }
                        "; every command's whole output: " code { "raw/" } "."
                    }
                    p {
                        "Percentiles are interpolated between samples (definition 7 of Hyndman and Fan). The interval \
                         of a median comes from order statistics and holds with at least 95 % whatever the \
                         distribution is; that of a ratio is made of those of its two medians (MOVER, on \
                         logarithms). Fewer than six samples have none."
                    }
                }
            }
        }
    }
    .into_string()
}

/// Titles of rows by their ids.
type Titles<'a> = BTreeMap<&'a str, &'a str>;

fn title(report: &Report) -> String {
    let names: Vec<&str> = report
        .runtimes
        .iter()
        .filter(|runtime| matches!(runtime.presence, Presence::Installed { .. }))
        .filter(|runtime| runtime.subject != Subject::Host)
        .map(|runtime| runtime.subject.name())
        .collect();
    match names.split_last() {
        Some((last, [])) => format!("{last} beside the host"),
        Some((last, others)) => format!("Compared: {} and {last}", others.join(", ")),
        None => "Nothing to compare".to_owned(),
    }
}

fn contents(report: &Report) -> Markup {
    html! {
        nav aria-label="Contents" {
            ul {
                @if !report.findings.is_empty() { li { a href="#findings" { "What stands out" } } }
                li { a href="#environment" { "Machine and tools" } }
                @for section in &report.sections {
                    li { a href={ "#section-" (slug(&section.id)) } { (section.title) } }
                }
                @if !report.advice.is_empty() { li { a href="#what-to-use-when" { "What to use when" } } }
            }
        }
    }
}

/// Sentences with links to the rows that show them.
fn statements(id: &str, heading: &str, statements: &[Statement], titles: &Titles<'_>) -> Markup {
    html! {
        @if !statements.is_empty() {
            section id=(id) {
                h2 { (heading) }
                ul.statements {
                    @for statement in statements {
                        li {
                            (prose::markup(&statement.sentence)) " "
                            span.cites {
                                "See "
                                @for (index, id) in statement.cites.iter().take(CITES).enumerate() {
                                    @if index > 0 { ", " }
                                    @match titles.get(id.as_str()) {
                                        Some(title) => a href={ "#" (slug(id)) } { (prose::markup(title)) },
                                        None => code { (id) },
                                    }
                                }
                                @if let Some(more) = statement.cites.len().checked_sub(CITES + 1) {
                                    " and " (more + 1) " more"
                                }
                                "."
                            }
                        }
                    }
                }
            }
        }
    }
}

fn environment(report: &Report) -> Markup {
    let environment = &report.environment;
    html! {
        section #environment {
            h2 { "Machine and tools" }
            dl.facts {
                @for (name, value) in facts::of(report) {
                    div { dt { (name) } dd { (value) } }
                }
            }
            p { "To make this report again: " }
            pre.command { (report.settings.command) }
            table.plain {
                caption { "What was compared" }
                thead { tr { th scope="col" { "Runtime" } th scope="col" { "Version, or why it is missing" } } }
                tbody {
                    @for runtime in &report.runtimes {
                        tr {
                            th scope="row" { (runtime.subject) }
                            td {
                                @match &runtime.presence {
                                    Presence::Installed { version } => (version),
                                    Presence::Absent { reason, install } => {
                                        span.badge.absent { "not compared" } " " (prose::markup(reason))
                                        @if let Some(install) = install { ". Install it: " code { (install) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if !environment.tools.is_empty() {
                details {
                    summary { "Versions of " (environment.tools.len()) " tools" }
                    table.plain {
                        thead { tr { th scope="col" { "Tool" } th scope="col" { "Version" } } }
                        tbody {
                            @for tool in &environment.tools {
                                tr {
                                    th scope="row" { (tool.name) }
                                    td { @match &tool.version { Some(version) => (version), None => "not installed" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
