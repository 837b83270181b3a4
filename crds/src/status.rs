//! What is true of a Rollout, for people and for tools.
//!
//! The position in the release is [`serin_core::state::State`], whose JSON form is a part of this
//! one under the same names; the rest is told beside it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_core::state::State;

/// The fields of the status that are the position in the release; all others are told beside it.
const STATE_FIELDS: [&str; 23] = [
    "observedGeneration",
    "phase",
    "message",
    "stableRevision",
    "currentRevision",
    "plan",
    "stage",
    "stageSince",
    "releaseStartedAt",
    "progress",
    "growingSince",
    "replicasScaled",
    "replicasKept",
    "step",
    "restarting",
    "weights",
    "pause",
    "abort",
    "bake",
    "freezeOverride",
    "draining",
    "commands",
    "history",
];

/// Why a status and a position do not fit each other: another version of the controller wrote it,
/// or somebody by hand.
#[derive(Debug, thiserror::Error)]
#[error("the status is not one that this version of the controller has written: {0}")]
pub struct IncompatibleStatus(#[from] serde_json::Error);

/// What is true.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// The newest generation of the spec that has been taken in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Progressing, Paused, Degraded or Healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What it does or waits for, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The revision that production stands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// The revision that the spec asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// The plan in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// The stage of the release: FirstDeploy, Progressing, Promoting, Aborted or Stable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Since when it has been in this stage or step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_since: Option<Timestamp>,
    /// When the release under way began. What happened before does not count against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_started_at: Option<Timestamp>,
    /// The last progress toward what the release waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// Since when `replicas` is higher than before during this release; nothing once the stable
    /// revision has its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growing_since: Option<Timestamp>,
    /// Whether an autoscaler or `kubectl scale` set `spec.replicas` last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_scaled: Option<bool>,
    /// The number of pods that is kept because `spec.replicas` was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_kept: Option<ReplicasKeptStatus>,
    /// The step at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepStatus>,
    /// Whether the steps start anew from no traffic, because they were edited on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarting: Option<bool>,
    /// The traffic split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsStatus>,
    /// What the release is waiting for, where that is a pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseStatus>,
    /// Why the current revision was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortStatus>,
    /// The watch over a release that has all of the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake: Option<BakeStatus>,
    /// That the current revision may go on although the service has no errors to spend, by whose
    /// word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_override: Option<FreezeOverrideStatus>,
    /// Revisions that no traffic can reach any more and when their pods may go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<DrainStatus>,
    /// The commands carried out last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<CommandDoneStatus>,
    /// The outcomes of the last ten releases, newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ReleaseStatus>,
    /// Short texts for `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<SummaryStatus>,
    /// What the metrics say, for each objective.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceStatus>,
    /// How the service's error budget stands, for each objective: before a release and during it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetStatus>,
    /// What the checks say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    /// The analysis' own position, from which a restarted controller goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisStatus>,
    /// The routes as they were before the first change, to be restored when the Rollout is deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub original_routes: Vec<OriginalRoute>,
    /// The standard conditions: Available, Progressing, Paused, Completed, Healthy, RouteReady,
    /// MetricsReady, Frozen, Feasible, InvalidSpec, Ready, Reconciling, Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Pods of all revisions.
    pub replicas: i32,
    /// Pods of the current revision.
    pub updated_replicas: i32,
    /// Ready pods of all revisions.
    pub ready_replicas: i32,
    /// Available pods of all revisions.
    pub available_replicas: i32,
    /// The pods' label selector as a string, for autoscalers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

impl RolloutStatus {
    /// The position in the release that is persisted here; that of a Rollout that was never seen,
    /// where nothing is.
    ///
    /// # Errors
    /// [`NotAState`] where a field holds what no release of the controller writes there.
    pub fn state(&self) -> Result<State, IncompatibleStatus> {
        Ok(serde_json::from_value(serde_json::to_value(self)?)?)
    }

    /// Puts the position into the status and leaves everything that is told beside it.
    ///
    /// # Errors
    /// [`NotAState`] where a number of the position does not fit the API's; the status is then as
    /// it was.
    pub fn with_state(&mut self, state: &State) -> Result<(), IncompatibleStatus> {
        let mut status = serde_json::to_value(&*self)?;
        let position = serde_json::to_value(state)?;
        if let (Value::Object(status), Value::Object(position)) = (&mut status, position) {
            status.retain(|field, _| !STATE_FIELDS.contains(&field.as_str()));
            status.extend(position);
        }
        *self = serde_json::from_value(status)?;
        Ok(())
    }
}

/// The plan in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Its hash.
    pub hash: String,
    /// The plan with every default filled in.
    #[schemars(schema_with = "any_object")]
    pub spec: Value,
}

/// Progress toward what a release waits for: pods, the router, the Services.
/// `spec.progressDeadlineSeconds` counts from the last progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// When the last progress was made.
    pub at: Timestamp,
    /// The most that was reached so far: pods in place, plus one for each part of the router and
    /// the Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<i64>,
    /// Since when nothing is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_since: Option<Timestamp>,
}

/// The number of pods that is kept because `spec.replicas` was removed and its default is lower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicasKeptStatus {
    /// The number of pods.
    pub count: i32,
    /// Until when an autoscaler that has begun to set `replicas` may still be below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// The step at hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Its index, from 0; equal to the number of steps once all are complete.
    pub index: i32,
    /// When it began.
    pub started_at: Timestamp,
}

