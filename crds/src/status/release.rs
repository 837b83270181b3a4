//! State of the release: plan, step, weights, pause, abort, history.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::any_object;

/// The active plan of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Hash of the plan.
    pub hash: String,
    /// Plan with all defaults.
    #[schemars(schema_with = "any_object")]
    pub spec: Value,
}

/// Progress toward the state that a release waits for: pods, the router and the Services.
/// `spec.progressDeadlineSeconds` counts from the latest progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// Time of the latest progress.
    pub at: Timestamp,
    /// Highest count reached so far: available pods, plus one for each ready part of the router and
    /// the Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<i64>,
    /// Time since which nothing is missing. Unset if something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_since: Option<Timestamp>,
}

/// Number of pods that is kept because `spec.replicas` was removed and its default is lower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicasKeptStatus {
    /// Number of pods.
    pub count: i32,
    /// Time until which an autoscaler that has started to set `replicas` may set a lower number.
    /// Unset if no autoscaler has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Current step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Index of the step, from 0. Equal to the number of steps once all are complete.
    pub index: i32,
    /// Time at which the step began.
    pub started_at: Timestamp,
}

/// Traffic split, in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightsStatus {
    /// Desired share of the canary in percent.
    pub desired: f64,
    /// Share of the canary in percent that was last verified to be in effect. Unset while a change
    /// is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<f64>,
    /// Time since which the verified share has been in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Number of available canary pods at the time of verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<i32>,
    /// Upper limit of the canary's share in percent, if the metrics require less than the step
    /// sets. Unset if there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<f64>,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseStatus {
    /// Reason of the pause: Step, Command or Inconclusive.
    pub reason: String,
    /// Time at which the pause began.
    pub since: Timestamp,
    /// Time at which the pause ends. Unset if it lasts until a manual action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Abort of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbortStatus {
    /// Revision that was aborted.
    pub revision: String,
    /// Time of the abort.
    pub at: Timestamp,
    /// Cause of the abort, for example Evidence, ErrorBudget, Command, PodCrash, ProgressDeadline
    /// or Reverted.
    pub cause: String,
    /// User who requested the abort. Unset if the controller decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Explanation for operators.
    pub message: String,
}

/// Analysis of a release that has all of the traffic, before it becomes stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BakeStatus {
    /// Time since which the canary is known to have all of the traffic.
    pub since: Timestamp,
    /// Time at which the bake ended. Unset while it is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// Manual permission for a revision to continue although the error budget is exhausted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FreezeOverrideStatus {
    /// Revision. The permission is valid only for its current release.
    pub revision: String,
    /// User who gave the permission. Unset if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Time at which the permission was given.
    pub at: Timestamp,
    /// Reason that the user gave.
    pub reason: String,
}

/// A revision that receives no traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// Revision.
    pub revision: String,
    /// Earliest time at which its pods are removed.
    pub until: Timestamp,
}

/// A command that was executed or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HandledCommandStatus {
    /// UID of the RolloutCommand.
    pub uid: String,
    /// Outcome of the command.
    pub outcome: CommandResultStatus,
}

/// Outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandResultStatus {
    /// Done or Refused.
    pub result: String,
    /// What was done, or why the command was refused.
    pub message: String,
}

/// Outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    /// Revision that was released.
    pub revision: String,
    /// Promoted, Aborted or Superseded.
    pub result: String,
    /// Time at which the release ended.
    pub at: Timestamp,
    /// Explanation for operators.
    pub message: String,
}

/// Something that stops a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldStatus {
    /// Where the hold comes from: Spec, Person, Step, Metrics, Budget, Guardrail or Cluster.
    pub source: String,
    /// What the hold is, as one CamelCase word. The reference lists all codes with their fixes.
    pub code: String,
    /// What the hold is, in a sentence.
    pub message: String,
    /// What the hold stops: Start, Advance, Promote or Raise.
    pub blocks: String,
    /// What ends the hold.
    pub ends: HoldEndStatus,
    /// Canary weight in percent to go down to because the hold has lasted too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_to: Option<f64>,
    /// Time at which the hold was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// What ends a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldEndStatus {
    /// Itself, Time, Command, Override or SpecChange.
    pub by: String,
    /// Time at which the hold ends. Set if `by` is Time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Verb of the command that ends the hold. Set if `by` is Command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}
