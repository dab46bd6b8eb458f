//! What each runtime costs beside the baseline, row by row.

use maud::{Markup, html};

use super::{Lane, MIDDLE, Scale, chart, percent};
use crate::model::{Row, Section, Subject};
use crate::report::{number, prose};
use crate::statistics::Ratio;

/// Fewer rows need no overview.
const ROWS: usize = 2;

/// A row's cost under one runtime.
struct Cost<'a> {
    row: &'a Row,
    subject: Subject,
    baseline: Subject,
    ratio: Ratio,
}

/// A lane for each row and runtime with a ratio.
pub fn ratios(section: &Section) -> Option<Markup> {
    let costs: Vec<Cost<'_>> = section.rows.iter().flat_map(costs).collect();
    let baseline = costs.first()?.baseline;
    let mut rows: Vec<&str> = costs.iter().map(|cost| cost.row.id.as_str()).collect();
    rows.dedup();
    if rows.len() < ROWS {
        return None;
    }
    let scale = Scale::of_ratios(costs.iter().flat_map(|cost| {
        let ends = cost
            .ratio
            .interval
            .map(|interval| [interval.low, interval.high]);
        ends.into_iter().flatten().chain([cost.ratio.value])
    }))?;
    let mut previous = "";
    let lanes: Vec<Lane> = costs
        .iter()
        .map(|cost| {
            let is_first = previous != cost.row.id;
            previous = &cost.row.id;
            lane(cost, is_first, &scale)
        })
        .collect();
    let caption = html! {
        strong { "Cost beside " (baseline) "." }
        " 1× is what " (baseline) " needs for the same work; right of it is slower or larger. "
        "Bar: where the true ratio is, with 95 % confidence."
    };
    Some(chart(&caption, &scale, &number::plain_times, &lanes))
}

fn costs(row: &Row) -> impl Iterator<Item = Cost<'_>> {
    // The host is no runtime; the table has it.
    let runtimes = row
        .cells
        .iter()
        .filter(|(subject, _)| **subject != Subject::Host);
    runtimes.filter_map(move |(subject, cell)| {
        let (relation, ratio) = number::cost(cell.measurement()?)?;
        Some(Cost {
            row,
            subject: *subject,
            baseline: relation.baseline,
            ratio,
        })
    })
}

fn lane(cost: &Cost<'_>, is_first: bool, scale: &Scale) -> Lane {
    let Cost {
        row,
        subject,
        baseline,
        ratio,
    } = cost;
    let place = |value| percent(scale.place(value));
    Lane {
        label: html! {
            @if is_first { (prose::markup(&row.title)) " " }
            b class=(subject) { (subject) } " " (number::times(ratio.value))
        },
        title: format!(
            "{}: {subject} {}",
            row.title,
            number::ratio(*ratio, *baseline)
        ),
        picture: html! {
            line.one x1=(place(1.0)) x2=(place(1.0)) y1="0" y2="100%" {}
            g class=(subject) {
                @if let Some(interval) = ratio.interval {
                    @let width = scale.place(interval.high) - scale.place(interval.low);
                    rect.band x=(place(interval.low)) width=(percent(width)) y=(MIDDLE - 2) height="4" {}
                }
                svg x=(place(ratio.value)) y=(MIDDLE) overflow="visible" {
                    path.mark d=(shape(*subject)) {}
                }
            }
        },
    }
}

/// Not by colour alone.
fn shape(subject: Subject) -> &'static str {
    match subject {
        Subject::Host => "M-6 5 L6 5 L0 -6 Z",
        Subject::Runc => "M-6 -5 L6 -5 L0 6 Z",
        Subject::Crun => "M-5 0 A5 5 0 1 0 5 0 A5 5 0 1 0 -5 0 Z",
        Subject::Runsc => "M-6 0 L0 -6 L6 0 L0 6 Z",
        Subject::Caisson => "M-5 -5 H5 V5 H-5 Z",
    }
}
