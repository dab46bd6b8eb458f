//! What `caisson compare` says at its end: short, without colours.

use std::fmt::Write;
use std::path::Path;

use super::{clean, number};
use crate::model::{Presence, Report};

/// The summary, and where the report is.
pub fn summary(report: &Report, folder: &Path) -> String {
    let mut text = String::new();
    let mut line = |content: &str| {
        text.push_str(&clean::clean(content).replace('\n', " "));
        text.push('\n');
    };
    let environment = &report.environment;
    let present: Vec<&str> = report
        .runtimes
        .iter()
        .filter(|runtime| matches!(runtime.presence, Presence::Installed { .. }))
        .map(|runtime| runtime.subject.name())
        .collect();
    line(&format!(
        "Compared {} under {} {} in {}.",
        present.join(", "),
        environment.engine.name,
        environment.engine.version,
        number::span(report.took_seconds)
    ));
    if !environment.hypervisor.hardware_virtualisation {
        line(&format!(
            "No hardware virtualisation: Caisson ran on {}. Its times are those of an emulated processor.",
            environment.hypervisor.name
        ));
    }
    for runtime in &report.runtimes {
        if let Presence::Absent { reason, install } = &runtime.presence {
            let mut absent = format!("Not compared: {}: {reason}", runtime.subject);
            if let Some(install) = install {
                let _ = write!(absent, " (install it: {install})");
            }
            line(&absent);
        }
    }
    for (title, statements) in [
        ("What stands out:", &report.findings),
        ("What to use when:", &report.advice),
    ] {
        if statements.is_empty() {
            continue;
        }
        line("");
        line(title);
        for statement in statements {
            line(&format!(
                "  - {} [{}]",
                statement.sentence,
                shortened(&statement.cites)
            ));
        }
    }
    line("");
    line(&format!("Report: {}", folder.join("report.html").display()));
    text
}

/// Three of the cited rows are enough on a terminal.
fn shortened(cites: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = cites[..cites.len().min(SHOWN)].join(", ");
    match cites.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
