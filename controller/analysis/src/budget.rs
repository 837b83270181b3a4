//! The error budget: what a rollout may spend and what it has spent.

use serde::{Deserialize, Serialize};

use crate::counts::{Counts, Tick};

/// Maximum length of a block. Daily drift is negligible within it.
const MAX_BLOCK_MS: i64 = 300_000;

/// The service's error budget and its remainder, in errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceBudget {
    /// `B`: errors that the objective allows in its period.
    pub total: f64,
    /// `B_rem`: errors not yet spent. Negative if overspent.
    pub remaining: f64,
}

impl ServiceBudget {
    /// Computes the budget from the fraction that may fail, the requests in the objective's period,
    /// and the bad requests among them.
    pub fn new(budget_fraction: f64, period_requests: f64, period_bad: f64) -> Self {
        let total = budget_fraction * period_requests;
        Self {
            total,
            remaining: total - period_bad,
        }
    }

    /// `A = min(of_total * B, of_remaining * max(B_rem, 0))`: errors that one rollout may spend.
    pub fn allotment(&self, share: &AllotmentShare) -> f64 {
        (share.of_total * self.total).min(share.of_remaining * self.remaining.max(0.0))
    }

    /// Classifies the remaining budget.
    pub fn state(&self, share: &AllotmentShare) -> BudgetState {
        if self.remaining <= 0.0 {
            BudgetState::Spent
        } else if share.of_remaining * self.remaining < share.of_total * self.total {
            BudgetState::Tight
        } else {
            BudgetState::Healthy
        }
    }
}

/// Maximum of [`used_fraction`]: beyond it the number says nothing more.
const MAX_USED_FRACTION: f64 = 1e6;

/// The used fraction of an allotment, in errors: 1 means all of it, and the maximum is 1,000,000.
/// `None` if the allotment is 0.
pub fn used_fraction(spent: f64, allotment: f64) -> Option<f64> {
    (allotment > 0.0).then(|| (spent / allotment).min(MAX_USED_FRACTION))
}

/// State of the service's error budget with respect to releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BudgetState {
    /// A release may spend its full share of the total budget.
    Healthy,
    /// The share of the remaining budget limits a release.
    Tight,
    /// No budget remains. Releases are frozen.
    Spent,
}

/// Limits on the part of the service's budget that one rollout may spend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllotmentShare {
    /// Maximum share of the total budget of the period, from 0 to 1.
    pub of_total: f64,
    /// Maximum share of the remaining budget, from 0 to 1.
    pub of_remaining: f64,
}

impl Default for AllotmentShare {
    fn default() -> Self {
        Self {
            of_total: 0.02,
            of_remaining: 0.2,
        }
    }
}

/// Minimum allotment, in errors: no test at `alpha` = 1 % can finish within fewer. Reported at
/// admission.
pub const MIN_USEFUL_ALLOTMENT: f64 = 10.0;

/// `burn rate = (bad / requests) / b`. 1 spends the budget exactly over its period. 0 without
/// requests.
pub fn burn_rate(bad: f64, requests: f64, budget_fraction: f64) -> f64 {
    if requests > 0.0 {
        bad / requests / budget_fraction
    } else {
        0.0
    }
}

/// The errors of the canary beyond those expected at stable's rate: `X = sum over blocks of (E_c -
/// N_c E_s / N_s)`.
///
/// A block is at most five minutes at one weight, so that neither daily drift nor a change of the
/// weight (Simpson's paradox) is charged to the canary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpentBudget {
    closed: f64,
    opened_ms: i64,
    block: Counts,
}

impl SpentBudget {
    /// Adds one tick. `weight_changed_at_ms` is the last change of the weight. `baseline_rate`
    /// replaces stable's error rate if the block has no stable requests.
    pub fn charge(&mut self, tick: &Tick, weight_changed_at_ms: i64, baseline_rate: f64) {
        let is_too_long = tick.at_ms.saturating_sub(self.opened_ms) > MAX_BLOCK_MS;
        let has_new_weight =
            self.opened_ms < weight_changed_at_ms && weight_changed_at_ms <= tick.at_ms;
        if self.block == Counts::default() {
            self.opened_ms = tick.started_ms;
        } else if is_too_long || has_new_weight {
            self.closed = self.excess_errors(baseline_rate);
            self.block = Counts::default();
            self.opened_ms = tick.started_ms;
        }
        self.block.add(&tick.counts);
    }

