//! Evidence-sized steps: the largest next weight whose worst case fits the remaining budget.

use serde::{Deserialize, Serialize};

/// Parameters of the weight growth. Weights are fractions of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepConfig {
    /// `kappa`: fraction of the remaining budget that one step may put at risk.
    pub kappa: f64,
    /// `tau`: seconds to detect a regression and act, during which the worst case is served.
    pub tau_seconds: f64,
    /// `g`: maximum growth factor of the weight in one step.
    pub growth: f64,
    /// Maximum first weight.
    pub first_weight: f64,
    /// `w_max`: maximum weight before promotion.
    pub max_weight: f64,
    /// Fraction of the allotment that steps leave unused. Errors are random: a rollout that plans
    /// to use its whole allotment exceeds it in half of all cases, one that plans nine tenths
    /// almost never (simulated: twice stable's errors, an allotment of 50).
    pub reserve: f64,
}

impl Default for StepConfig {
    fn default() -> Self {
        Self {
            kappa: 0.5,
            tau_seconds: 60.0,
            growth: 4.0,
            first_weight: 0.05,
            max_weight: 0.5,
            reserve: 0.1,
        }
    }
}

/// Minimum growth factor of a step. Smaller changes are not made.
pub const MIN_GROWTH: f64 = 1.2;

impl StepConfig {
    /// `kappa (A - max(X, 0)) / (excess R tau)`: the weight at which an excess of `worst_excess`,
    /// served for `tau`, spends `kappa` of the remaining budget. Not capped. 0 if no budget
    /// remains.
    pub fn budget_weight(
        &self,
        budget_left: f64,
        worst_excess: f64,
        requests_per_second: f64,
    ) -> f64 {
        let errors = worst_excess * requests_per_second * self.tau_seconds;
        if budget_left <= 0.0 {
            0.0
        } else if errors > 0.0 {
            self.kappa * budget_left / errors
        } else {
            // Without traffic any weight fits.
            f64::INFINITY
        }
    }

    /// The first weight. Without evidence every request may fail (`U = 1`), and nothing is spent.
    pub fn first(&self, allotment: Option<f64>, requests_per_second: f64) -> f64 {
        let fits = allotment.map_or(f64::INFINITY, |left| {
            self.budget_weight(left, 1.0, requests_per_second)
        });
        fits.min(self.first_weight).min(self.max_weight)
    }

    /// Remaining part of the allotment that steps may put at risk, in errors.
    pub fn budget_left(&self, allotment: f64, spent: f64) -> f64 {
        (1.0 - self.reserve) * allotment - spent
    }

    /// The next weight after `weight`, for a worst-case excess of `upper`, but at least `delta1`.
    pub fn next(
        &self,
        weight: f64,
        budget_left: Option<f64>,
        upper: f64,
        delta1: f64,
        requests_per_second: f64,
    ) -> f64 {
        let worst = upper.max(delta1);
        let fits = budget_left.map_or(f64::INFINITY, |left| {
            self.budget_weight(left, worst, requests_per_second)
        });
        fits.min(self.growth * weight).min(self.max_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::assert_nine_digits;

    #[test]
    fn golden_g9_steps() {
        let steps = StepConfig::default();
        assert!((steps.first(Some(5184.0), 100.0) - 0.05).abs() < 1e-12);
        let uncapped = steps.budget_weight(5184.0 - 37.0, 0.004, 100.0);
        assert_nine_digits(uncapped, 107.229_167);
        assert_eq!(
            steps.next(0.05, Some(5184.0 - 37.0), 0.004, 5e-4, 100.0),
            0.2
        );
        assert_eq!(
            steps.next(0.2, Some(5184.0 - 37.0), 0.004, 5e-4, 100.0),
            0.5
        );
    }

    #[test]
    fn a_small_budget_allows_small_steps_and_an_empty_one_none() {
        let steps = StepConfig::default();
        assert!((steps.first(Some(60.0), 100.0) - 0.005).abs() < 1e-12);
        assert_eq!(steps.next(0.05, Some(0.0), 0.004, 5e-4, 100.0), 0.0);
        assert_eq!(steps.next(0.05, Some(-10.0), 0.004, 5e-4, 0.0), 0.0);
    }

    #[test]
    fn without_a_known_budget_the_growth_is_the_limit() {
        assert_eq!(
            StepConfig::default().next(0.05, None, 1.0, 5e-4, 100.0),
            0.2
        );
    }
}
