//! Section 8: what to use when, from the rows.
//!
//! A sentence is there only if rows carry it, and it cites them. Where the rows say the opposite
//! of what one would expect, so does the sentence.

mod cost;
mod rows;

use super::kernel::{NOT_THE_HOSTS, THE_HOSTS};
use crate::model::{Cell, Report, Statement, Subject, Value, Verdict};
use rows::Rows;

/// What to use when, each sentence with the rows that it rests on.
pub fn advice(report: &Report) -> Vec<Statement> {
    let rows = Rows(report);
    let mut statements: Vec<Statement> = [
        emulation(&rows),
        boundary(&rows),
        contained(&rows),
        not_contained(&rows),
        shared(&rows),
        not_tried(&rows),
        host_processes(&rows),
        cost::start(&rows),
        cost::template(&rows),
    ]
    .into_iter()
    .flatten()
    .collect();
    statements.extend(cost::work(&rows));
    statements.extend(cost::memory(&rows));
    statements.extend(not_protected(&rows));
    statements
}

fn statement(sentence: impl Into<String>, cites: &[&str]) -> Option<Statement> {
    let cites: Vec<String> = cites.iter().map(|id| (*id).to_owned()).collect();
    (!cites.is_empty()).then(|| Statement {
        sentence: sentence.into(),
        cites,
    })
}

/// Which rows a missing processor feature touches.
fn emulation(rows: &Rows<'_>) -> Option<Statement> {
    let hypervisor = &rows.0.environment.hypervisor;
    let measured = rows.measured(Subject::Caisson);
    if !rows.emulated()
        || rows.cell("kernel/cpu-model", Subject::Caisson).is_none() && measured.is_empty()
    {
        return None;
    }
    let mut cites = measured;
    cites.extend(rows.present(&["kernel/cpu-model"]));
    statement(
        format!(
            "There is no hardware virtualisation here ({}: {}), so an emulated processor ran Caisson's machines. That touches every row with a time, a rate or a ratio of Caisson: do not decide about its speed from them. Rows about kernels, isolation and escapes hold with and without it.",
            hypervisor.name, hypervisor.reason
        ),
        &cites,
    )
}

/// Whether there is another kernel at all.
fn boundary(rows: &Rows<'_>) -> Option<Statement> {
    let proofs = ["kernel/boot-id", "kernel/version", "kernel/uname"];
    let says = |subject: Subject, note: &str| -> Vec<&str> {
        let said =
            |id: &&str| rows.cell(id, subject).and_then(|cell| cell.note.as_deref()) == Some(note);
        proofs.into_iter().filter(said).collect()
    };
    let same = says(Subject::Caisson, THE_HOSTS);
    if same.contains(&"kernel/boot-id") {
        return statement(
            "Caisson's container ran on the host's kernel: there was no machine around it. Do not rely on anything else in this report until that is explained.",
            &same,
        );
    }
    let own = says(Subject::Caisson, NOT_THE_HOSTS);
    if !own.contains(&"kernel/boot-id") {
        return None;
    }
    let shared = says(Subject::Runc, THE_HOSTS);
    let reason = if shared.contains(&"kernel/boot-id") {
        "runc's shares the host's, where one fault of the kernel is enough"
    } else {
        "a fault of the kernel is then one of the guest's"
    };
    statement(
        format!(
            "Run code that you do not trust (uploads, plug-ins, strangers' builds, what a model wrote) in Caisson: its container had a kernel of its own; {reason}."
        ),
        &own,
    )
}

/// The verdict of each escape.
fn verdicts<'a>(rows: &Rows<'a>, subject: Subject, wanted: Verdict) -> Vec<&'a str> {
    let is =
        |cell: &Cell| matches!(cell.value, Value::Verdict { verdict, .. } if verdict == wanted);
    rows.with("escapes", subject, is)
}

fn contained(rows: &Rows<'_>) -> Option<Statement> {
    let reached = verdicts(rows, Subject::Runc, Verdict::HostAffected);
    let held = verdicts(rows, Subject::Caisson, Verdict::Contained);
    let both: Vec<_> = held.into_iter().filter(|id| reached.contains(id)).collect();
    let count = both.len();
    statement(
        format!(
            "Where a container must have privileges, give it a machine: {count} {} the host under runc and {} contained in Caisson.",
            if count == 1 {
                "attack reached"
            } else {
                "attacks reached"
            },
            if count == 1 { "was" } else { "were" },
        ),
        &both,
    )
}

fn not_contained(rows: &Rows<'_>) -> Option<Statement> {
    let reached = verdicts(rows, Subject::Caisson, Verdict::HostAffected);
    statement(
        "Caisson did not contain these attacks here: the host was affected. Do not give untrusted code what they need.",
        &reached,
    )
}

fn shared(rows: &Rows<'_>) -> Option<Statement> {
    let shared = verdicts(rows, Subject::Caisson, Verdict::SharedByDesign);
    statement(
        "A machine does not protect what is shared with it: a writable volume is written on the host, by design, under Caisson as under runc. Share read-only, or a copy.",
        &shared,
    )
}

