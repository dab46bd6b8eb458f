//! Numbers that summarise a few dozen timings.
//!
//! Timings are not normally distributed: most are near a floor and some are far
//! above it. So nothing here uses a mean or a standard deviation. Intervals come
//! from order statistics, which hold whatever the distribution is, need no random
//! numbers and give the same answer for the same samples.

use serde::{Deserialize, Serialize};

/// How sure an interval is, at the least.
pub const CONFIDENCE: f64 = 0.95;

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// What samples come to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// How many samples there are.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The first quartile.
    pub p25: f64,
    /// The median.
    pub p50: f64,
    /// The third quartile.
    pub p75: f64,
    /// Nineteen of twenty are below it.
    pub p95: f64,
    /// The largest.
    pub max: f64,
    /// Where the true median is, with 95 % confidence. There is none for fewer
    /// than six samples: they cannot carry it.
    pub median_interval: Option<Interval>,
}

impl Summary {
    /// Summarises samples; `None` if there are none, or one is not a number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if !samples.iter().all(|sample| sample.is_finite()) {
            return None;
        }
        let sorted = sorted(samples);
        Some(Self {
            count: sorted.len(),
            min: *sorted.first()?,
            p25: percentile(&sorted, 0.25)?,
            p50: percentile(&sorted, 0.50)?,
            p75: percentile(&sorted, 0.75)?,
            p95: percentile(&sorted, 0.95)?,
            max: *sorted.last()?,
            median_interval: median_interval(&sorted, CONFIDENCE),
        })
    }
}

/// One median divided by another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    /// The quotient of the medians.
    pub value: f64,
    /// Where the true quotient is, with 95 % confidence. There is none for fewer
    /// than six samples on either side.
    pub interval: Option<Interval>,
}

impl Ratio {
    /// The median of `samples` over the median of `baseline`.
    ///
    /// Its interval is made of those of the two medians, on a logarithmic scale:
    /// the distances from a median to its ends add up as variances do (MOVER;
    /// Donner and Zou, Statistical Methods in Medical Research 21, 2012). It takes
    /// the two series to be independent and needs no random numbers.
    pub fn of(samples: &[f64], baseline: &[f64]) -> Option<Self> {
        let (above, below) = (sorted(samples), sorted(baseline));
        let (over, under) = (percentile(&above, 0.5)?, percentile(&below, 0.5)?);
        let value = over / under;
        if !value.is_finite() {
            return None;
        }
        let ends = (
            median_interval(&above, CONFIDENCE),
            median_interval(&below, CONFIDENCE),
        );
        let interval = match ends {
            (Some(of_above), Some(of_below)) if of_above.low > 0.0 && of_below.low > 0.0 => {
                let down = (over / of_above.low)
                    .ln()
                    .hypot((of_below.high / under).ln());
                let up = (of_above.high / over)
                    .ln()
                    .hypot((under / of_below.low).ln());
                Some(Interval {
                    low: value * (-down).exp(),
                    high: value * up.exp(),
                })
            }
            _ => None,
        };
        Some(Self { value, interval })
    }
}

/// The smallest first.
fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value below which `share` of the sorted samples are.
///
/// Between two samples it is interpolated: rank `share * (n - 1)`, counted from
/// zero. This is definition 7 of Hyndman and Fan, which R and NumPy use too.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = share.clamp(0.0, 1.0) * (sorted.len().checked_sub(1)? as f64);
    let below = rank.floor();
    let low = sorted.get(below as usize)?;
    let high = sorted.get(rank.ceil() as usize)?;
    Some(low + (high - low) * (rank - below))
}

