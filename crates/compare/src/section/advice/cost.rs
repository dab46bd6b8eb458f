//! What the boundary costs, and when that matters.

use super::rows::Rows;
use super::statement;
use crate::model::{Measurement, Row, Statement, Subject, Unit};

/// Below this a machine would be faster than the same without one.
const SUSPICIOUS: f64 = 0.8;

/// A cost that nobody notices.
const LITTLE: f64 = 1.25;

/// A cost that decides.
const MUCH: f64 = 3.0;

/// A start shall be less than this share of a job.
const SHARE: f64 = 0.1;

/// Rows that a sentence names; it cites all of them.
const NAMED: usize = 4;

/// What follows from a time on an emulated processor.
const AGAIN: &str = "An emulated processor did that: measure again where there is hardware virtualisation before you decide.";

/// How long a container has to live until its start does not matter.
pub fn start(rows: &Rows<'_>) -> Option<Statement> {
    let id = "startup/true";
    let runc = rows.measurement(id, Subject::Runc)?.summary.p50;
    let caisson = rows.measurement(id, Subject::Caisson)?.summary.p50;
    if caisson <= runc {
        return statement(
            "A start in Caisson was no slower than with runc: it is no reason against a machine.",
            &[id],
        );
    }
    let worth = caisson / SHARE;
    statement(
        format!(
            "For many short containers of your own code use runc: a start took {} with it and {} in Caisson. For jobs longer than about {} that start is less than a tenth of the whole; shorter ones can share a running container (`exec`).{}",
            time(runc),
            time(caisson),
            time(worth),
            if rows.emulated() {
                format!(" {AGAIN}")
            } else {
                String::new()
            }
        ),
        &[id],
    )
}

/// Whether forks are worth it here.
pub fn template(rows: &Rows<'_>) -> Option<Statement> {
    let ids = ["startup/fork", "startup/boot"];
    let [fork, boot] = ids.map(|id| Some(rows.measurement(id, Subject::Caisson)?.summary.p50));
    let (fork, boot) = (fork?, boot?);
    let sentence = if fork < boot {
        format!(
            "Leave templates on: a fork took {} and a boot {}.",
            time(fork),
            time(boot)
        )
    } else {
        format!(
            "Templates do not pay here: a fork took {} and a boot {}. `template = \"off\"` saves their memory.",
            time(fork),
            time(boot)
        )
    };
    statement(sentence, &ids)
}