    /// `X`, in errors. Negative if the canary fails less often than stable.
    pub fn excess_errors(&self, baseline_rate: f64) -> f64 {
        let rate = self.block.stable_rate().unwrap_or(baseline_rate);
        self.closed + self.block.canary_errors - self.block.canary_requests * rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::assert_nine_digits;

    fn tick(started_s: i64, at_s: i64, counts: (f64, f64, f64, f64)) -> Tick {
        let (n_c, e_c, n_s, e_s) = counts;
        Tick {
            started_ms: started_s * 1000,
            at_ms: at_s * 1000,
            counts: Counts::new(n_c, e_c, n_s, e_s),
            ..Tick::default()
        }
    }

    #[test]
    fn golden_g9_budget() {
        let budget = ServiceBudget::new(1.0 - 0.999, 100.0 * 30.0 * 86_400.0, 120_000.0);
        assert_nine_digits(budget.total, 259_200.0);
        assert_nine_digits(budget.allotment(&AllotmentShare::default()), 5184.0);
        assert_nine_digits(burn_rate(37.0, 9000.0, 0.001), 4.111_111_11);
    }

    #[test]
    fn an_overspent_budget_allots_nothing() {
        let budget = ServiceBudget::new(0.001, 1e6, 5000.0);
        assert_eq!(budget.remaining, -4000.0);
        assert_eq!(budget.allotment(&AllotmentShare::default()), 0.0);
    }

    #[test]
    fn the_used_fraction_is_finite_however_small_the_allotment_is() {
        assert_eq!(used_fraction(3.0, 12.0), Some(0.25));
        assert_eq!(used_fraction(3.0, 0.0), None);
        assert_eq!(used_fraction(4.4e15, 7.3e-301), Some(MAX_USED_FRACTION));
        assert_eq!(used_fraction(0.0, 7.3e-301), Some(0.0));
    }

    #[test]
    fn a_budget_is_tight_if_the_remainder_limits_and_spent_if_nothing_remains() {
        let state =
            |bad: f64| ServiceBudget::new(0.001, 1e6, bad).state(&AllotmentShare::default());
        assert_eq!([0.0, 900.0].map(state), [BudgetState::Healthy; 2]);
        assert_eq!([901.0, 999.0].map(state), [BudgetState::Tight; 2]);
        assert_eq!([1000.0, 5000.0].map(state), [BudgetState::Spent; 2]);
    }

    #[test]
    fn a_block_ends_with_its_weight_and_after_five_minutes() {
        // A busy hour at 1 % of weight, then a quiet one at 50 %: in one block stable's busy hour
        // would hide nothing.
        let mut spent = SpentBudget::default();
        spent.charge(&tick(0, 60, (100.0, 1.0, 9900.0, 99.0)), 0, 0.0);
        spent.charge(&tick(60, 120, (5000.0, 5.0, 5000.0, 5.0)), 60_000, 0.0);
        assert!(spent.excess_errors(0.0).abs() < 1e-9);

        let mut spent = SpentBudget::default();
        spent.charge(&tick(0, 60, (100.0, 1.0, 9900.0, 99.0)), 0, 0.0);
        spent.charge(&tick(400, 460, (5000.0, 5.0, 5000.0, 5.0)), 0, 0.0);
        assert!(spent.excess_errors(0.0).abs() < 1e-9);
    }

    #[test]
    fn within_a_block_ticks_are_pooled() {
        let mut spent = SpentBudget::default();
        spent.charge(&tick(0, 15, (10.0, 3.0, 0.0, 0.0)), 0, 0.0);
        spent.charge(&tick(15, 30, (10.0, 0.0, 200.0, 10.0)), 0, 0.0);
        assert!((spent.excess_errors(0.0) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn without_stable_requests_the_baseline_rate_is_used() {
        let mut spent = SpentBudget::default();
        spent.charge(&tick(0, 15, (100.0, 3.0, 0.0, 0.0)), 0, 0.0);
        assert!((spent.excess_errors(0.01) - 2.0).abs() < 1e-12);
    }
}
