//! Overdispersion of the stable pods: the degree to which their errors cluster compared with
//! independent errors.

use serde::{Deserialize, Serialize};

use crate::counts::PodCounts;

/// Running sums of `phi = sum_t E_t X2_t / sum_t (P_t - 1) E_t`.
///
/// `X2_t` is Pearson's statistic of the tick's errors over the pods. A heuristic: if trials are
/// independent, a temper `k >= 1` from earlier ticks preserves the bound (Jensen's inequality). If
/// they are not, only simulation supports it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Overdispersion {
    numerator: f64,
    denominator: f64,
}

impl Overdispersion {
    /// Adds one tick of the stable pods. Fewer than two pods with requests are ignored.
    pub fn add(&mut self, pods: &[PodCounts]) {
        let serving = || pods.iter().filter(|pod| pod.requests > 0.0);
        let count = serving().count();
        let requests: f64 = serving().map(|pod| pod.requests).sum();
        let errors: f64 = serving().map(|pod| pod.errors).sum();
        if count < 2 || errors <= 0.0 {
            return;
        }
        let chi_squared: f64 = serving()
            .map(|pod| {
                let expected = errors * (pod.requests / requests);
                (pod.errors - expected).powi(2) / expected
            })
            .sum();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of pods is far below 2^53"
        )]
        let degrees = (count - 1) as f64;
        if chi_squared.is_finite() {
            self.numerator += errors * chi_squared;
            self.denominator += degrees * errors;
        }
    }

    /// `phi`. `None` before the first error in a tick with two pods.
    pub fn phi(&self) -> Option<f64> {
        (self.denominator > 0.0).then(|| self.numerator / self.denominator)
    }

    /// The temper `k = max(1, phi)`.
    pub fn k(&self) -> f64 {
        self.phi().unwrap_or(1.0).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::assert_nine_digits;

    #[test]
    fn golden_g10_overdispersion() {
        let mut phi = Overdispersion::default();
        for tick in [
            [3.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 0.0, 4.0],
            [1.0, 1.0, 1.0],
        ] {
            phi.add(&tick.map(|errors| PodCounts {
                requests: 100.0,
                errors,
                ..PodCounts::default()
            }));
        }
        assert_nine_digits(phi.phi().unwrap(), 2.363_636_36);
    }

    #[test]
    fn one_pod_or_no_error_gives_no_estimate() {
        let mut phi = Overdispersion::default();
        phi.add(&[PodCounts {
            requests: 100.0,
            errors: 7.0,
            ..PodCounts::default()
        }]);
        phi.add(
            &[PodCounts {
                requests: 100.0,
                ..PodCounts::default()
            }; 3],
        );
        phi.add(&[
            PodCounts {
                requests: 100.0,
                errors: 7.0,
                ..PodCounts::default()
            },
            PodCounts::default(),
        ]);
        assert_eq!(phi.phi(), None);
        assert_eq!(phi.k(), 1.0);
    }

    #[test]
    fn pods_with_equal_error_rates_do_not_temper() {
        let mut phi = Overdispersion::default();
        phi.add(
            &[PodCounts {
                requests: 100.0,
                errors: 2.0,
                ..PodCounts::default()
            }; 4],
        );
        assert_eq!(phi.k(), 1.0);
    }
}
