//! What is decided by, and what a decision says: the words that the judge and those who explain it
//! share.

use serde::{Deserialize, Serialize};

use crate::counts::Counts;
use crate::guard::Burning;
use crate::latency::GuardEvidence;
use crate::step_size::StepConfig;

/// The thresholds of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JudgeConfig {
    /// The most that the chance of rolling back a good release by evidence may be.
    pub alpha: f64,
    /// The most that the chance of promoting at an excess of the margin may be.
    pub beta: f64,
    /// Promotion and steps need `E` below this.
    pub calm_below: f64,
    /// A spent allotment rolls back from this `E` on. Theory bounds a good release's chance of it
    /// by its inverse only.
    pub breach_from: f64,
    /// How weights grow.
    pub steps: StepConfig,
    /// The least time at a weight.
    pub soak_seconds: f64,
    /// The least number of scrapes at a weight.
    pub soak_scrapes: f64,
    /// Without data for this long the weight goes down.
    pub step_down_after_seconds: f64,
    /// The longest that a rollout may take before a person is asked.
    pub longest_seconds: f64,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            alpha: 0.01,
            beta: 0.05,
            calm_below: 5.0,
            breach_from: 10.0,
            steps: StepConfig::default(),
            soak_seconds: 60.0,
            soak_scrapes: 4.0,
            step_down_after_seconds: 300.0,
            longest_seconds: 3600.0,
        }
    }
}

/// Where the rollout stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Context {
    /// The clock, in milliseconds since the epoch.
    pub now_ms: i64,
    /// The canary's weight in effect, from 0 to 1.
    pub weight: f64,
    /// When it last changed.
    pub weight_changed_at_ms: i64,
    /// How long the rollout has been judged, without the time that it was paused by a person.
    pub elapsed_seconds: f64,
    /// The most requests per second that the service may soon have.
    pub requests_per_second: f64,
    /// The service guard, where it burns.
    pub guard: Option<Burning>,
    /// Whether a person has lifted the freeze.
    pub freeze_lifted: bool,
}

/// Why a rollout holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldReason {
    /// The provider of the metrics does not answer.
    Unreachable,
    /// It answers with some of the data missing.
    PartialData,
    /// A sample was not a number, negative or infinite.
    NotANumber,
    /// An arm has no series.
    NoData,
    /// An arm's samples are old.
    Stale,
    /// The canary gets no requests.
    NoTraffic,
    /// The error selector has never matched anything: no errors may be a mistyped selector.
    UnverifiedSelector,
    /// The worst case at this weight no longer fits what is left of the allotment.
    BudgetLeft,
    /// The latency guard: the canary is slower than stable somewhere in the distribution.
    Slower,
    /// The latency guard has had no edge of the histogram to compare both arms at.
    NothingToCompare,
}

/// Why a rollout is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RollBackCause {
    /// `E >= 1/alpha`.
    Evidence,
    /// The allotment is spent, and `E >= 10`.
    Budget,
    /// The service burns, and `E >= 10`.
    ServiceGuard,
}

/// Why a rollout is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FreezeReason {
    /// The service burns its budget, all versions together.
    ServiceGuard,
    /// No budget is left for a rollout.
    BudgetSpent,
}

/// A way forward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Forward {
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

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Take the traffic off the canary.
    RollBack(RollBackCause),
    /// Stay at this weight; never success.
    Hold(HoldReason),
    /// Lower the weight: there has been no data for too long.
    StepDown {
        /// The next weight, from 0 to 1.
        next: f64,
        /// What is missing.
        reason: HoldReason,
    },
    /// Stay until the service is well or a person lifts it.
    Freeze(FreezeReason),
    /// Go on in spite of a freeze: stable is demonstrably worse, this release is the cure.
    GoOnCure(Forward),
    /// Go on.
    Forward(Forward),
    /// Ask a person: the longest duration is over.
    Inconclusive,
}

/// The evidence on one objective, as told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveEvidence {
    /// The objective's name.
    pub name: String,
    /// What was counted over the rollout.
    pub counts: Counts,
    /// `p_c - p_s`, estimated; nothing before both arms had requests.
    pub excess: Option<f64>,
    /// `L`, the always-valid lower bound of the excess.
    pub lower: f64,
    /// `U`, the upper one.
    pub upper: f64,
    /// `delta1`, the margin that `U` must come below.
    pub margin: f64,
    /// `b`, the fraction that may fail.
    pub budget_fraction: f64,
    /// `ln E`.
    pub ln_e: f64,
    /// `ln E` with the arms exchanged.
    pub ln_e_cure: f64,
    /// `ln M_good(delta1)`; promotion needs `ln(1/beta)`.
    pub ln_m_good: f64,
    /// The temper `k`; 1 where errors do not cluster.
    pub k: f64,
    /// What the rollout may spend, in errors, where it is known.
    pub allotment: Option<f64>,
    /// What it has spent, in errors: `max(X, 0)`.
    pub spent: f64,
    /// About how many more requests promotion needs, of both arms, if the canary fails like stable.
    pub needed_requests: Option<f64>,
    /// Why it holds, and since when.
    pub hold: Option<(HoldReason, i64)>,
    /// Whether both arms have fresh samples.
    pub fresh: bool,
    /// The canary's share of the requests, where it differs from the weight that was set.
    pub traffic_mismatch: Option<f64>,
    /// What the latency guard says, where there is one.
    pub guard: Option<GuardEvidence>,
}

/// The verdict and all that it stands on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// What to do.
    pub verdict: Verdict,
    /// Why, in sentences for an operator.
    pub because: Vec<String>,
    /// `ln` of the weighted mean of the objectives' `E`: rolls back at `ln(1/alpha)`.
    pub ln_e: f64,
    /// Whether every objective's evidence allows promotion, whatever the weight.
    pub proven: bool,
    /// The largest next weight that the budget allows, from 0 to 1.
    pub next_weight: f64,
    /// The evidence on each objective.
    pub objectives: Vec<ObjectiveEvidence>,
}
