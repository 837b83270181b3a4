//! `status` of a Rollout.
//!
//! Part of it is the JSON form of [`serin_core::state::State`], from which the controller continues
//! after a restart. The other fields are reports for users and tools.

mod analysis;
mod release;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_core::state::State;
use serin_core::state_reader::{self, PersistedState, STATE_FIELDS};

pub use analysis::{
    AnalysisStatus, BudgetStatus, CheckStatus, CountsStatus, EvidenceStatus, LatencyGuardStatus,
};
pub use release::{
    AbortStatus, BakeStatus, CommandResultStatus, DrainStatus, FreezeOverrideStatus,
    HandledCommandStatus, HoldEndStatus, HoldStatus, PauseStatus, PlanStatus, ProgressStatus,
    ReleaseStatus, ReplicasKeptStatus, StepStatus, WeightsStatus,
};

/// A state does not fit the status: a number exceeds its field.
#[derive(Debug, thiserror::Error)]
#[error("the state does not fit the status: {0}")]
pub struct InvalidState(#[from] serde_json::Error);

/// A status as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PersistedStatus {
    /// The fields that could be read; the others have their defaults.
    pub status: RolloutStatus,
    /// Why the status cannot be understood completely; `None` if it can.
    pub incompatibility: Option<String>,
}

/// Observed state of a Rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// Version of the persisted state. Defaults to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i32>,
    /// Latest generation of the spec that the controller has processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Summary of the rollout: Progressing, Paused, Degraded or Healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What the rollout does or waits for, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Revision that was promoted last. Unset until the first deployment is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// Revision of the current `spec.template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// Active plan: the spec that the release follows, with all defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// Stage of the release: FirstDeploy, Progressing, Promoting, Aborted or Stable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Time at which the current stage or step began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_since: Option<Timestamp>,
    /// Time at which the current release began. Earlier events do not count against it. Unset if no
    /// release is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_started_at: Option<Timestamp>,
    /// Latest progress toward the state that the release waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// Time at which `replicas` was increased during this release. Unset once the stable revision
    /// has all of its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growing_since: Option<Timestamp>,
    /// Whether `spec.replicas` was last set by an autoscaler or `kubectl scale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_scaled: Option<bool>,
    /// Number of pods that is kept because `spec.replicas` was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_kept: Option<ReplicasKeptStatus>,
    /// Current step. Unset if the release has no steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepStatus>,
    /// Whether the steps restart with no traffic on the canary because they were edited during the
    /// release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarting: Option<bool>,
    /// Traffic split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsStatus>,
    /// Current pause. Unset if the release is not paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseStatus>,
    /// Why the current revision was aborted. Unset if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortStatus>,
    /// Analysis of a release that has all of the traffic. Unset before it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake: Option<BakeStatus>,
    /// Manual permission for the current revision to continue although the error budget is
    /// exhausted. Unset if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_override: Option<FreezeOverrideStatus>,
    /// Everything that stops the release, the most important first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HoldStatus>,
    /// Revisions that receive no traffic, with the earliest time at which their pods are removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<DrainStatus>,
    /// Commands that were executed recently.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<HandledCommandStatus>,
    /// Outcomes of the last ten releases, newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ReleaseStatus>,
    /// Short texts for the columns of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<SummaryStatus>,
    /// Comparison of canary and stable for each objective.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceStatus>,
    /// Error budget of the service for each objective, before and during a release.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetStatus>,
    /// Latest result of each check.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    /// State of the analysis, from which the controller continues after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisStatus>,
    /// Routes as they were before the first change. They are restored when the Rollout is deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub original_routes: Vec<OriginalRoute>,
    /// Conditions: Available, Progressing, Paused, Completed, Healthy, RouteReady, MetricsReady,
    /// Frozen, Feasible, InvalidSpec, Ready, Reconciling, Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Number of pods of all revisions.
    pub replicas: i32,
    /// Number of pods of the current revision.
    pub updated_replicas: i32,
    /// Number of ready pods of all revisions.
    pub ready_replicas: i32,
    /// Number of available pods of all revisions.
    pub available_replicas: i32,
    /// Label selector of the pods in string form, for autoscalers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

impl RolloutStatus {
    /// Reads a status of any version of the controller, field by field if necessary.
    pub fn read(status: Value) -> PersistedStatus {
        let Value::Object(mut fields) = status else {
            return PersistedStatus::default();
        };
        let mut problems: Vec<String> = state_reader::read(&fields)
            .incompatibility
            .into_iter()
            .collect();
        if let Ok(status) = serde_json::from_value(Value::Object(fields.clone())) {
            return PersistedStatus {
                status,
                incompatibility: problems.pop(),
            };
        }
        fields.retain(|field, value| {
            let single = serde_json::Map::from_iter([(field.clone(), value.clone())]);
            match serde_json::from_value::<Self>(Value::Object(single)) {
                Ok(_) => true,
                Err(error) => {
                    // Without the original routes they cannot be restored. Other reports are
                    // written again.
                    if field == "originalRoutes" {
                        problems.push(format!("status.{field}: {error}"));
                    }
                    false
                }
            }
        });
        PersistedStatus {
            status: serde_json::from_value(Value::Object(fields)).unwrap_or_default(),
            incompatibility: (!problems.is_empty()).then(|| problems.join("; ")),
        }
    }

    /// The persisted state, as far as it can be read.
    pub fn state(&self) -> PersistedState {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => state_reader::read(&fields),
            _ => PersistedState::default(),
        }
    }

    /// Replaces the fields of [`State`] and keeps all other fields.
    ///
    /// # Errors
    ///
    /// [`InvalidState`] if a number in `state` does not fit its field. The status is then
    /// unchanged.
    pub fn set_state(&mut self, state: &State) -> Result<(), InvalidState> {
        let mut status = serde_json::to_value(&*self)?;
        let state = serde_json::to_value(state)?;
        if let (Value::Object(status), Value::Object(state)) = (&mut status, state) {
            status.retain(|field, _| !STATE_FIELDS.contains(&field.as_str()));
            status.extend(state);
        }
        *self = serde_json::from_value(status)?;
        Ok(())
    }
}

/// Short texts for the columns of `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SummaryStatus {
    /// Number of the current step and total number of steps, for example `3/6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Share of the canary, for example `20 %`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Spent error budget and e-value of the release, for example `budget 0.7 % · E 3.1/100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// Backends of a route before the first change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OriginalRoute {
    /// Kind of the route.
    pub kind: String,
    /// Name of the route.
    pub name: String,
    /// Backends of its rules, as JSON.
    pub backends: String,
    /// Stable Service in these rules. Defaults to the one in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_service: Option<String>,
    /// Canary Service in these rules. Defaults to the one in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_service: Option<String>,
}

/// Schema of an object with any fields.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
