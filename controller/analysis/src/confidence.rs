//! Always-valid bounds on the canary's excess, from mixtures of bets that are linear in the
//! tolerance.

use serde::{Deserialize, Serialize};

use crate::bet::BetLine;
use crate::numeric::log_sum_exp;

/// Limit of the bounds: an excess is a difference of two fractions.
const MAX_BOUND: f64 = 1.0;

/// Maximum number of Newton steps. About four are needed.
const MAX_STEPS: usize = 200;

/// Relative tolerance of the logarithm: the rounding error of the sums.
const RELATIVE_TOLERANCE: f64 = 1e-14;

/// The two sums of each bet, `A_j` and `B_j`: `ln M(delta) = logsumexp_j(ln pi_j + A_j - delta
/// B_j)`.
///
/// Each `M(delta)` is a test supermartingale for its `delta`. The values of `delta` that are not
/// rejected form a confidence sequence (Howard, Ramdas et al., time-uniform bounds).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinearMixture {
    /// `A_j`: sums of log e-values at no tolerance.
    at_zero: Vec<f64>,
    /// `B_j`: sums of slopes, all of one sign.
    slopes: Vec<f64>,
}

impl LinearMixture {
    /// Creates a mixture without evidence.
    pub fn new(bets: usize) -> Self {
        Self {
            at_zero: vec![0.0; bets],
            slopes: vec![0.0; bets],
        }
    }

    /// Number of bets.
    pub fn len(&self) -> usize {
        self.at_zero.len()
    }

    /// Whether there are no bets.
    pub fn is_empty(&self) -> bool {
        self.at_zero.is_empty()
    }

    /// Whether the two stored arrays have the same length.
    pub fn is_consistent(&self) -> bool {
        self.at_zero.len() == self.slopes.len()
    }

    /// Adds one tick's line of every bet, in the order of the bets.
    pub fn add(&mut self, lines: impl Iterator<Item = BetLine>) {
        for ((at_zero, slope), line) in self.at_zero.iter_mut().zip(&mut self.slopes).zip(lines) {
            *at_zero += line.at_zero;
            *slope += line.slope;
        }
    }

