//! A proportion of runs with its confidence interval.

use std::fmt::Write as _;

/// The 97.5th percentile of the normal distribution: an interval of 95 %.
const Z_95: f64 = 1.959_963_984_540_054;

/// A number of runs out of a larger number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proportion {
    /// Number of runs with the property.
    pub count: u32,
    /// Number of all runs.
    pub of: u32,
}

impl Proportion {
    /// Counts the runs with a property.
    pub fn count<T>(runs: &[T], has: impl Fn(&T) -> bool) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            count: number(runs.iter().filter(|run| has(run)).count()),
            of: number(runs.len()),
        }
    }

    /// The percentage, from 0 to 100. 0 without runs.
    pub fn percent(self) -> f64 {
        100.0 * f64::from(self.count) / f64::from(self.of.max(1))
    }

    /// Whether at least half of the runs have the property.
    pub fn is_most(self) -> bool {
        2 * u64::from(self.count) >= u64::from(self.of)
    }

    /// The 95 % interval of the percentage (Wilson 1927), which is also useful at 0 runs with the
    /// property. From 0 to 100 without runs.
    pub fn interval(self) -> (f64, f64) {
        if self.of == 0 {
            return (0.0, 100.0);
        }
        let (n, p) = (
            f64::from(self.of),
            f64::from(self.count) / f64::from(self.of),
        );
        let z2 = Z_95 * Z_95;
        let middle = p + z2 / (2.0 * n);
        let half = Z_95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let bound = |value: f64| (100.0 * value / (1.0 + z2 / n)).clamp(0.0, 100.0);
        (bound(middle - half), bound(middle + half))
    }

    /// The percentage and its interval, for example `2.5 [1.7, 3.7]`.
    pub fn with_interval(self) -> String {
        let (low, high) = self.interval();
        let mut text = format_percent(self.percent());
        let _ = write!(text, " [{}, {}]", format_percent(low), format_percent(high));
        text
    }
}

/// Formats a percentage with one decimal place.
pub(crate) fn format_percent(percent: f64) -> String {
    format!("{percent:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_wilson() {
        let none = Proportion { count: 0, of: 1000 };
        assert_eq!(none.with_interval(), "0.0 [0.0, 0.4]");
        let some = Proportion {
            count: 25,
            of: 1000,
        };
        let (low, high) = some.interval();
        assert!(
            (low - 1.699).abs() < 1e-3 && (high - 3.664).abs() < 1e-3,
            "{low} {high}"
        );
        assert_eq!(Proportion::default().interval(), (0.0, 100.0));
        assert_eq!(
            Proportion::count(&[1, 2, 3], |run| *run > 1),
            Proportion { count: 2, of: 3 }
        );
    }
}
