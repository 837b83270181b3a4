//! Feasibility of an objective: whether it can be evaluated in time. Reported when a Rollout is
//! admitted.

use serde::Serialize;

use crate::explain::{duration, percent, rate, thousands};
use crate::promotion::PlugIn;

/// Ratio of the mean time to promotion to the bound `ln(1/beta) / I`.
const MEAN_OVER_BOUND: f64 = 1.2;

/// Common objectives, strictest first. One of them is suggested if the configured one is not
/// feasible.
const COMMON_TARGETS: [f64; 8] = [0.9999, 0.9995, 0.999, 0.995, 0.99, 0.98, 0.95, 0.9];

/// Requests to both arms until promotion of a good release: `ln(1/beta) / I`. Infinite if `w` is 0
/// or 1.
///
/// `p` is the error rate of both arms, `w` the canary's share, `delta1` the margin.
pub fn expected_requests(p: f64, w: f64, delta1: f64, beta: f64) -> f64 {
    PlugIn::new(p, w, delta1).map_or(f64::INFINITY, |bet| (1.0 / beta).ln() / bet.information)
}

/// Like [`expected_requests`], if the canary is compared with the part `compared_stable` of stable's
/// requests (from 0 to 1): all requests of the service until promotion, also those that are not
/// compared. `w` is the canary's share of them all.
pub fn expected_requests_with_part(
    p: f64,
    w: f64,
    compared_stable: f64,
    delta1: f64,
    beta: f64,
) -> f64 {
    let compared = w + (1.0 - w) * compared_stable;
    if compared > 0.0 {
        expected_requests(p, w / compared, delta1, beta) / compared
    } else {
        f64::INFINITY
    }
}

/// The properties of an objective that are known before its first rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeasibilityInput {
    /// The objective as a fraction, such as 0.999.
    pub target: f64,
    /// The margin as a fraction of the budget (`delta1 / b`).
    pub margin_of_budget: f64,
    /// Stable's error rate.
    pub stable_rate: f64,
    /// The service's requests per second.
    pub requests_per_second: f64,
    /// The maximum weight, from 0 to 1.
    pub max_weight: f64,
    /// Part of stable's requests that the canary is compared with, from 0 to 1. Below 1 with
    /// baseline pods.
    pub compared_stable: f64,
    /// Maximum probability of promoting at the margin.
    pub beta: f64,
    /// Maximum duration of a rollout, in seconds.
    pub max_duration_seconds: f64,
    /// Errors that a rollout may spend. `None` if unknown.
    pub allotment: Option<f64>,
}

/// The feasibility of an objective, with an alternative.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Feasibility {
    /// Expected time to promotion of a good release, in seconds. Infinite (null in JSON) without
    /// traffic.
    #[serde(serialize_with = "finite_or_null")]
    pub expected_seconds: f64,
    /// Whether the expected time is within the maximum duration.
    pub feasible: bool,
    /// The strictest common objective that is feasible, if this one is not.
    pub feasible_target: Option<f64>,
    /// Whether the allotment is too small for any test.
    pub allotment_too_small: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn finite_or_null<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_some(value)
    } else {
        serializer.serialize_none()
    }
}

impl FeasibilityInput {
    fn expected_seconds(&self, target: f64) -> f64 {
        let delta1 = self.margin_of_budget * (1.0 - target);
        let bound = expected_requests_with_part(
            self.stable_rate,
            self.max_weight,
            self.compared_stable,
            delta1,
            self.beta,
        );
        let requests = MEAN_OVER_BOUND * bound;
        if self.requests_per_second > 0.0 {
            requests / self.requests_per_second
        } else {
            f64::INFINITY
        }
    }

    /// Evaluates whether a good release can be promoted in time.
    pub fn evaluate(&self) -> Feasibility {
        let expected_seconds = self.expected_seconds(self.target);
        let feasible = expected_seconds <= self.max_duration_seconds;
        let feasible_target = if feasible {
            None
        } else {
            let looser = COMMON_TARGETS
                .into_iter()
                .filter(|target| *target < self.target);
            looser
                .into_iter()
                .find(|target| self.expected_seconds(*target) <= self.max_duration_seconds)
        };
        let allotment_too_small = self
            .allotment
            .is_some_and(|errors| errors < crate::budget::MIN_USEFUL_ALLOTMENT);
        Feasibility {
            expected_seconds,
            feasible,
            feasible_target,
            allotment_too_small,
        }
    }

    /// The problems found, in one or two sentences. Empty if there are none.
    pub fn message(&self) -> String {
        let sentences: Vec<String> = self
            .slow_message()
            .into_iter()
            .chain(self.allotment_message())
            .collect();
        sentences.join(" ")
    }

