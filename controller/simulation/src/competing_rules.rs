//! The rules of other controllers, each with one-minute checks.

use serin_analysis::Counts;

use crate::outcome::{FinalDecision, RolloutOutcome};
use crate::scenario::{Scenario, ServiceSimulator, seconds};

/// A rule that decides by the metrics of whole minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CompetingRule {
    /// Rolls back if the canary's error rate exceeds a threshold in this many one-minute checks.
    /// Otherwise promotes after four steps of five minutes (5, 10, 20, 50 %). As in analysis
    /// templates with a success condition and a failure limit.
    FixedThreshold {
        /// Maximum error rate of a passed check.
        threshold: f64,
        /// Number of failed checks that cause a rollback.
        failures: u32,
    },
    /// Rolls back if the success rate is below the threshold in this many one-minute checks. Every
    /// passed check raises the weight by 10 points; at 50 % it promotes. As in progressive delivery
    /// with a request-success-rate.
    SuccessRate {
        /// Minimum success rate of a passed check.
        threshold: f64,
        /// Number of failed checks that cause a rollback.
        failures: u32,
    },
    /// Every five minutes a Mann-Whitney test (98 %) of the error rates by minute, canary against
    /// stable. Rolls back if the lower confidence bound of the shift exceeds a quarter of its
    /// estimate. As in automated canary analysis.
    MannWhitney,
}

/// Applies a rule to the ticks of one release, simulated or recorded.
#[derive(Debug, Clone)]
pub struct RuleRunner {
    rule: CompetingRule,
    minute: Counts,
    minute_began_ms: i64,
    canary_rates: Vec<f64>,
    stable_rates: Vec<f64>,
    passed: u32,
    failed: u32,
}

impl RuleRunner {
    /// Creates a runner. `began_ms` is when the release started to receive traffic.
    pub fn new(rule: CompetingRule, began_ms: i64) -> Self {
        Self {
            rule,
            minute: Counts::default(),
            minute_began_ms: began_ms,
            canary_rates: Vec::new(),
            stable_rates: Vec::new(),
            passed: 0,
            failed: 0,
        }
    }

    /// Adds a tick that ends at `at_ms` and decides at the end of each minute. A minute without
    /// requests to the canary is not a check, because the metrics of these rules have no value
    /// then.
    pub fn add(&mut self, at_ms: i64, counts: &Counts) -> Option<FinalDecision> {
        self.minute.add(counts);
        if at_ms.saturating_sub(self.minute_began_ms) < CHECK_MS {
            return None;
        }
        let minute = std::mem::take(&mut self.minute);
        self.minute_began_ms = at_ms;
        if minute.canary_requests <= 0.0 {
            return None;
        }
        let rate = minute.canary_errors / minute.canary_requests;
        self.canary_rates.push(rate);
        self.stable_rates.push(minute.stable_rate().unwrap_or(0.0));
        let fails = match self.rule {
            CompetingRule::FixedThreshold { threshold, .. } => rate > threshold,
            CompetingRule::SuccessRate { threshold, .. } => 1.0 - rate < threshold,
            CompetingRule::MannWhitney => {
                self.canary_rates.len().is_multiple_of(5)
                    && lower_exceeds_tolerance(&self.canary_rates, &self.stable_rates)
            }
        };
        if fails {
            self.failed += 1;
        } else {
            self.passed += 1;
        }
        self.rule.decision(self.passed, self.failed)
    }

    /// The current canary weight of the rule.
    pub(crate) fn weight(&self) -> f64 {
        self.rule.weight(self.passed, self.failed)
    }
}

const CHECK_MS: i64 = 60_000;
const MAX_DURATION_SECONDS: f64 = 3600.0;
/// The 99th percentile of the normal distribution: two-sided 98 %.
const Z_98: f64 = 2.326_347_874_040_841;
const TOLERANCE: f64 = 0.25;

impl CompetingRule {
    /// The competing rules for a service with this error budget, as a fraction of requests: with
    /// the settings in their documentation, and one with a threshold at the objective.
    pub const fn shipped(budget_fraction: f64) -> [Self; 4] {
        [
            Self::FixedThreshold {
                threshold: 0.01,
                failures: 4,
            },
            Self::FixedThreshold {
                threshold: budget_fraction,
                failures: 4,
            },
            Self::SuccessRate {
                threshold: 0.99,
                failures: 5,
            },
            Self::MannWhitney,
        ]
    }

    /// The name in tables.
    pub fn name(self) -> String {
        // Rounded, because the difference of decimals is not exact in binary.
        let percent = |fraction: f64| (fraction * 1e9).round() / 1e7;
        match self {
            Self::FixedThreshold {
                threshold,
                failures,
            } => format!("fixed {} % x {failures}", percent(threshold)),
            Self::SuccessRate {
                threshold,
                failures,
            } => format!("success {} % x {failures}", percent(threshold)),
            Self::MannWhitney => "Mann-Whitney, 25 %".to_owned(),
        }
    }

