//! How the samples of one row are spread.

use maud::{Markup, html};

use super::{Lane, MIDDLE, Scale, chart, percent};
use crate::model::{Measurement, Row, Subject, Unit};
use crate::report::{number, prose};

/// More dots than this are a line.
const DOTS: usize = 60;

/// How such a chart is read.
pub const LEGEND: &str = "Dot: one sample. Box: the middle half. Line: the median. \
    Bar below: where the true median is, with 95 % confidence. Triangle: 95 % are below.";

/// A lane for each subject that was measured; no chart for rows with none, or with
/// single samples only.
pub fn intervals(row: &Row) -> Option<Markup> {
    let measured: Vec<(Subject, &Measurement)> = row
        .cells
        .iter()
        .filter_map(|(subject, cell)| Some((*subject, cell.measurement()?)))
        .collect();
    let unit = measured.first()?.1.unit;
    let usable = |(_, measurement): &(Subject, &Measurement)| measurement.unit == unit;
    if !measured.iter().all(usable) || measured.iter().all(|(_, one)| one.summary.count < 2) {
        return None;
    }
    let ends = measured
        .iter()
        .flat_map(|(_, one)| [one.summary.min, one.summary.max]);
    let largest = ends.clone().fold(0.0, f64::max);
    let step = step(unit, largest);
    let scale = Scale::around(ends, step)?;
    let lanes: Vec<Lane> = measured
        .iter()
        .map(|(subject, measurement)| lane(*subject, measurement, &scale))
        .collect();
    let write = |value| number::tick(value, unit, step);
    let caption = html! { strong { (prose::markup(&row.title)) ", sample by sample." } };
    Some(chart(&caption, &scale, &write, &lanes))
}

fn lane(subject: Subject, measurement: &Measurement, scale: &Scale) -> Lane {
    let Measurement { unit, summary, .. } = measurement;
    let place = |value| percent(scale.place(value));
    let write = |value| number::quantity(value, *unit);
    let width = |low, high| percent(scale.place(high) - scale.place(low));
    let mut title = format!(
        "{subject}: median {}, from {} to {}, 95 % below {}, {} samples",
        write(summary.p50),
        write(summary.min),
        write(summary.max),
        write(summary.p95),
        summary.count
    );
    if let Some(interval) = summary.median_interval {
        title += &format!("; median between {}", number::range(interval, *unit));
    }
    Lane {
        label: html! {
            b class=(subject) { (subject) } " " (write(summary.p50))
        },
        title,
        picture: html! {
            g class=(subject) {
                line.whisker x1=(place(summary.min)) x2=(place(summary.max)) y1=(MIDDLE) y2=(MIDDLE) {}
                rect.box x=(place(summary.p25)) width=(width(summary.p25, summary.p75)) y=(MIDDLE - 7) height="14" {}
                @for sample in dots(&measurement.samples) {
                    circle.dot cx=(place(sample)) cy=(MIDDLE) r="2.5" {}
                }
                @if let Some(interval) = summary.median_interval {
                    rect.band x=(place(interval.low)) width=(width(interval.low, interval.high)) y=(MIDDLE + 8) height="4" {}
                }
                line.median x1=(place(summary.p50)) x2=(place(summary.p50)) y1=(MIDDLE - 9) y2=(MIDDLE + 9) {}
                svg x=(place(summary.p95)) y=(MIDDLE - 12) overflow="visible" {
                    path.mark d="M-4 -1 L4 -1 L0 6 Z" {}
                }
            }
        },
    }
}

/// All samples, or as many of the sorted ones as can be told apart.
fn dots(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let stride = sorted.len().div_ceil(DOTS).max(1);
    sorted.into_iter().step_by(stride).collect()
}

/// What ticks are multiples of.
fn step(unit: Unit, largest: f64) -> f64 {
    match unit {
        Unit::Bytes | Unit::BytesPerSecond => {
            1024_f64.powf(largest.max(1.0).log(1024.0).floor().max(0.0))
        }
        Unit::Seconds | Unit::OperationsPerSecond | Unit::RequestsPerSecond => 1.0,
    }
}
