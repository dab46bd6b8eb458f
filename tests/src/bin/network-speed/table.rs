//! What stands side by side.

use caisson_compare::statistics::Summary;
use caisson_end_to_end::netns::Netns;

use crate::measure::{Measure, Servers};

/// Width of a column.
const WIDTH: usize = 20;

/// One of those that are compared.
pub struct Column<'a> {
    pub name: &'a str,
    pub servers: Servers,
    /// Is called before it is measured, and with `false` after that.
    pub switch: Box<dyn Fn(bool) + 'a>,
}

/// Measures everything in turn and prints medians, and their ratios to the first column's.
pub fn measure(client: &Netns, columns: &[Column<'_>], measures: &[Measure], rounds: usize) {
    let mut samples = vec![vec![Vec::new(); columns.len()]; measures.len()];
    for round in 1..=rounds {
        for (measure, samples) in measures.iter().zip(&mut samples) {
            eprintln!("round {round} of {rounds}: {measure}");
            for (column, samples) in columns.iter().zip(samples) {
                (column.switch)(true);
                samples.extend(measure.take(client, column.servers));
                (column.switch)(false);
            }
        }
    }
    print!("{:44}", format!("MEASURED ({rounds} rounds, medians)"));
    for column in columns {
        print!("{:>WIDTH$}", column.name);
    }
    println!();
    for (measure, samples) in measures.iter().zip(&samples) {
        let summaries: Vec<_> = samples
            .iter()
            .map(|samples| Summary::of(samples).expect("something was measured"))
            .collect();
        let line = |what: &str, value: fn(&Summary) -> f64| {
            print!("{:44}", format!("{measure}{what}"));
            let first = value(&summaries[0]);
            for summary in &summaries {
                let value = value(summary);
                print!(
                    "{:>WIDTH$}",
                    format!("{} {:6.2}", shown(value), value / first)
                );
            }
            println!();
        };
        match measure {
            Measure::Latency { .. } => {
                line(": p50", |summary| summary.p50);
                line(": p95", |summary| summary.p95);
                line(": max", |summary| summary.max);
            }
            _ => line("", |summary| summary.p50),
        }
    }
}

/// With three digits or more.
fn shown(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