    /// Simulates one rollout.
    pub(crate) fn rollout(self, scenario: &Scenario, seed: u64) -> RolloutOutcome {
        let mut simulator = ServiceSimulator::new(*scenario, seed);
        let mut runner = RuleRunner::new(self, 0);
        let mut excess_errors = 0.0;
        loop {
            let simulated = simulator.serve(runner.weight());
            excess_errors += simulated.excess_errors;
            let at_ms = simulated.tick.at_ms;
            let Some(decision) = runner.add(at_ms, &simulated.tick.counts) else {
                continue;
            };
            let elapsed_seconds = seconds(at_ms);
            let after = if decision == FinalDecision::Promoted {
                MAX_DURATION_SECONDS - elapsed_seconds
            } else {
                0.0
            };
            let p_s = scenario.stable_rate;
            excess_errors +=
                after * scenario.requests_per_second * (scenario.effect.rate(p_s) - p_s);
            return RolloutOutcome {
                decision,
                seconds: elapsed_seconds,
                excess_errors,
                overspent: false,
            };
        }
    }

    fn weight(self, passed: u32, failed: u32) -> f64 {
        match self {
            Self::SuccessRate { .. } => f64::from(passed.min(4) + 1) * 0.1,
            Self::FixedThreshold { .. } | Self::MannWhitney => match passed + failed {
                0..5 => 0.05,
                5..10 => 0.1,
                10..15 => 0.2,
                _ => 0.5,
            },
        }
    }

    fn decision(self, passed: u32, failed: u32) -> Option<FinalDecision> {
        let (limit, checks) = match self {
            Self::FixedThreshold { failures, .. } => (failures, passed + failed >= 20),
            Self::SuccessRate { failures, .. } => (failures, passed >= 5),
            Self::MannWhitney => (1, passed + failed >= 20),
        };
        if failed >= limit {
            Some(FinalDecision::RolledBack)
        } else {
            checks.then_some(FinalDecision::Promoted)
        }
    }
}

/// Whether the lower 98 % bound of the Hodges-Lehmann shift exceeds a quarter of its estimate.
fn lower_exceeds_tolerance(canary: &[f64], stable: &[f64]) -> bool {
    let mut shifts: Vec<f64> = canary
        .iter()
        .flat_map(|one| stable.iter().map(move |other| one - other))
        .collect();
    shifts.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "at most twenty minutes")]
    let (m, n) = (canary.len() as f64, stable.len() as f64);
    let rank = m * n / 2.0 - Z_98 * (m * n * (m + n + 1.0) / 12.0).sqrt();
    if rank < 0.0 {
        return false;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 200"
    )]
    let lower = shifts[rank as usize];
    let middle = shifts.len() / 2;
    let estimate = if shifts.len().is_multiple_of(2) {
        f64::midpoint(shifts[middle - 1], shifts[middle])
    } else {
        shifts[middle]
    };
    lower > TOLERANCE * estimate.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_evaluates_whole_minutes_and_skips_minutes_without_traffic() {
        let mut runner = RuleRunner::new(
            CompetingRule::FixedThreshold {
                threshold: 0.01,
                failures: 4,
            },
            1_000,
        );
        let bad = Counts::new(100.0, 5.0, 900.0, 0.0);
        let mut decided = Vec::new();
        for tick in 1..=40 {
            // Two minutes without traffic.
            let counts = if (9..17).contains(&tick) {
                Counts::default()
            } else {
                bad
            };
            decided.extend(
                runner
                    .add(1_000 + tick * 15_000, &counts)
                    .map(|decision| (tick, decision)),
            );
        }
        assert_eq!(decided.first(), Some(&(24, FinalDecision::RolledBack)));
    }

    #[test]
    fn a_threshold_at_the_objective_is_named_without_rounding_errors() {
        assert_eq!(
            CompetingRule::shipped(1.0 - 0.9995)[1].name(),
            "fixed 0.05 % x 4"
        );
        assert_eq!(CompetingRule::shipped(0.001)[2].name(), "success 99 % x 5");
    }

    #[test]
    fn mann_whitney_detects_only_a_clear_shift() {
        let low: Vec<f64> = (0..10).map(|i| f64::from(i) * 1e-4).collect();
        let high: Vec<f64> = low.iter().map(|rate| rate + 0.01).collect();
        assert!(lower_exceeds_tolerance(&high, &low));
        assert!(!lower_exceeds_tolerance(&low, &low));
        assert!(!lower_exceeds_tolerance(&low, &high));
        assert!(!lower_exceeds_tolerance(&[0.5], &[0.0]), "too few minutes");
    }
}