    fn exponents<'a>(
        &'a self,
        ln_weights: &'a [f64],
        delta: f64,
    ) -> impl Iterator<Item = f64> + Clone + 'a {
        let lines = self.at_zero.iter().zip(&self.slopes);
        lines
            .zip(ln_weights)
            .map(move |((a, b), ln_weight)| ln_weight + a - delta * b)
    }

    /// `ln M(delta)`.
    pub fn ln_value(&self, ln_weights: &[f64], delta: f64) -> f64 {
        log_sum_exp(self.exponents(ln_weights, delta))
    }

    /// `U = inf {delta : ln M(delta) >= target}` for bets with slopes of at most 0. 1 if no value
    /// is rejected.
    pub fn upper(&self, ln_weights: &[f64], target: f64) -> f64 {
        self.furthest(ln_weights, target, 1.0)
    }

    /// `L = sup {delta : ln M(delta) >= target}` for bets with slopes of at least 0. -1 if no value
    /// is rejected.
    pub fn lower(&self, ln_weights: &[f64], target: f64) -> f64 {
        -self.furthest(ln_weights, target, -1.0)
    }

    /// The smallest `y` in [-1, 1] with `f(y) = ln M(side * y) >= target`, for an increasing `f`.
    ///
    /// `f` is convex, because it is the logarithm of a sum of exponentials of lines. From the
    /// right, Newton's method therefore converges monotonically to the root without overshooting,
    /// with the same result as bisection. `f` is above each of its lines, so it has reached the
    /// target at the point where the first line does. Newton's method starts there.
    fn furthest(&self, ln_weights: &[f64], target: f64, side: f64) -> f64 {
        let mut y = MAX_BOUND;
        for ((a, b), ln_weight) in self.at_zero.iter().zip(&self.slopes).zip(ln_weights) {
            let rise = -side * b;
            if rise > 0.0 {
                y = y.min((target - ln_weight - a) / rise);
            }
        }
        if y <= -MAX_BOUND {
            return -MAX_BOUND;
        }
        for _ in 0..MAX_STEPS {
            let (value, derivative) = self.value_and_derivative(ln_weights, side * y);
            let over = value - target;
            if over <= RELATIVE_TOLERANCE * target.abs().max(1.0) || over.is_nan() {
                break;
            }
            let next = y - over / (side * derivative);
            if next <= -MAX_BOUND {
                // The tangent leaves the range: evaluate the far end of the range.
                let (at_end, _) = self.value_and_derivative(ln_weights, -side * MAX_BOUND);
                if at_end >= target {
                    return -MAX_BOUND;
                }
            }
            if !(next < y && next > -MAX_BOUND) {
                break;
            }
            y = next;
        }
        y
    }

    /// `ln M(delta)` and its derivative, the mean of `-B_j` under the posterior weights.
    fn value_and_derivative(&self, ln_weights: &[f64], delta: f64) -> (f64, f64) {
        let highest = self
            .exponents(ln_weights, delta)
            .fold(f64::NEG_INFINITY, f64::max);
        if highest == f64::NEG_INFINITY {
            return (highest, 0.0);
        }
        let (mut sum, mut moment) = (0.0, 0.0);
        for (exponent, slope) in self.exponents(ln_weights, delta).zip(&self.slopes) {
            let weight = (exponent - highest).exp();
            sum += weight;
            moment -= weight * slope;
        }
        (highest + sum.ln(), moment / sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bet::poisson;
    use crate::config::Grid;
    use crate::counts::Counts;
    use crate::golden::assert_nine_digits;
    use proptest::prelude::*;

    fn rollback(ticks: &[Counts]) -> (LinearMixture, Vec<f64>) {
        let grid = Grid::published();
        let mut mixture = LinearMixture::new(grid.rho.len());
        for counts in ticks {
            mixture.add(grid.rho.iter().map(|rho| poisson(counts, *rho, 1.0)));
        }
        (
            mixture,
            grid.weights.iter().map(|weight| weight.ln()).collect(),
        )
    }

    #[test]
    fn golden_g7() {
        let counts = Counts::new(3000.0, 24.0, 27_000.0, 14.0);
        let (mixture, ln_weights) = rollback(&[counts]);
        assert_nine_digits(mixture.ln_value(&ln_weights, 0.0), 28.985_184_9);
        assert_nine_digits(mixture.lower(&ln_weights, 100_f64.ln()), 0.003_103_633_25);
        assert_nine_digits(mixture.lower(&ln_weights, 20_f64.ln()), 0.003_635_578_9);
        assert_nine_digits(
            counts.canary_errors - counts.expected_canary_errors().unwrap(),
            22.444_444_4,
        );
        assert_nine_digits(
            mixture.lower(&ln_weights, 100_f64.ln()) * 3000.0,
            9.310_899_76,
        );
    }

    #[test]
    fn without_evidence_the_bounds_are_maximal() {
        let (mixture, ln_weights) = rollback(&[]);
        assert_eq!(mixture.lower(&ln_weights, 3.0), -1.0);
        assert_eq!(mixture.upper(&ln_weights, 3.0), 1.0);
    }

    /// The definition, by bisection. Newton's method must agree with it.
    fn bisected(mixture: &LinearMixture, ln_weights: &[f64], target: f64, side: f64) -> f64 {
        let (mut low, mut high) = (-1.0, 1.0);
        if mixture.ln_value(ln_weights, side * low) >= target {
            return side * low;
        }
        for _ in 0..200 {
            let middle = f64::midpoint(low, high);
            if mixture.ln_value(ln_weights, side * middle) >= target {
                high = middle;
            } else {
                low = middle;
            }
        }
        side * high
    }

    fn ticks() -> impl Strategy<Value = Vec<Counts>> {
        let tick = (1_u32..5000, 0.0_f64..0.05, 1_u32..50_000, 0.0_f64..0.05).prop_map(
            |(n_c, p_c, n_s, p_s)| {
                Counts::new(
                    n_c.into(),
                    (p_c * f64::from(n_c)).floor(),
                    n_s.into(),
                    (p_s * f64::from(n_s)).floor(),
                )
            },
        );
        prop::collection::vec(tick, 1..20)
    }

    fn upper(ticks: &[Counts]) -> f64 {
        let mut mixture = LinearMixture::new(2);
        for counts in ticks {
            mixture.add([0.1, 0.7].iter().map(|rho| poisson(counts, *rho, 1.0)));
        }
        mixture.upper(&[-(2_f64.ln()); 2], 3.0)
    }

    proptest! {
        #[test]
        fn the_bounds_are_those_of_bisection(ticks in ticks()) {
            let (worse, ln_weights) = rollback(&ticks);
            let lower = bisected(&worse, &ln_weights, 100_f64.ln(), -1.0);
            prop_assert!((worse.lower(&ln_weights, 100_f64.ln()) - lower).abs() < 1e-12);

            let mut better = LinearMixture::new(3);
            for counts in &ticks {
                better.add([0.02, 0.4, 0.85].iter().map(|rho| poisson(counts, *rho, 1.0)));
            }
            let ln_weights = [-(3_f64.ln()); 3];
            let upper = bisected(&better, &ln_weights, 20_f64.ln(), 1.0);
            prop_assert!((better.upper(&ln_weights, 20_f64.ln()) - upper).abs() < 1e-12);
        }

        #[test]
        fn one_more_canary_error_raises_both_bounds(ticks in ticks()) {
            let (before, ln_weights) = rollback(&ticks);
            let mut worse_ticks = ticks.clone();
            worse_ticks[0].canary_errors += 1.0;
            let (after, _) = rollback(&worse_ticks);
            prop_assert!(after.lower(&ln_weights, 3.0) >= before.lower(&ln_weights, 3.0) - 1e-12);

            prop_assert!(upper(&worse_ticks) >= upper(&ticks) - 1e-12);
        }

        #[test]
        fn one_more_stable_error_lowers_both_bounds(ticks in ticks()) {
            let (before, ln_weights) = rollback(&ticks);
            let mut better_ticks = ticks.clone();
            better_ticks[0].stable_errors += 1.0;
            let (after, _) = rollback(&better_ticks);
            prop_assert!(after.lower(&ln_weights, 3.0) <= before.lower(&ln_weights, 3.0) + 1e-12);
            prop_assert!(upper(&better_ticks) <= upper(&ticks) + 1e-12);
        }
    }
}
