//! From values to places on an axis.

/// An axis: its ends and the values that are written on it.
pub struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

/// From this quotient of the largest and the smallest value on, a linear axis
/// would press the small ones together.
const LOGARITHMIC_FROM: f64 = 8.0;

/// More ticks than this are noise.
const TICKS: usize = 6;

impl Scale {
    /// An axis for all these values, which are multiples of `unit` (1, or a
    /// power of 1024). A linear one begins at zero, so that lengths compare.
    /// There is none for no values, or for one that is negative.
    pub fn around(values: impl IntoIterator<Item = f64>, unit: f64) -> Option<Self> {
        let mut values = values.into_iter().map(|value| value / unit);
        let first = values.next()?;
        let (low, high) = values.fold((first, first), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if !low.is_finite() || !high.is_finite() || low < 0.0 || high == 0.0 {
            return None;
        }
        let mut scale = if low > 0.0 && high / low >= LOGARITHMIC_FROM {
            Self::logarithmic(low, high)
        } else {
            Self::linear(high)
        };
        scale.low *= unit;
        scale.high *= unit;
        scale.ticks.iter_mut().for_each(|tick| *tick *= unit);
        Some(scale)
    }

    /// An axis of ratios: always logarithmic, with 1 on it, since half as much
    /// and twice as much are equally far.
    pub fn of_ratios(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let usable = |value: &f64| value.is_finite() && *value > 0.0;
        let mut values = values.into_iter().filter(usable).peekable();
        values.peek()?;
        let (low, high) = values.fold((0.8_f64, 1.25_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        Some(Self::logarithmic(low, high))
    }

    fn linear(high: f64) -> Self {
        let rough = high / (TICKS - 1) as f64;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|digit| digit * decade)
            .find(|step| *step >= rough * (1.0 - 1e-9))
            .unwrap_or(10.0 * decade);
        let steps = (high / step - 1e-9).ceil();
        Self {
            low: 0.0,
            high: steps * step,
            logarithmic: false,
            ticks: (0..=steps as u32)
                .map(|index| f64::from(index) * step)
                .collect(),
        }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let first = low.log10().floor() as i32;
        let last = high.log10().ceil() as i32;
        let all: Vec<f64> = (first..=last)
            .flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)))
            .collect();
        let below = all.iter().rposition(|tick| *tick <= low * (1.0 + 1e-9));
        let above = all.iter().position(|tick| *tick >= high * (1.0 - 1e-9));
        let (start, end) = (below.unwrap_or(0), above.unwrap_or(all.len() - 1));
        let inside = &all[start..=end];
        // Every tick, or the powers of ten, or as many of those as fit.
        let mut ticks = inside.to_vec();
        if ticks.len() > TICKS {
            ticks = (first..=last)
                .map(|decade| 10_f64.powi(decade))
                .filter(|tick| inside.iter().any(|other| (other / tick - 1.0).abs() < 1e-9))
                .collect();
        }
        let stride = ticks.len().div_ceil(TICKS);
        Self {
            low: inside[0],
            high: inside[inside.len() - 1],
            logarithmic: true,
            ticks: ticks.into_iter().step_by(stride.max(1)).collect(),
        }
    }

    /// Where a value is, in percent of the axis.
    pub fn place(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        (share * 100.0).clamp(0.0, 100.0)
    }

    /// The values that are written on the axis.
    pub fn ticks(&self) -> &[f64] {
        &self.ticks
    }

    /// Whether equal steps are equal factors.
    pub fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: &Scale) -> Vec<String> {
        scale
            .ticks()
            .iter()
            .map(|tick| format!("{tick:.3}"))
            .collect()
    }

    #[test]
    fn linear_axis_begins_at_zero() {
        let scale = Scale::around([0.9, 1.9], 1.0).unwrap();
        assert_eq!(ticks(&scale), ["0.000", "0.500", "1.000", "1.500", "2.000"]);
        assert!((scale.place(0.5) - 25.0).abs() < 1e-9);
        assert!(!scale.is_logarithmic());
    }

    #[test]
    fn wide_ranges_are_logarithmic() {
        let scale = Scale::around([0.09, 1.9], 1.0).unwrap();
        assert!(scale.is_logarithmic());
        let expected = ["0.050", "0.100", "0.200", "0.500", "1.000", "2.000"];
        assert_eq!(ticks(&scale), expected);
        assert!(scale.place(0.05).abs() < 1e-9 && (scale.place(2.0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn bytes_have_binary_ticks() {
        let mebibyte = 1_048_576.0;
        let scale = Scale::around([30.0 * mebibyte, 90.0 * mebibyte], mebibyte).unwrap();
        assert_eq!(scale.ticks().last(), Some(&(100.0 * mebibyte)));
    }

    #[test]
    fn ratios_are_around_one() {
        let scale = Scale::of_ratios([3.0]).unwrap();
        assert!(scale.ticks().contains(&1.0), "{:?}", scale.ticks());
        assert!(scale.place(1.0) < scale.place(3.0));
    }

    #[test]
    fn nothing_has_no_axis() {
        assert!(Scale::around([], 1.0).is_none());
        assert!(Scale::around([0.0], 1.0).is_none());
        assert!(Scale::around([-1.0, 2.0], 1.0).is_none());
        assert!(Scale::of_ratios([f64::NAN]).is_none());
    }
}