/// Kinds of work by what they cost.
pub fn work(rows: &Rows<'_>) -> Vec<Statement> {
    let mut measured: Vec<(&Row, f64)> = ["work", "web"]
        .into_iter()
        .flat_map(|section| rows.of(section))
        .filter_map(|row| {
            let measurement = row.cells.get(&Subject::Caisson)?.measurement()?;
            (measurement.unit != Unit::Bytes).then_some(())?;
            Some((row, cost(measurement)?))
        })
        .collect();
    measured.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let sentence = |is: &dyn Fn(f64) -> bool, begin: &str, end: &str| {
        let chosen = measured.iter().filter(|(_, cost)| is(*cost));
        let chosen: Vec<&(&Row, f64)> = chosen.collect();
        let mut list: Vec<_> = chosen
            .iter()
            .take(NAMED)
            .map(|(row, cost)| format!("\u{201c}{}\u{201d} ({cost:.1} times runc's)", row.title))
            .collect();
        if chosen.len() > NAMED {
            list.push(format!("and {} more", chosen.len() - NAMED));
        }
        let cites: Vec<_> = chosen.iter().map(|(row, _)| row.id.as_str()).collect();
        statement(format!("{begin}: {}. {end}", list.join(", ")), &cites)
    };
    [
        sentence(
            &|cost| cost < SUSPICIOUS,
            "Faster in Caisson than with runc",
            "A boundary does not do that: look for a cache, or for what else the host did meanwhile, before you believe it.",
        ),
        sentence(
            &|cost| (SUSPICIOUS..LITTLE).contains(&cost),
            "A machine costs next to nothing in",
            "For such work, take the stronger boundary.",
        ),
        sentence(
            &|cost| (LITTLE..MUCH).contains(&cost),
            "A machine costs something in",
            "Measure your own program before you decide.",
        ),
        sentence(
            &|cost| cost >= MUCH,
            "A machine costs much in",
            if rows.emulated() {
                AGAIN
            } else {
                "Your own code that does mostly this is better off with runc."
            },
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What is kept on the host for each container.
pub fn memory(rows: &Rows<'_>) -> Option<Statement> {
    let (row, measurement) = rows.of("work").find_map(|row| {
        let measurement = row.cells.get(&Subject::Caisson)?.measurement()?;
        (measurement.unit == Unit::Bytes).then_some((row, measurement))
    })?;
    let mib = measurement.summary.p50 / f64::from(1 << 20);
    let runc = row
        .cells
        .get(&Subject::Runc)
        .and_then(|cell| cell.measurement());
    let runc = runc.map_or(String::new(), |runc| {
        let mib = runc.summary.p50 / f64::from(1 << 20);
        format!(", runc's {mib:.1} MiB")
    });
    statement(
        format!(
            "Count memory when you pack a host full: an idle container of Caisson kept {mib:.0} MiB of it{runc}. A thousand small ones are better off with runc if you trust them."
        ),
        &[&row.id],
    )
}

/// How many times the baseline's effort: above one is worse, whichever way the unit counts.
fn cost(measurement: &Measurement) -> Option<f64> {
    let ratio = measurement.relation?.ratio.value;
    let cost = if measurement.unit.less_is_better() {
        ratio
    } else {
        1.0 / ratio
    };
    cost.is_finite().then_some(cost)
}

fn time(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1e3),
        1.0..10.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{report, with_cell};
    use super::*;
    use crate::model::Cell;

    #[test]
    fn a_start_is_weighed_against_the_job() {
        let mut report = report();
        let seconds = |value| Cell::measured(Unit::Seconds, vec![value; 3]);
        with_cell(&mut report, "startup/true", Subject::Runc, seconds(0.1));
        with_cell(&mut report, "startup/true", Subject::Caisson, seconds(0.5));
        let slower = start(&Rows(&report)).expect("a sentence");
        assert!(slower.sentence.contains("100 ms") && slower.sentence.contains("500 ms"));
        assert!(
            slower.sentence.contains("longer than about 5.0 s"),
            "{}",
            slower.sentence
        );
        with_cell(&mut report, "startup/true", Subject::Caisson, seconds(0.05));
        let faster = start(&Rows(&report)).expect("a sentence");
        assert!(faster.sentence.contains("no slower"));
    }

    #[test]
    fn a_failed_row_carries_no_sentence() {
        let mut report = report();
        let seconds = Cell::measured(Unit::Seconds, vec![1.0]);
        with_cell(&mut report, "startup/true", Subject::Runc, seconds);
        with_cell(
            &mut report,
            "startup/true",
            Subject::Caisson,
            Cell::failed(Some(1), "no"),
        );
        assert_eq!(start(&Rows(&report)), None);
        assert_eq!(template(&Rows(&report)), None);
    }

    #[test]
    fn work_is_sorted_by_its_cost_whichever_way_it_counts() {
        let mut report = report();
        for (id, unit, runc, caisson) in [
            ("work/hash", Unit::OperationsPerSecond, 100.0, 99.0),
            ("work/files", Unit::OperationsPerSecond, 100.0, 10.0),
            ("work/read", Unit::Seconds, 1.0, 2.0),
            ("work/cached", Unit::Seconds, 1.0, 0.5),
        ] {
            with_cell(
                &mut report,
                id,
                Subject::Runc,
                Cell::measured(unit, vec![runc; 3]),
            );
            with_cell(
                &mut report,
                id,
                Subject::Caisson,
                Cell::measured(unit, vec![caisson; 3]),
            );
        }
        let all = work(&Rows(&report));
        let cites: Vec<_> = all
            .iter()
            .map(|statement| statement.cites.join(" "))
            .collect();
        assert_eq!(
            cites,
            ["work/cached", "work/hash", "work/read", "work/files"]
        );
        assert!(
            all[3].sentence.contains("10.0 times"),
            "{}",
            all[3].sentence
        );
    }

    #[test]
    fn memory_is_no_work() {
        let mut report = report();
        let bytes = |value: f64| Cell::measured(Unit::Bytes, vec![value; 3]);
        with_cell(&mut report, "work/memory", Subject::Runc, bytes(1e6));
        with_cell(&mut report, "work/memory", Subject::Caisson, bytes(128e6));
        assert!(work(&Rows(&report)).is_empty());
        let sentence = memory(&Rows(&report)).expect("a sentence").sentence;
        assert!(
            sentence.contains("122 MiB") && sentence.contains("1.0 MiB"),
            "{sentence}"
        );
    }
}
