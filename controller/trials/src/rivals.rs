//! The rules that other controllers ship, each on checks of one minute.

use crate::paced::seconds;
use crate::report::{Decision, Outcome};
use crate::world::{Scenario, World};

/// A rule that decides by the metrics of whole minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rival {
    /// The canary's error rate above a threshold in this many one-minute checks rolls back; else promoted after its four
    /// steps of five minutes (5, 10, 20, 50 %). As in analysis templates with a success condition and a failure limit.
    FixedThreshold {
        /// The highest error rate of a check that passes.
        threshold: f64,
        /// The failed checks that roll back.
        failures: u32,
    },
    /// A success rate below the threshold in this many one-minute checks rolls back; every check that passes raises the weight by 10
    /// points, and at 50 % promotes. As in progressive delivery with a request-success-rate.
    SuccessRate {
        /// The lowest success rate of a check that passes.
        threshold: f64,
        /// The failed checks that roll back.
        failures: u32,
    },
    /// Every five minutes a Mann-Whitney test (98 %) of the minutes' error rates, canary against stable: rolls back where the lower
    /// confidence bound of the shift exceeds a quarter of its estimate. As in automated canary analysis.
    MannWhitney,
}

const CHECK_SECONDS: u32 = 60;
const LONGEST_SECONDS: f64 = 3600.0;
/// The 99th percentile of the normal distribution: two-sided 98 %.
const Z_98: f64 = 2.326_347_874_040_841;
const TOLERANCE: f64 = 0.25;

impl Rival {
    /// What a table calls it.
    pub fn name(self) -> String {
        match self {
            Self::FixedThreshold { threshold, failures } => format!("fixed {} % x {failures}", threshold * 100.0),
            Self::SuccessRate { threshold, failures } => format!("success {} % x {failures}", threshold * 100.0),
            Self::MannWhitney => "Mann-Whitney, 25 %".to_owned(),
        }
    }

    /// One rollout.
    pub(crate) fn rollout(self, scenario: &Scenario, seed: u64) -> Outcome {
        let mut world = World::new(*scenario, seed);
        let mut canary_rates = Vec::new();
        let mut stable_rates = Vec::new();
        let (mut failed, mut passed, mut excess_errors) = (0, 0, 0.0);
        let ticks = CHECK_SECONDS / scenario.tick_seconds;
        loop {
            let weight = self.weight(passed, failed);
            let (mut at_ms, mut counts) = (0, serin_analysis::Counts::default());
            for _ in 0..ticks {
                let served = world.serve(weight);
                excess_errors += served.excess_errors;
                counts.add(&served.tick.counts);
                at_ms = served.tick.at_ms;
            }
            let rate = if counts.canary_requests > 0.0 { counts.canary_errors / counts.canary_requests } else { 0.0 };
            canary_rates.push(rate);
            stable_rates.push(counts.stable_rate().unwrap_or(0.0));
            let fails = match self {
                Self::FixedThreshold { threshold, .. } => rate > threshold,
                Self::SuccessRate { threshold, .. } => 1.0 - rate < threshold,
                Self::MannWhitney => {
                    canary_rates.len().is_multiple_of(5) && lower_exceeds_tolerance(&canary_rates, &stable_rates)
                }
            };
            if fails {
                failed += 1;
            } else {
                passed += 1;
            }
            let Some(decision) = self.decision(passed, failed) else { continue };
            let at = seconds(at_ms);
            let after = if decision == Decision::Promoted { LONGEST_SECONDS - at } else { 0.0 };
            let p_s = scenario.stable_rate;
            excess_errors += after * scenario.requests_per_second * (scenario.effect.rate(p_s) - p_s);
            return Outcome { decision, seconds: at, excess_errors, overspent: false };
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

    fn decision(self, passed: u32, failed: u32) -> Option<Decision> {
        let (limit, checks) = match self {
            Self::FixedThreshold { failures, .. } => (failures, passed + failed >= 20),
            Self::SuccessRate { failures, .. } => (failures, passed >= 5),
            Self::MannWhitney => (1, passed + failed >= 20),
        };
        if failed >= limit { Some(Decision::RolledBack) } else { checks.then_some(Decision::Promoted) }
    }
}

/// Whether the lower 98 % bound of the Hodges-Lehmann shift exceeds a quarter of its estimate.
fn lower_exceeds_tolerance(canary: &[f64], stable: &[f64]) -> bool {
    let mut shifts: Vec<f64> = canary.iter().flat_map(|one| stable.iter().map(move |other| one - other)).collect();
    shifts.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "at most twenty minutes")]
    let (m, n) = (canary.len() as f64, stable.len() as f64);
    let rank = m * n / 2.0 - Z_98 * (m * n * (m + n + 1.0) / 12.0).sqrt();
    if rank < 0.0 {
        return false;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 200")]
    let lower = shifts[rank as usize];
    let middle = shifts.len() / 2;
    let estimate =
        if shifts.len().is_multiple_of(2) { f64::midpoint(shifts[middle - 1], shifts[middle]) } else { shifts[middle] };
    lower > TOLERANCE * estimate.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mann_whitney_sees_a_clear_shift_and_no_absent_one() {
        let low: Vec<f64> = (0..10).map(|i| f64::from(i) * 1e-4).collect();
        let high: Vec<f64> = low.iter().map(|rate| rate + 0.01).collect();
        assert!(lower_exceeds_tolerance(&high, &low));
        assert!(!lower_exceeds_tolerance(&low, &low));
        assert!(!lower_exceeds_tolerance(&low, &high));
        assert!(!lower_exceeds_tolerance(&[0.5], &[0.0]), "too few minutes to tell");
    }
}
