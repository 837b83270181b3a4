//! The inputs and results of the decision table, shared by [`crate::decision`] and
//! [`crate::explain`].

use serde::{Deserialize, Serialize};

use crate::claim::{Claim, RoutedUnit};
use crate::counts::Counts;
use crate::latency::LatencyGuardEvidence;
use crate::service_guard::BurnAlert;
use crate::step_size::StepConfig;
use crate::strata::EndpointEvidence;

/// The thresholds of the decision table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnalysisConfig {
    /// Maximum probability of rolling back a good release by evidence.
    pub alpha: f64,
    /// Maximum probability of promoting a release whose excess equals the margin.
    pub beta: f64,
    /// Promotion and steps require `E` below this value.
    pub advance_below_e: f64,
    /// With a spent allotment or a fast budget burn, `E` at or above this value rolls back. The
    /// inverse of this value bounds the probability of doing so for a good release.
    pub suspect_from_e: f64,
    /// How weights grow.
    pub steps: StepConfig,
    /// Minimum time at a weight, in seconds.
    pub soak_seconds: f64,
    /// Minimum number of scrapes at a weight.
    pub soak_scrapes: f64,
    /// Seconds without data after which the weight is lowered.
    pub step_down_after_seconds: f64,
    /// Maximum duration in seconds without a verdict. After it, the verdict is
    /// [`Verdict::Inconclusive`].
    pub max_duration_seconds: f64,
    /// What is assigned to a side as a whole. Only the stated condition of the bound depends on it.
    #[serde(default)]
    pub routed_unit: RoutedUnit,
}

impl Default for AnalysisConfig {
    fn default() -> Self {
        Self {
            alpha: 0.01,
            beta: 0.05,
            advance_below_e: 5.0,
            suspect_from_e: 10.0,
            steps: StepConfig::default(),
            soak_seconds: 60.0,
            soak_scrapes: 4.0,
            step_down_after_seconds: 300.0,
            max_duration_seconds: 3600.0,
            routed_unit: RoutedUnit::Request,
        }
    }
}

/// The state of the rollout at the time of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RolloutContext {
    /// Current time, in milliseconds since the epoch.
    pub now_ms: i64,
    /// The canary's weight in effect, from 0 to 1.
    pub weight: f64,
    /// Time of the last weight change, in milliseconds since the epoch.
    pub weight_changed_at_ms: i64,
    /// Duration of the analysis, in seconds, without manual pauses.
    pub elapsed_seconds: f64,
    /// Expected peak of the service's requests per second.
    pub requests_per_second: f64,
    /// The alert of the service guard, if the service burns its budget too fast.
    pub guard: Option<BurnAlert>,
    /// Whether the freeze was overridden manually.
    pub freeze_lifted: bool,
}

/// Reason for a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldReason {
    /// The metrics provider does not respond.
    Unreachable,
    /// The metrics provider returns incomplete data.
    PartialData,
    /// A sample was not a number, negative or infinite.
    NotANumber,
    /// An arm has no series.
    NoData,
    /// The samples of an arm are too old.
    Stale,
    /// The canary receives no requests.
    NoTraffic,
    /// The error selector has never matched a series. It may be mistyped.
    UnverifiedSelector,
    /// The worst case at this weight exceeds the remaining allotment.
    BudgetLeft,
    /// The latency guard found the canary slower than stable at some bucket edge.
    Slower,
    /// The latency guard has no histogram bucket that both arms share.
    NothingToCompare,
}

/// Cause of a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RollBackCause {
    /// `E >= 1/alpha`.
    Evidence,
    /// The allotment is spent, and `E >= 10`.
    Budget,
    /// The service burns its budget too fast, and `E >= 10`.
    ServiceGuard,
}

/// Reason for a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FreezeReason {
    /// The service as a whole burns its budget too fast.
    ServiceGuard,
    /// No error budget remains for a rollout.
    BudgetSpent,
}

/// The next action of a rollout that is allowed to proceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NextAction {
    /// Make the canary stable.
    Promote,
    /// Raise the weight.
    Step {
        /// The next weight, from 0 to 1.
        next: f64,
    },
    /// Wait for more evidence.
    Continue,
}

/// The decision on a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Remove all traffic from the canary.
    RollBack(RollBackCause),
    /// Stay at this weight. A hold never counts as success.
    Hold(HoldReason),
    /// Lower the weight: data has been missing for too long, or the allotment is nearly spent.
    StepDown {
        /// The next weight, from 0 to 1.
        next: f64,
        /// Reason for lowering the weight.
        reason: HoldReason,
    },
    /// Stay at this weight until the service recovers or the freeze is overridden.
    Freeze(FreezeReason),
    /// Proceed despite a freeze: stable is demonstrably worse, so this release is the fix.
    ProceedDespiteFreeze(NextAction),
    /// Proceed.
    Proceed(NextAction),
    /// No verdict within the maximum duration. Manual action is required.
    Inconclusive,
}

/// The reported evidence on one objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveEvidence {
    /// The objective's name.
    pub name: String,
    /// Counts over the whole rollout.
    pub counts: Counts,
    /// Estimate of `p_c - p_s`. `None` until both arms have requests.
    pub excess: Option<f64>,
    /// `L`, the always-valid lower bound of the excess.
    pub lower: f64,
    /// `U`, the always-valid upper bound of the excess.
    pub upper: f64,
    /// `delta1`, the margin. Promotion requires `U` below it.
    pub margin: f64,
    /// `b`, the fraction of requests that may fail.
    pub budget_fraction: f64,
    /// `ln E`.
    pub ln_e: f64,
    /// `ln E` with the arms exchanged.
    pub ln_e_reversed: f64,
    /// `ln M_good(delta1)`. Promotion requires at least `ln(1/beta)`.
    pub ln_m_good: f64,
    /// The temper `k`, by which log e-values are divided. 1 if errors do not cluster.
    pub k: f64,
    /// What is claimed about false rollbacks, and the condition. It changes if the release shows that
    /// the assumption with which it began does not hold.
    pub assumption: Claim,
    /// Errors that the rollout may spend. `None` if unknown.
    pub allotment: Option<f64>,
    /// Errors spent so far: `max(X, 0)`.
    pub spent: f64,
    /// Estimated number of further requests to both arms until promotion, if the canary is as good
    /// as stable.
    pub needed_requests: Option<f64>,
    /// Reason to hold and its start, in milliseconds since the epoch.
    pub hold: Option<(HoldReason, i64)>,
    /// Whether both arms have fresh samples.
    pub fresh: bool,
    /// The canary's share of the requests if it differs from the configured weight.
    pub traffic_mismatch: Option<f64>,
    /// Evidence of the latency guard, if configured.
    pub guard: Option<LatencyGuardEvidence>,
    /// The endpoint with the strongest evidence, if the objective has strata.
    pub endpoint: Option<EndpointEvidence>,
}

/// The result of one evaluation: the verdict with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// The decision on a rollout.
    pub verdict: Verdict,
    /// Explanation for operators, one sentence or group of sentences per entry.
    pub reasons: Vec<String>,
    /// `ln` of the weighted mean of the objectives' `E`. Rolls back at `ln(1/alpha)`.
    pub ln_e: f64,
    /// Whether the evidence of every objective suffices for promotion, regardless of the weight.
    pub is_promotable: bool,
    /// The largest next weight that the budget allows, from 0 to 1.
    pub next_weight: f64,
    /// The evidence on each objective.
    pub objectives: Vec<ObjectiveEvidence>,
}