/// The traffic split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightsStatus {
    /// The canary's share in percent that the release asks for.
    pub desired: f64,
    /// The canary's share in percent that was last seen in effect; nothing while a change is on its
    /// way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<f64>,
    /// Since when it has been in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// With how many available canary pods it was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<i32>,
    /// The most percent that the canary gets though its step asks for more, since its metrics have
    /// asked for less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<f64>,
}

/// What a release waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseStatus {
    /// Step, Command or Inconclusive.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; nothing: until a person says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Why a revision was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbortStatus {
    /// The revision that was given up.
    pub revision: String,
    /// When.
    pub at: Timestamp,
    /// What decided it, for example Evidence, ErrorBudget, Command, PodCrash, ProgressDeadline,
    /// Reverted.
    pub cause: String,
    /// Who asked for it, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What an operator reads.
    pub message: String,
}

/// The watch over a release that has all of the traffic, before it becomes stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BakeStatus {
    /// Since when the canary has been seen to have all of the traffic.
    pub since: Timestamp,
    /// Since when the watch is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// A person's word that a revision may go on although the service has no errors to spend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FreezeOverrideStatus {
    /// The revision; the word holds for its release at hand alone.
    pub revision: String,
    /// Who gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// A revision that no traffic can reach any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// The revision.
    pub revision: String,
    /// When its pods may go.
    pub until: Timestamp,
}

/// A command that was carried out or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandDoneStatus {
    /// The UID of the command object.
    pub uid: String,
    /// How it ended.
    pub outcome: CommandResultStatus,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandResultStatus {
    /// Done or Refused.
    pub result: String,
    /// What happened, or why not.
    pub message: String,
}

/// How one release ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    /// The revision.
    pub revision: String,
    /// Promoted, Aborted or Superseded.
    pub result: String,
    /// When.
    pub at: Timestamp,
    /// What an operator reads.
    pub message: String,
}

/// Short texts for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SummaryStatus {
    /// For example `3/6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// For example `20 %`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// For example `budget 0.7 % · E 3.1/100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// What the metrics say of one objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EvidenceStatus {
    /// The objective's name.
    pub objective: String,
    /// Requests and errors of the canary since the release began to get traffic.
    pub canary: CountsStatus,
    /// Requests and errors of stable in the same time.
    pub stable: CountsStatus,
    /// The canary's excess fraction of bad requests over stable's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excess: Option<f64>,
    /// Its lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// Its upper bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
    /// The evidence against the canary; it is rolled back at `threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e_value: Option<f64>,
    /// Where the evidence rolls back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The errors that this release may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_allotment: Option<f64>,
    /// The excess errors that it has cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_spent: Option<f64>,
    /// What is out of the ordinary in how its counters are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the latency guard says, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_guard: Option<LatencyGuardStatus>,
    /// What an operator reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What the latency guard of an objective says, of the bucket edge with the most evidence that the
/// canary is slower.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LatencyGuardStatus {
    /// The mean evidence over all edges that the canary is slower; it acts at `threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e_value: Option<f64>,
    /// Where the guard acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Hold or RollBack.
    pub action: String,
    /// How many edges are compared.
    pub edges: i32,
    /// The edge, for example `300ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
    /// Requests of the canary; its errors are those that took longer than the edge.
    pub canary: CountsStatus,
    /// Requests of stable; its errors are those that took longer than the edge.
    pub stable: CountsStatus,
    /// What an operator reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How the service's error budget stands for one objective, all versions together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// The objective's name.
    pub objective: String,
    /// Healthy; Tight: so little remains that a release may spend less than usual; Spent: nothing
    /// remains, and releases are frozen.
    pub state: String,
    /// The errors that the objective allows in its period.
    pub total: f64,
    /// Those not yet made; negative where more were.
    pub remaining: f64,
    /// The errors that one release may cost.
    pub allotment: f64,
    /// When this was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What an operator reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why a release can hardly be judged by this objective with the traffic that was seen; nothing
    /// where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infeasible: Option<String>,
}

/// What one check says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckStatus {
    /// The check's name.
    pub name: String,
    /// Succeeded, Failed, Inconclusive (no number, or none that the condition can be reckoned on)
    /// or Pending (not yet asked).
    pub result: String,
    /// How often it has failed.
    pub failures: i32,
    /// How often it may.
    pub failure_limit: i32,
    /// Whether it decides nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// When it was asked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What an operator reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Requests and the bad ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CountsStatus {
    /// All requests.
    pub requests: f64,
    /// The bad ones.
    pub errors: f64,
}

/// The analysis' own position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisStatus {
    /// The revision that it judges; it is void for any other.
    pub revision: String,
    /// Since when it judges.
    pub started_at: Timestamp,
    /// The position, as the statistical core writes it.
    #[schemars(schema_with = "any_object")]
    pub checkpoint: Value,
}

/// A route's backends as they were before the first change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OriginalRoute {
    /// The route's kind.
    pub kind: String,
    /// The route's name.
    pub name: String,
    /// The backends of its rules, as JSON.
    pub backends: String,
    /// The stable Service in these rules. Defaults to the one that the plan names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_service: Option<String>,
    /// The canary Service in these rules. Defaults to the one that the plan names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_service: Option<String>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
