//! Summaries of measured values.

use serde::{Deserialize, Serialize};

/// Distribution of measured values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of values.
    pub count: u32,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest value.
    pub max: f64,
}

impl Summary {
    /// The summary of `values`. `None` if there are none.
    pub fn from_values(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let count = u32::try_from(values.len()).ok()?;
        let max = *values.last()?;
        Some(Self {
            count,
            mean: values.iter().sum::<f64>() / f64::from(count),
            p50: quantile(&values, 50),
            p90: quantile(&values, 90),
            p99: quantile(&values, 99),
            max,
        })
    }

    /// The largest value relative to the mean. A queue that is served in order gives at most 2 for
    /// requests that arrive at once, because their waits are spread evenly from 0 to the largest.
    pub fn max_to_mean(&self) -> Option<f64> {
        ratio(self.max, self.mean)
    }
}

/// The smallest of the sorted values that at least `percent` % of them do not exceed (nearest
/// rank). 0 if there are no values.
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// `value / base`. `None` if the base is not positive.
pub fn ratio(value: f64, base: f64) -> Option<f64> {
    (base > 0.0).then(|| value / base)
}

/// The exponent `e` of a cost that grows as `size^e` from `small` to `large`, each a size and its
/// cost. 1 is growth in proportion. `None` if the sizes are equal, or a value is not positive.
pub fn growth_exponent(small: (f64, f64), large: (f64, f64)) -> Option<f64> {
    let sizes = ratio(large.0, small.0)?;
    let costs = ratio(large.1, small.1)?;
    (sizes > 0.0 && sizes.ln() != 0.0 && costs > 0.0).then(|| costs.ln() / sizes.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let summary = Summary::from_values((1..=200).rev().map(f64::from).collect()).unwrap();
        assert_eq!(summary.count, 200);
        assert!((summary.mean - 100.5).abs() < 1e-9);
        let quantiles = [summary.p50, summary.p90, summary.p99, summary.max];
        assert_eq!(
            quantiles.map(|value| value.to_string()),
            ["100", "180", "198", "200"]
        );
    }

    #[test]
    fn few_values_have_a_summary_and_none_have_not() {
        let one = Summary::from_values(vec![3.0]).unwrap();
        let values = [one.p50, one.p99, one.max, one.mean];
        assert_eq!(values.map(|value| value.to_string()), ["3"; 4]);
        assert_eq!(Summary::from_values(Vec::new()), None);
    }

    #[test]
    fn waits_of_a_queue_served_in_order_end_at_twice_their_mean() {
        let waits = (0..1000).map(|place| f64::from(place) * 0.014).collect();
        let fair = Summary::from_values(waits).unwrap().max_to_mean().unwrap();
        assert!((fair - 2.0).abs() < 0.01, "{fair}");
        let mut waits = vec![0.5; 900];
        waits.extend([60.0; 100]);
        assert!(Summary::from_values(waits).unwrap().max_to_mean().unwrap() > 8.0);
    }

    #[test]
    fn exponents_describe_growth() {
        let exponent = growth_exponent((1000.0, 36.25), (3000.0, 251.95)).unwrap();
        assert!((exponent - 1.765).abs() < 0.001, "{exponent}");
        assert_eq!(growth_exponent((10.0, 2.0), (20.0, 2.0)), Some(0.0));
        assert_eq!(growth_exponent((10.0, 2.0), (10.0, 4.0)), None);
        assert_eq!(growth_exponent((10.0, 0.0), (20.0, 4.0)), None);
        assert_eq!(growth_exponent((10.0, 2.0), (20.0, 0.0)), None);
    }

    #[test]
    fn a_ratio_needs_a_positive_base() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(ratio(3.0, 0.0), None);
    }
}
