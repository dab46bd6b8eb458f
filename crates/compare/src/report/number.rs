//! Numbers as people read them: three digits and a unit.

use crate::model::{Measurement, Relation, Subject, Unit};
use crate::statistics::{Interval, Ratio};

/// A value with its unit: `93.1 ms`, `1.21 GiB/s`.
pub fn quantity(value: f64, unit: Unit) -> String {
    const TIME: &[(f64, &str)] = &[(1.0, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns")];
    const COUNT: &[(f64, &str)] = &[(1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")];
    const BYTES: &[(f64, &str)] = &[
        (1_073_741_824.0, " GiB"),
        (1_048_576.0, " MiB"),
        (1024.0, " KiB"),
        (1.0, " B"),
    ];
    match unit {
        Unit::Seconds => scaled(value, TIME),
        Unit::Bytes => scaled(value, BYTES),
        Unit::BytesPerSecond => format!("{}/s", scaled(value, BYTES)),
        Unit::OperationsPerSecond => format!("{} op/s", scaled(value, COUNT)),
        Unit::RequestsPerSecond => format!("{} requests/s", three_digits(value)),
    }
}

/// The same for an axis whose ticks are multiples of a step: in the step's unit, and
/// without digits that say nothing.
pub fn tick(value: f64, unit: Unit, step: f64) -> String {
    let written = quantity(value, unit);
    let of_step = quantity(step, unit);
    match (unit, written.split_once(' '), of_step.split_once(' ')) {
        (Unit::Bytes | Unit::BytesPerSecond, _, Some((_, suffix))) => {
            format!("{} {suffix}", (value / step * 1e4).round() / 1e4)
        }
        (_, Some((number, suffix)), _) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number} {suffix}")
        }
        _ => written,
    }
}

/// From where to where, with the unit.
pub fn range(interval: Interval, unit: Unit) -> String {
    format!(
        "{} to {}",
        quantity(interval.low, unit),
        quantity(interval.high, unit)
    )
}

/// `21×`.
pub fn times(value: f64) -> String {
    let decimals = match value {
        10.0.. => 0,
        1.0..10.0 => 1,
        0.01..1.0 => 2,
        _ => 4,
    };
    format!("{value:.decimals$}×")
}

/// The same for an axis: `0.5×`.
pub fn plain_times(value: f64) -> String {
    format!("{}×", (value * 1e4).round() / 1e4)
}

/// `21× runc (19× to 24×)`.
pub fn ratio(ratio: Ratio, baseline: Subject) -> String {
    let mut text = format!("{} {baseline}", times(ratio.value));
    if let Some(Interval { low, high }) = ratio.interval {
        text += &format!(" ({} to {})", times(low), times(high));
    }
    text
}

/// How many times the baseline's time, memory or work: above one is worse,
/// whichever way the unit counts.
pub fn cost(measurement: &Measurement) -> Option<(Relation, Ratio)> {
    let relation = measurement.relation?;
    let cost = if measurement.unit.less_is_better() {
        relation.ratio
    } else {
        Ratio {
            value: 1.0 / relation.ratio.value,
            interval: relation.ratio.interval.map(|interval| Interval {
                low: 1.0 / interval.high,
                high: 1.0 / interval.low,
            }),
        }
    };
    cost.value.is_finite().then_some((relation, cost))
}

/// A span of time: `6 min 12 s`.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        _ => format!("{} min {} s", whole / 60, whole % 60),
    }
}

/// In the largest step that leaves something before the point.
fn scaled(value: f64, steps: &[(f64, &str)]) -> String {
    if value == 0.0 {
        let unit = steps.iter().find(|(step, _)| *step == 1.0);
        return format!("0{}", unit.map_or("", |(_, suffix)| suffix));
    }
    // 0.9995 rounds to 1.00: it belongs to the step above.
    let fits = |(step, _): &&(f64, &str)| value.abs() >= step * 0.9995;
    let chosen = steps.iter().find(fits).or(steps.last());
    match chosen {
        Some((step, suffix)) => format!("{}{suffix}", three_digits(value / step)),
        None => three_digits(value),
    }
}

fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        99.95.. => 0,
        9.995..99.95 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_digits() {
        for (value, unit, expected) in [
            (1.9234, Unit::Seconds, "1.92 s"),
            (0.093_12, Unit::Seconds, "93.1 ms"),
            (0.000_999_9, Unit::Seconds, "1.00 ms"),
            (4.2e-10, Unit::Seconds, "0.42 ns"),
            (0.0, Unit::Seconds, "0 s"),
            (123.4, Unit::Seconds, "123 s"),
            (129_394_278.4, Unit::Bytes, "123 MiB"),
            (512.0, Unit::Bytes, "512 B"),
            (1.5 * 1_073_741_824.0, Unit::BytesPerSecond, "1.50 GiB/s"),
            (1_234_567.0, Unit::OperationsPerSecond, "1.23 M op/s"),
            (42.0, Unit::OperationsPerSecond, "42.0 op/s"),
            (0.0, Unit::OperationsPerSecond, "0 op/s"),
            (1234.0, Unit::RequestsPerSecond, "1234 requests/s"),
        ] {
            assert_eq!(quantity(value, unit), expected);
        }
    }

    #[test]
    fn ticks_are_shorter() {
        for (value, unit, expected) in [
            (0.05, Unit::Seconds, "50 ms"),
            (1.5, Unit::Seconds, "1.5 s"),
            (0.0, Unit::Seconds, "0 s"),
            (200.0, Unit::RequestsPerSecond, "200 requests/s"),
        ] {
            assert_eq!(tick(value, unit, 1.0), expected);
        }
        let gibibyte = 1_073_741_824.0;
        let of_bytes = |value| tick(value * gibibyte, Unit::BytesPerSecond, gibibyte);
        assert_eq!(of_bytes(0.1), "0.1 GiB/s");
        assert_eq!(of_bytes(20.0), "20 GiB/s");
    }

    #[test]
    fn ratios_are_short() {
        assert_eq!(times(21.34), "21×");
        assert_eq!(times(1.04), "1.0×");
        assert_eq!(times(0.207), "0.21×");
        let interval = Some(Interval {
            low: 19.2,
            high: 23.8,
        });
        let found = Ratio {
            value: 21.0,
            interval,
        };
        assert_eq!(ratio(found, Subject::Runc), "21× runc (19× to 24×)");
    }

    #[test]
    fn spans_are_in_minutes() {
        assert_eq!(span(59.4), "59 s");
        assert_eq!(span(372.0), "6 min 12 s");
    }
}