/// The narrowest pair of samples, equally far from both ends, between which the
/// true median is with at least this confidence.
///
/// Each sample is below the median with probability one half, whatever the
/// distribution. So the k-th smallest and the k-th largest of n enclose it unless
/// fewer than k samples fell on one side: probability 1 - 2 P(B < k), with B from
/// the binomial distribution (n, 1/2).
pub fn median_interval(sorted: &[f64], confidence: f64) -> Option<Interval> {
    let count = sorted.len();
    // A logarithm, since 2^-n is zero for n above a thousand.
    let mut chance = -(count as f64) * std::f64::consts::LN_2;
    let mut missed = 0.0;
    let mut best = None;
    for k in 1..=count / 2 {
        missed += chance.exp();
        if 1.0 - 2.0 * missed < confidence {
            break;
        }
        best = Some(Interval {
            low: sorted[k - 1],
            high: sorted[count - k],
        });
        chance += ((count - k + 1) as f64 / k as f64).ln();
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    fn first(count: usize) -> Vec<f64> {
        (1..=count).map(|number| number as f64).collect()
    }

    #[test]
    fn percentiles_are_those_of_r_and_numpy() {
        // numpy.percentile([15, 20, 35, 40, 50], [5, 40, 50, 95])
        let sorted = [15.0, 20.0, 35.0, 40.0, 50.0];
        for (share, expected) in [(0.05, 16.0), (0.40, 29.0), (0.5, 35.0), (0.95, 48.0)] {
            let found = percentile(&sorted, share).unwrap();
            assert!(close(found, expected), "{share}: {found}");
        }
        assert!(close(percentile(&first(4), 0.5).unwrap(), 2.5));
        assert!(close(percentile(&[7.0], 0.95).unwrap(), 7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    /// Ranks and coverage from Conover, Practical Nonparametric Statistics, and
    /// qbinom(0.025, n, 0.5) of R.
    #[test]
    fn interval_of_the_median_has_the_ranks_of_the_tables() {
        for (count, low, high) in [
            (6, 1.0, 6.0),
            (8, 1.0, 8.0),
            (9, 2.0, 8.0),
            (10, 2.0, 9.0),
            (15, 4.0, 12.0),
            (20, 6.0, 15.0),
            (25, 8.0, 18.0),
            (50, 18.0, 33.0),
            (100, 40.0, 61.0),
        ] {
            let interval = median_interval(&first(count), 0.95);
            assert_eq!(interval, Some(Interval { low, high }), "{count}");
        }
    }

    #[test]
    fn few_samples_have_no_interval() {
        for count in 0..6 {
            assert_eq!(median_interval(&first(count), 0.95), None, "{count}");
        }
    }

    #[test]
    fn many_samples_do_not_underflow() {
        for (count, low, high) in [(1000, 469.0, 532.0), (5000, 2431.0, 2570.0)] {
            let interval = median_interval(&first(count), 0.95);
            assert_eq!(interval, Some(Interval { low, high }), "{count}");
        }
    }

    #[test]
    fn summary_does_not_depend_on_the_order() {
        let mut samples = first(21);
        samples.reverse();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!(summary.count, 21);
        assert!(close(summary.min, 1.0) && close(summary.max, 21.0));
        assert!(close(summary.p25, 6.0) && close(summary.p75, 16.0));
        assert!(close(summary.p50, 11.0) && close(summary.p95, 20.0));
        assert_eq!(
            summary.median_interval,
            Some(Interval {
                low: 6.0,
                high: 16.0
            })
        );
    }

    #[test]
    fn what_is_no_number_is_not_summarised() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::of(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn interval_of_a_ratio_adds_up_distances_of_logarithms() {
        // Medians 100 and 10; intervals 50 to 200 and 10 / 2^0.75 to 10 * 2^0.75.
        // Distances in doublings: 1 and 0.75, together 1.25.
        let steep = 2_f64.powf(0.75);
        let above = [50.0, 50.0, 100.0, 100.0, 200.0, 200.0];
        let below = [10.0 / steep, 10.0, 10.0, 10.0, 10.0, 10.0 * steep];
        let ratio = Ratio::of(&above, &below).unwrap();
        assert!(close(ratio.value, 10.0));
        let interval = ratio.interval.unwrap();
        let far = 2_f64.powf(1.25);
        assert!(close(interval.low, 10.0 / far) && close(interval.high, 10.0 * far));
    }

    #[test]
    fn a_ratio_of_equal_series_is_about_one() {
        let ratio = Ratio::of(&first(20), &first(20)).unwrap();
        let interval = ratio.interval.unwrap();
        assert!(close(ratio.value, 1.0));
        assert!(interval.low < 1.0 && interval.high > 1.0);
        assert!(interval.low > 6.0 / 15.0 && interval.high < 15.0 / 6.0);
    }

    #[test]
    fn ratio_of_few_samples_has_no_interval() {
        let ratio = Ratio::of(&first(5), &first(20)).unwrap();
        assert!(close(ratio.value, 3.0 / 10.5));
        assert_eq!(ratio.interval, None);
        assert!(Ratio::of(&first(6), &first(6)).unwrap().interval.is_some());
        let with_zero = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0];
        assert_eq!(Ratio::of(&with_zero, &first(6)).unwrap().interval, None);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(Ratio::of(&[1.0], &[0.0]), None);
        assert_eq!(Ratio::of(&[1.0], &[]), None);
        assert_eq!(Ratio::of(&[], &[1.0]), None);
    }
}
