//! The error budget: what a rollout may spend of it, and what it has spent.

use serde::{Deserialize, Serialize};

use crate::counts::{Counts, Tick};

/// A comparison of the arms never spans more than this, so that daily drift cancels within it.
const LONGEST_BLOCK_MS: i64 = 300_000;

/// What the service's budget is and what is left of it, in errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceBudget {
    /// `B`: the errors that the objective allows in its period.
    pub total: f64,
    /// `B_rem`: those not yet spent; negative when overspent.
    pub remaining: f64,
}

impl ServiceBudget {
    /// From the fraction that may fail, the requests of the objective's period, and the bad ones
    /// among them.
    pub fn new(budget_fraction: f64, period_requests: f64, period_bad: f64) -> Self {
        let total = budget_fraction * period_requests;
        Self {
            total,
            remaining: total - period_bad,
        }
    }

    /// `A = min(share of B, of_remaining of max(B_rem, 0))`: what one rollout may spend, in errors.
    pub fn allotment(&self, share: &AllotmentShare) -> f64 {
        (share.of_total * self.total).min(share.of_remaining * self.remaining.max(0.0))
    }

    /// Whether releases can spend of it as usual, less, or nothing.
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

/// How the service's error budget stands for whoever wants to release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BudgetState {
    /// A release may spend its usual share of the whole.
    Healthy,
    /// Less than that: so little remains that what remains is the limit.
    Tight,
    /// Nothing: releases are frozen.
    Spent,
}

/// How much of the service's budget one rollout may spend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllotmentShare {
    /// Of the whole budget of the period, from 0 to 1.
    pub of_total: f64,
    /// Of what is left, from 0 to 1.
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

/// No test at `alpha` = 1 % can finish inside an allotment of fewer errors than this: said at
/// admission.
pub const LEAST_USEFUL_ALLOTMENT: f64 = 10.0;

/// `burn rate = (bad / requests) / b`: 1 spends the budget exactly over its period; 0 without
/// requests.
pub fn burn_rate(bad: f64, requests: f64, budget_fraction: f64) -> f64 {
    if requests > 0.0 {
        bad / requests / budget_fraction
    } else {
        0.0
    }
}

/// What the canary has spent beyond what stable would have: `X = sum over blocks of (E_c - N_c E_s
/// / N_s)`.
///
/// A block is at most five minutes at one weight, so that neither the drift of the day nor a change
/// of the weight (Simpson's paradox) is charged to the canary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpentBudget {
    closed: f64,
    opened_ms: i64,
    block: Counts,
}

impl SpentBudget {
    /// Charges one tick. `weight_changed_at_ms` is the last change of the weight; `usual_rate` is
    /// stable's error rate where the block has no stable requests to compare with.
    pub fn charge(&mut self, tick: &Tick, weight_changed_at_ms: i64, usual_rate: f64) {
        let outlived = tick.at_ms.saturating_sub(self.opened_ms) > LONGEST_BLOCK_MS;
        let reweighted =
            self.opened_ms < weight_changed_at_ms && weight_changed_at_ms <= tick.at_ms;
        if self.block == Counts::default() {
            self.opened_ms = tick.started_ms;
        } else if outlived || reweighted {
            self.closed = self.excess_errors(usual_rate);
            self.block = Counts::default();
            self.opened_ms = tick.started_ms;
        }
        self.block.add(&tick.counts);
    }

    /// `X`, in errors; negative where the canary fails less than stable.
    pub fn excess_errors(&self, usual_rate: f64) -> f64 {
        let rate = self.block.stable_rate().unwrap_or(usual_rate);
        self.closed + self.block.canary_errors - self.block.canary_requests * rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::nine_digits;

    fn tick(started_s: i64, at_s: i64, counts: (f64, f64, f64, f64)) -> Tick {
        let (n_c, e_c, n_s, e_s) = counts;
        Tick {
            started_ms: started_s * 1000,
            at_ms: at_s * 1000,
            counts: Counts::new(n_c, e_c, n_s, e_s),
            stable_pods: vec![],
        }
    }

    #[test]
    fn golden_g9_budget() {
        let budget = ServiceBudget::new(1.0 - 0.999, 100.0 * 30.0 * 86_400.0, 120_000.0);
        nine_digits(budget.total, 259_200.0);
        nine_digits(budget.allotment(&AllotmentShare::default()), 5184.0);
        nine_digits(burn_rate(37.0, 9000.0, 0.001), 4.111_111_11);
    }

    #[test]
    fn an_overspent_budget_allots_nothing() {
        let budget = ServiceBudget::new(0.001, 1e6, 5000.0);
        assert_eq!(budget.remaining, -4000.0);
        assert_eq!(budget.allotment(&AllotmentShare::default()), 0.0);
    }

    #[test]
    fn a_budget_is_tight_where_what_remains_is_the_limit_and_spent_where_nothing_does() {
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
    fn without_stable_requests_the_usual_rate_is_what_counts() {
        let mut spent = SpentBudget::default();
        spent.charge(&tick(0, 15, (100.0, 3.0, 0.0, 0.0)), 0, 0.0);
        assert!((spent.excess_errors(0.01) - 2.0).abs() < 1e-12);
    }
}
