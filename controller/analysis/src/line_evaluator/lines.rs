//! The lines of an evaluation: counts in, results out.

use serde::{Deserialize, Serialize};

use crate::counts::PodCounts;

/// One input line: the counts since the previous tick.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TickLine {
    /// End of the tick, in seconds since the start of the rollout.
    pub t: f64,
    /// Requests to the canary since the previous tick.
    pub canary: ArmLine,
    /// Requests to stable since the previous tick.
    pub stable: StableLine,
    /// The canary's weight from 0 to 1, if known. The tick of a change is charged to the budget, in
    /// a block of its own, but not bet on.
    #[serde(default)]
    pub weight: Option<f64>,
}

/// The counts of one arm.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmLine {
    /// Requests.
    pub requests: f64,
    /// Bad requests among them.
    pub errors: f64,
}

/// The counts of stable.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StableLine {
    /// Requests.
    pub requests: f64,
    /// Bad requests among them.
    pub errors: f64,
    /// The counts of each pod, used for the overdispersion.
    #[serde(default)]
    pub pods: Vec<PodCounts>,
}

/// An invalid field of an input line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct TickError {
    /// The field's path, such as `canary.errors`.
    pub field: &'static str,
    /// What is expected of it.
    pub message: String,
}

/// Maximum time of a line, about 30,000 years.
const MAX_SECONDS: f64 = 1e12;
/// Largest count: above it a double cannot represent every whole number.
pub(super) const MAX_COUNT: f64 = 9_007_199_254_740_992.0;

impl TickLine {
    /// Checks that all fields are valid counts.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), TickError> {
        let refuse = |field, message: String| Err(TickError { field, message });
        if !(0.0..=MAX_SECONDS).contains(&self.t) {
            return refuse(
                "t",
                format!(
                    "must be seconds since the beginning, from 0 to {MAX_SECONDS:e}, not {}",
                    self.t
                ),
            );
        }
        if let Some(weight) = self.weight.filter(|weight| !(0.0..=1.0).contains(weight)) {
            return refuse("weight", format!("must be from 0 to 1, not {weight}"));
        }
        let is_count = |value: f64| (0.0..=MAX_COUNT).contains(&value) && value.fract() == 0.0;
        let fields = [
            ("canary.requests", self.canary.requests),
            ("canary.errors", self.canary.errors),
            ("stable.requests", self.stable.requests),
            ("stable.errors", self.stable.errors),
        ];
        for (field, value) in fields {
            if !is_count(value) {
                return refuse(
                    field,
                    format!("must be a whole number from 0 to 2^53, not {value}"),
                );
            }
        }
        if self.canary.errors > self.canary.requests {
            return refuse(
                "canary.errors",
                format!(
                    "{} of {} requests",
                    self.canary.errors, self.canary.requests
                ),
            );
        }
        if self.stable.errors > self.stable.requests {
            return refuse(
                "stable.errors",
                format!(
                    "{} of {} requests",
                    self.stable.errors, self.stable.requests
                ),
            );
        }
        for pod in &self.stable.pods {
            if !(is_count(pod.requests) && is_count(pod.errors) && pod.errors <= pod.requests) {
                return refuse(
                    "stable.pods",
                    "must be whole numbers, and no more errors than requests".to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// One output line. Undefined values are null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputLine {
    /// The tick's time.
    pub t: f64,
    /// `ln E`. Rolls back at `ln(1/alpha)`.
    pub ln_e: f64,
    /// Reserve of the rollback mixture that is not yet at stake.
    pub cash: f64,
    /// Estimate of `p_c - p_s`, as a fraction of requests.
    pub excess: Option<f64>,
    /// `L`, at level `alpha`. -1 without evidence.
    pub lower: f64,
    /// `U`, at level `beta`. 1 without evidence.
    pub upper: f64,
    /// `ln M_good(delta1)`. Promotes at `ln(1/beta)`.
    pub ln_m_good: f64,
    /// The overdispersion of the stable pods.
    pub phi: Option<f64>,
    /// Used fraction of the allotment. 1 means all of it.
    pub budget_used: Option<f64>,
    /// The decision.
    pub verdict: LineVerdict,
    /// Explanation in sentences.
    pub why: String,
}

/// The decision. A rollout acts on the first `rollBack` or `promote`. Later lines are hypothetical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LineVerdict {
    /// The canary is worse, or the allotment is spent.
    RollBack,
    /// An arm had no requests in this tick.
    Hold,
    /// The evidence suffices for promotion.
    Promote,
    /// Not yet decided.
    Continue,
}