fn not_tried(rows: &Rows<'_>) -> Option<Statement> {
    let not = |cell: &Cell| {
        matches!(
            cell.value,
            Value::Skipped { .. }
                | Value::Verdict {
                    verdict: Verdict::SetUpFailed,
                    ..
                }
        )
    };
    let rows = rows.with("escapes", Subject::Caisson, not);
    statement(
        format!(
            "{} of the escapes did not get to run against Caisson: about them this report says nothing, neither good nor bad.",
            rows.len()
        ),
        &rows,
    )
}

/// Tools of the host.
fn host_processes(rows: &Rows<'_>) -> Option<Statement> {
    let id = "isolation/processes-host";
    let seen = rows.text(id, Subject::Runc)?;
    let own = rows.text("isolation/processes", Subject::Runc)?;
    if seen == own {
        return None;
    }
    statement(
        "What has to look into the host (debuggers, monitoring of processes, drivers) needs runc: with --pid=host it saw the host's processes, and a machine cannot.",
        &[id, "isolation/processes"],
    )
}

/// What no row of Caisson's can promise.
fn not_protected(rows: &Rows<'_>) -> Vec<Statement> {
    let processor = statement(
        "A machine shares the processor with the host and with other machines: caches and timing can leak (side channels), and no row here measures that. For secrets of different owners, use different hosts or dedicated cores.",
        &rows.present(&["kernel/cpu-model"]),
    );
    let around = statement(
        "A machine does not protect from what is around it: the engine and its socket, the registry and the images that it gives out, credentials that the container is given, and the network that it reaches. Those are as safe as the set-up makes them.",
        &rows.present(&["setup/engine", "isolation/network"]),
    );
    [processor, around].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::rows::tests::{report, with_cell};
    use super::*;
    use crate::model::Unit;

    fn sentences(report: &Report) -> Vec<String> {
        advice(report)
            .into_iter()
            .map(|statement| statement.sentence)
            .collect()
    }

    fn has(report: &Report, words: &str) -> bool {
        sentences(report).iter().any(|text| text.contains(words))
    }

    #[test]
    fn nothing_is_said_without_rows() {
        assert_eq!(advice(&report()), []);
    }

    #[test]
    fn emulation_is_said_and_cites_what_it_touches() {
        let mut report = report();
        report.environment.hypervisor.hardware_virtualisation = false;
        with_cell(
            &mut report,
            "startup/true",
            Subject::Caisson,
            Cell::measured(Unit::Seconds, vec![1.0]),
        );
        with_cell(
            &mut report,
            "startup/true",
            Subject::Runc,
            Cell::measured(Unit::Seconds, vec![0.1]),
        );
        let all = advice(&report);
        assert!(
            all[0].sentence.contains("no hardware virtualisation"),
            "{all:?}"
        );
        assert_eq!(all[0].cites, ["startup/true"]);
        report.environment.hypervisor.hardware_virtualisation = true;
        assert!(!has(&report, "no hardware virtualisation"));
    }

    #[test]
    fn a_machine_that_was_none_is_not_recommended() {
        let mut report = report();
        let note = |note: &str| Cell::text("1234").with_note(note);
        with_cell(
            &mut report,
            "kernel/boot-id",
            Subject::Caisson,
            note(NOT_THE_HOSTS),
        );
        with_cell(
            &mut report,
            "kernel/boot-id",
            Subject::Runc,
            note(THE_HOSTS),
        );
        assert!(has(&report, "do not trust"));
        with_cell(
            &mut report,
            "kernel/boot-id",
            Subject::Caisson,
            note(THE_HOSTS),
        );
        assert!(has(&report, "no machine around it"));
        assert!(!has(&report, "do not trust"));
    }

    #[test]
    fn escapes_are_told_apart() {
        let mut report = report();
        let graded = |verdict| Cell::verdict(verdict, "seen");
        for (id, runc, caisson) in [
            ("escapes/a", Verdict::HostAffected, Verdict::Contained),
            ("escapes/b", Verdict::Contained, Verdict::Contained),
            ("escapes/c", Verdict::HostAffected, Verdict::HostAffected),
            (
                "escapes/d",
                Verdict::SharedByDesign,
                Verdict::SharedByDesign,
            ),
            ("escapes/e", Verdict::HostAffected, Verdict::SetUpFailed),
        ] {
            with_cell(&mut report, id, Subject::Runc, graded(runc));
            with_cell(&mut report, id, Subject::Caisson, graded(caisson));
        }
        let cites = |words: &str| {
            let all = advice(&report);
            let found = all
                .iter()
                .find(|statement| statement.sentence.contains(words));
            found
                .map(|statement| statement.cites.clone())
                .unwrap_or_default()
        };
        assert_eq!(cites("give it a machine"), ["escapes/a"]);
        assert_eq!(cites("did not contain"), ["escapes/c"]);
        assert_eq!(cites("by design"), ["escapes/d"]);
        assert_eq!(cites("did not get to run"), ["escapes/e"]);
    }
}
