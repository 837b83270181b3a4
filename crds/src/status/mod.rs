//! `status` of a Rollout: the state from which the controller continues after a restart, and reports
//! for users and tools.

mod analysis;
mod image_digests;
mod size;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serin_core::state::{SCHEMA_VERSION, State};
use serin_core::state_reader::{self, STATE_FIELDS, UnreadableField, remove_unreadable};
use serin_core::text::Name;

pub use analysis::{
    AnalysisStatus, BudgetLevel, BudgetStatus, CheckOutcome, CheckStatus, CountsStatus,
    EvidenceStatus, LatencyGuardStatus, PlaceboStatus,
};
pub use image_digests::{IMAGE_DIGESTS_BYTES, PinnedImage, PinnedRevision, image_digests};
pub use size::{
    CHECKPOINT_BYTES, ENDPOINTS_BYTES, LATENCY_GUARD_BYTES, OBJECTIVE_BYTES, ORIGINAL_ROUTES_BYTES,
    RELEASE_ANALYSIS_BYTES, SELECTOR_BYTES, STATUS_BYTES, serialized_bytes,
};

/// A status as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PersistedStatus {
    /// The fields that could be read; the others have their defaults.
    pub status: RolloutStatus,
    /// Why the status cannot be understood completely; `None` if it can.
    pub incompatibility: Option<String>,
    /// Every field that could not be read, also those that are written again.
    pub unreadable: Vec<UnreadableField>,
}

/// Observed state of a Rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// State from which the controller continues after a restart.
    #[serde(flatten)]
    pub state: State,
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
    /// Digests that the tags of images had before the first pods of a revision, newest first. Its
    /// pods run these digests. Defaults to none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_digests: Vec<PinnedRevision>,
    /// Conditions: Available, Progressing, Paused, Completed, Healthy, RouteReady, MetricsReady,
    /// Frozen, Feasible, RoutedPerRequest, InvalidSpec, Ready, Reconciling, Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Number of pods that stand for `spec.replicas`, for autoscalers: equal to it once they exist,
    /// and never more. Pods that a release needs in addition are not included.
    pub replicas: i32,
    /// Number of pods of the current revision.
    pub updated_replicas: i32,
    /// Number of ready pods of all revisions.
    pub ready_replicas: i32,
    /// Number of available pods of all revisions.
    pub available_replicas: i32,
    /// Label selector of the pods that receive requests, in string form, for autoscalers. During a
    /// release it selects the pods of both sides once the canary receives requests. Unset if it is
    /// longer than 2,048 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

impl RolloutStatus {
    /// As [`RolloutStatus::read`], from JSON text. The status of this version of the controller, which
    /// is nearly every one, is read without a tree of values.
    pub fn read_text(status: &str) -> PersistedStatus {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Summary {
            schema_version: u32,
            holds: Vec<IgnoredAny>,
        }
        let read: Result<(Summary, Self), serde_json::Error> = serde_json::from_str(status)
            .and_then(|summary| {
                let status = serde_json::from_str(status)?;
                Ok((summary, status))
            });
        match read {
            Ok((summary, status))
                if summary.schema_version <= SCHEMA_VERSION
                    && summary.holds.len() == status.state.holds.len() =>
            {
                PersistedStatus {
                    status,
                    ..PersistedStatus::default()
                }
            }
            _ => Self::read(serde_json::from_str(status).unwrap_or_default()),
        }
    }

    /// Reads a status of any version of the controller, field by field if necessary.
    pub fn read(status: Value) -> PersistedStatus {
        let Value::Object(mut fields) = status else {
            return PersistedStatus::default();
        };
        let persisted = state_reader::read(&fields);
        let mut problems: Vec<String> = persisted.incompatibility.into_iter().collect();
        let mut unreadable = persisted.unreadable;
        fields.retain(|field, _| !STATE_FIELDS.contains(&field.as_str()));
        let reports = Self::deserialize(&fields);
        let reports = reports.unwrap_or_else(|_| {
            let of_reports = remove_unreadable::<Self>(&mut fields);
            // Without the original routes they cannot be restored. Other reports are written again.
            let is_needed = |field: &&UnreadableField| field.field == "originalRoutes";
            problems.extend(of_reports.iter().filter(is_needed).map(ToString::to_string));
            unreadable.extend(of_reports);
            serde_json::from_value(Value::Object(fields)).unwrap_or_default()
        });
        PersistedStatus {
            status: Self {
                state: persisted.state,
                ..reports
            },
            incompatibility: (!problems.is_empty()).then(|| problems.join("; ")),
            unreadable,
        }
    }
}

/// Short texts for the columns of `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SummaryStatus {
    /// Number of the current step and total number of steps, for example `3/6`. Unset if no release
    /// is in its steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Name>,
    /// Share of the canary, for example `20 %`. Unset during the first deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Name>,
    /// Spent error budget and e-value of the release, for example `budget 0.7 % · E 3.1/100`. Unset
    /// without evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Name>,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_read_from_text_as_from_values() {
        let hold = json!({"cause": "OfAnotherVersion", "message": "x"});
        for status in [
            json!({}),
            json!({
                "schemaVersion": 1, "phase": "Paused", "stage": "Progressing",
                "observedGeneration": 3, "currentRevision": "b", "replicas": 2,
                "step": {"index": 1}, "weights": {"desired": 20}, "stageSince": "2026-01-01T00:00:00Z",
                "conditions": [{
                    "type": "Healthy", "status": "True", "reason": "Healthy", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
                "analysis": {
                    "revision": "b", "startedAt": "2026-01-01T00:00:00Z",
                    "checkpoint": {"a": [1.5, null]},
                },
                "fieldOfTheFuture": {"a": 1},
            }),
            json!({"phase": "Paused", "holds": [hold]}),
            json!({"schemaVersion": 99, "phase": "Paused"}),
            json!({"phase": 3, "stage": "Previewing", "stableRevision": "v1"}),
            json!({"replicas": "many", "phase": "Healthy"}),
            json!(null),
            json!([1]),
        ] {
            let read = RolloutStatus::read_text(&status.to_string());
            assert_eq!(read, RolloutStatus::read(status));
        }
    }
}
