//! Results of the analysis: evidence, error budgets and checks.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_core::schema::{any_object, any_string};
use serin_core::text::{Message, Name};

use crate::analysis::GuardAction;

/// Comparison of canary and stable for one objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EvidenceStatus {
    /// Name of the objective.
    pub objective: String,
    /// Requests and errors of the canary since the release first received traffic.
    pub canary: CountsStatus,
    /// Requests and errors of stable over the same period.
    pub stable: CountsStatus,
    /// Estimated excess error rate of the canary over stable, as a fraction of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excess: Option<f64>,
    /// Lower confidence bound of `excess`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// Upper confidence bound of `excess`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
    /// Evidence against the canary, as an e-value. The release is rolled back when it reaches
    /// `threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e_value: Option<f64>,
    /// The e-value at which the release is rolled back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How often a good release is rolled back by evidence at most, and under which condition that
    /// holds for this release. It changes if the release shows that the condition does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumption: Option<Message>,
    /// Whether this release has shown that the condition with which it began does not hold. It stays
    /// true until the release ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub assumption_broken: bool,
    /// Number of excess errors that this release may cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_allotment: Option<f64>,
    /// Number of excess errors that this release has caused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_spent: Option<f64>,
    /// Irregularity in the collection of the counters. Unset if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Message>,
    /// Result of the latency guard. Unset if the objective has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_guard: Option<LatencyGuardStatus>,
    /// Explanation for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
}

/// Result of a latency guard, with the counts at the bucket bound that has the most evidence that
/// the canary is slower.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LatencyGuardStatus {
    /// Mean e-value over all bucket bounds, as evidence that the canary is slower. The guard acts
    /// when it reaches `threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e_value: Option<f64>,
    /// The e-value at which the guard acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Hold or RollBack.
    #[schemars(schema_with = "any_string")]
    pub action: GuardAction,
    /// Number of bucket bounds that are compared.
    pub edges: i32,
    /// Bucket bound with the most evidence, for example `300ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge: Option<Name>,
    /// Requests of the canary. Those slower than `edge` are the errors.
    pub canary: CountsStatus,
    /// Requests of stable. Those slower than `edge` are the errors.
    pub stable: CountsStatus,
    /// Explanation for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
}

/// Error budget of the service for one objective, over all versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// Name of the objective.
    pub objective: String,
    /// Healthy, Tight or Spent. Tight: so little remains that a release may spend less than usual.
    /// Spent: nothing remains and releases are frozen.
    #[schemars(schema_with = "any_string")]
    pub state: BudgetLevel,
    /// Number of errors that the objective allows in its period.
    pub total: f64,
    /// Number of allowed errors that remain. Negative if the budget is exceeded.
    pub remaining: f64,
    /// Number of errors that one release may cause.
    pub allotment: f64,
    /// Time of the measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Explanation for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// Why this objective can hardly decide a release at the observed traffic. Unset if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infeasible: Option<Message>,
    /// Latest placebo releases on the stable pods. Unset before their metrics were read, and for
    /// objectives whose metrics do not distinguish pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placebo: Option<PlaceboStatus>,
}

/// Placebo releases of one day: the rollback rule on past hours of the stable pods, with each of
/// them in turn as the canary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PlaceboStatus {
    /// End of the day. Without a release, the metrics are read once a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Number of hours with placebo releases. 0 without sufficient data.
    pub hours: i32,
    /// Number of these hours in which at least one pod would have been rolled back.
    pub hours_with_rollback: i32,
    /// Whether so many hours refute the bound on false rollbacks.
    pub refutes_bound: bool,
    /// Identifies the settings of the objective. If they change, the metrics are read again.
    pub settings: Name,
}

/// How much of an error budget remains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BudgetLevel {
    /// A release may spend as much as usual.
    #[default]
    Healthy,
    /// A release may spend less than usual.
    Tight,
    /// Nothing remains, and releases are frozen.
    Spent,
}

impl BudgetLevel {
    /// The state as it appears in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Tight => "Tight",
            Self::Spent => "Spent",
        }
    }
}

/// Latest result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckStatus {
    /// Name of the check.
    pub name: String,
    /// Succeeded, Failed, Inconclusive (the condition could not be evaluated on the result) or
    /// Pending (not yet queried).
    #[schemars(schema_with = "any_string")]
    pub result: CheckOutcome,
    /// Number of failures so far.
    pub failures: i32,
    /// Number of failures that are tolerated.
    pub failure_limit: i32,
    /// Whether the result is reported but never affects the rollout.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Time of the latest query. Unset before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Explanation for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckOutcome {
    /// The check has not been queried yet.
    #[default]
    Pending,
    /// The condition is met.
    Succeeded,
    /// The condition is not met.
    Failed,
    /// The condition could not be evaluated on the result.
    Inconclusive,
}

impl CheckOutcome {
    /// The result as it appears in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Inconclusive => "Inconclusive",
        }
    }
}

/// Number of requests and of bad requests among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CountsStatus {
    /// Number of all requests.
    pub requests: f64,
    /// Number of bad requests.
    pub errors: f64,
}

/// State of the analysis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisStatus {
    /// Revision that is analyzed. The state is ignored for any other revision.
    pub revision: String,
    /// Time at which the analysis began.
    pub started_at: Timestamp,
    /// Checkpoint of the statistics, in an internal format.
    #[schemars(schema_with = "any_object")]
    pub checkpoint: Value,
}