    /// A warning if a good release cannot be promoted in time.
    pub fn slow_message(&self) -> Option<String> {
        let feasibility = self.evaluate();
        if feasibility.feasible {
            return None;
        }
        if !feasibility.expected_seconds.is_finite() {
            return Some("Without traffic this objective can never be evaluated.".to_owned());
        }
        let rate = rate(self.requests_per_second);
        let target = feasibility.feasible_target.map(percent);
        let has_baseline = self.compared_stable < 1.0;
        let baseline = has_baseline.then(|| "more baseline pods".to_owned());
        let options: Vec<String> = target.into_iter().chain(baseline).collect();
        let advice = if options.is_empty() {
            "choose a longer duration".to_owned()
        } else {
            format!("choose {} or a longer duration", options.join(", "))
        };
        let compared = if has_baseline {
            format!(
                ", compared with {} of stable's requests (baseline pods),",
                percent(self.compared_stable)
            )
        } else {
            String::new()
        };
        Some(format!(
            "At {rate} requests/s{compared} this objective needs {}; {advice}.",
            duration(feasibility.expected_seconds)
        ))
    }

    /// A warning if a bad release cannot be detected within its allotment.
    pub fn allotment_message(&self) -> Option<String> {
        let errors = self
            .allotment
            .filter(|_| self.evaluate().allotment_too_small)?;
        Some(format!(
            "A rollout may spend {} errors of the budget, and no test can finish within fewer than \
             {}.",
            thousands(errors.max(0.0).floor()),
            thousands(crate::budget::MIN_USEFUL_ALLOTMENT)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(target: f64, requests_per_second: f64) -> FeasibilityInput {
        FeasibilityInput {
            target,
            margin_of_budget: 0.5,
            stable_rate: 0.5 * (1.0 - target),
            requests_per_second,
            max_weight: 0.5,
            compared_stable: 1.0,
            beta: 0.05,
            max_duration_seconds: 3600.0,
            allotment: None,
        }
    }

    #[test]
    fn baseline_pods_need_more_requests() {
        let all = expected_requests(5e-4, 0.2, 5e-4, 0.05);
        let with = |part| expected_requests_with_part(5e-4, 0.2, part, 5e-4, 0.05);
        assert!((with(1.0) / all - 1.0).abs() < 1e-12);
        // As many requests as the canary: 40 % of the service is compared, half of it canary.
        let half = expected_requests(5e-4, 0.5, 5e-4, 0.05) / 0.4;
        assert!((with(0.25) / half - 1.0).abs() < 1e-12);
        assert!(with(0.25) > 1.2 * all);
        assert_eq!(with(0.0), f64::INFINITY);
        let slow = FeasibilityInput {
            compared_stable: 0.1,
            max_weight: 0.1,
            ..input(0.999, 12.0)
        };
        assert!(
            slow.evaluate().expected_seconds > 2.0 * input(0.999, 12.0).evaluate().expected_seconds
        );
        let message = slow.message();
        assert!(
            message.contains(
                "compared with 10 % of stable's requests (baseline pods), this objective"
            ) && message.contains("more baseline pods or a longer duration."),
            "{message}"
        );
    }

    #[test]
    fn expected_requests_match_the_design_table() {
        let expected = [
            (0.0, [12.0, 6.0, 3.0]),
            (0.1, [20.0, 8.2, 3.6]),
            (0.5, [53.0, 15.9, 5.5]),
            (1.0, [99.0, 26.5, 7.9]),
        ];
        let b = 1e-3;
        for (rate, row) in expected {
            for (margin, requests) in [0.5, 1.0, 2.0].into_iter().zip(row) {
                let actual = expected_requests(rate * b, 0.5, margin * b, 0.05) * b;
                assert!(
                    (actual / requests - 1.0).abs() < 0.02,
                    "p {rate} b, margin {margin} b: {actual}, not {requests}"
                );
            }
        }
    }

    #[test]
    fn a_feasible_objective_has_no_message() {
        assert!(input(0.999, 100.0).evaluate().feasible);
        assert_eq!(input(0.999, 100.0).message(), "");
    }

    #[test]
    fn an_infeasible_objective_suggests_a_feasible_one() {
        assert_eq!(
            input(0.9999, 0.8).message(),
            "At 0.8 requests/s this objective needs 9.2 days; choose 99 % or a longer duration."
        );
        assert_eq!(
            input(0.999, 0.0).message(),
            "Without traffic this objective can never be evaluated."
        );
        let tiny = FeasibilityInput {
            allotment: Some(4.2),
            ..input(0.999, 100.0)
        };
        assert_eq!(
            tiny.message(),
            "A rollout may spend 4 errors of the budget, and no test can finish within fewer than \
             10."
        );
    }
}
