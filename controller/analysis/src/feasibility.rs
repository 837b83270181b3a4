//! Whether an objective can be judged in time at all: told when a Rollout is admitted, not an hour
//! later.

use serde::Serialize;

use crate::explain::{duration, percent, rate, thousands};
use crate::promotion::PlugIn;

/// The mean time to promote is about this much of the bound `ln(1/beta) / I`.
const OVER_THE_BOUND: f64 = 1.2;

/// Objectives that people choose, strictest first: what is suggested where one is not feasible.
const LADDER: [f64; 8] = [0.9999, 0.9995, 0.999, 0.995, 0.99, 0.98, 0.95, 0.9];

/// Requests of both arms that it takes to promote a good release: `ln(1/beta) / I`; infinite at
/// shares of 0 and 1.
///
/// `p` is the error rate of both arms, `w` the canary's share, `delta1` the margin.
pub fn expected_requests(p: f64, w: f64, delta1: f64, beta: f64) -> f64 {
    PlugIn::new(p, w, delta1).map_or(f64::INFINITY, |bet| (1.0 / beta).ln() / bet.information)
}

/// What is known of an objective before its first rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Question {
    /// The objective as a fraction, such as 0.999.
    pub target: f64,
    /// The margin as a fraction of the budget (`delta1 / b`).
    pub margin_of_budget: f64,
    /// Stable's error rate.
    pub stable_rate: f64,
    /// The service's requests per second.
    pub requests_per_second: f64,
    /// The share of the last weight.
    pub max_weight: f64,
    /// The chance allowed of promoting at the margin.
    pub beta: f64,
    /// The longest that a rollout may take.
    pub longest_seconds: f64,
    /// What a rollout may spend, in errors, where it is known.
    pub allotment: Option<f64>,
}

/// Whether it is feasible, and what would be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The expected time to promote a good release, in seconds; infinite (null in JSON) without
    /// traffic.
    #[serde(serialize_with = "finite_or_null")]
    pub expected_seconds: f64,
    /// Whether that is within the longest duration.
    pub feasible: bool,
    /// The strictest usual objective that would be, where this one is not.
    pub feasible_target: Option<f64>,
    /// Whether the allotment is too small for any test to finish inside it.
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

impl Question {
    fn expected_seconds(&self, target: f64) -> f64 {
        let delta1 = self.margin_of_budget * (1.0 - target);
        let requests = OVER_THE_BOUND
            * expected_requests(self.stable_rate, self.max_weight, delta1, self.beta);
        if self.requests_per_second > 0.0 {
            requests / self.requests_per_second
        } else {
            f64::INFINITY
        }
    }

    /// Whether a good release can be promoted in time.
    pub fn answer(&self) -> Answer {
        let expected_seconds = self.expected_seconds(self.target);
        let feasible = expected_seconds <= self.longest_seconds;
        let feasible_target = if feasible {
            None
        } else {
            let looser = LADDER.into_iter().filter(|target| *target < self.target);
            looser
                .into_iter()
                .find(|target| self.expected_seconds(*target) <= self.longest_seconds)
        };
        let allotment_too_small = self
            .allotment
            .is_some_and(|errors| errors < crate::budget::LEAST_USEFUL_ALLOTMENT);
        Answer {
            expected_seconds,
            feasible,
            feasible_target,
            allotment_too_small,
        }
    }

    /// The answer in a sentence, or two; empty where there is nothing to say.
    pub fn told(&self) -> String {
        let sentences: Vec<String> = self
            .too_slow()
            .into_iter()
            .chain(self.too_small())
            .collect();
        sentences.join(" ")
    }

    /// That a good release cannot be promoted in time, in a sentence.
    pub fn too_slow(&self) -> Option<String> {
        let answer = self.answer();
        if answer.feasible {
            return None;
        }
        if !answer.expected_seconds.is_finite() {
            return Some("Without traffic this objective can never be judged.".to_owned());
        }
        let rate = rate(self.requests_per_second);
        let advice = answer.feasible_target.map_or_else(
            || "choose a longer duration".to_owned(),
            |target| format!("choose {} or a longer duration", percent(target)),
        );
        Some(format!(
            "At {rate} requests/s this objective needs {}; {advice}.",
            duration(answer.expected_seconds)
        ))
    }

    /// That a bad release cannot be found within its allotment, in a sentence.
    pub fn too_small(&self) -> Option<String> {
        let errors = self
            .allotment
            .filter(|_| self.answer().allotment_too_small)?;
        Some(format!(
            "A rollout may spend {} errors of the budget, and no test can finish within fewer than {}.",
            thousands(errors.max(0.0).floor()),
            thousands(crate::budget::LEAST_USEFUL_ALLOTMENT)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(target: f64, requests_per_second: f64) -> Question {
        Question {
            target,
            margin_of_budget: 0.5,
            stable_rate: 0.5 * (1.0 - target),
            requests_per_second,
            max_weight: 0.5,
            beta: 0.05,
            longest_seconds: 3600.0,
            allotment: None,
        }
    }

    #[test]
    fn the_table_of_the_design() {
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
    fn what_is_feasible_needs_no_words() {
        assert!(question(0.999, 100.0).answer().feasible);
        assert_eq!(question(0.999, 100.0).told(), "");
    }

    #[test]
    fn what_is_not_feasible_says_what_would_be() {
        assert_eq!(
            question(0.9999, 0.8).told(),
            "At 0.8 requests/s this objective needs 9.2 days; choose 99 % or a longer duration."
        );
        assert_eq!(
            question(0.999, 0.0).told(),
            "Without traffic this objective can never be judged."
        );
        let tiny = Question {
            allotment: Some(4.2),
            ..question(0.999, 100.0)
        };
        assert_eq!(
            tiny.told(),
            "A rollout may spend 4 errors of the budget, and no test can finish within fewer than 10."
        );
    }
}
