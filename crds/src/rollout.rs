//! Rollout: what a user declares.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::AnalysisSpec;
use crate::rules;
use crate::status::RolloutStatus;
use crate::strategy::StrategySpec;

/// Description of `spec.replicas`.
const REPLICAS: &str = "Number of pods in steady state. Defaults to 1. Leave it out if an autoscaler sets it. Removing it \
                        from a manifest that is applied with kubectl apply or server-side (Argo CD, Flux) keeps the current \
                        number until somebody sets one. For other clients (Helm 3, kubectl edit, patch and replace), \
                        removing it is the same as writing 1: scale to the number you want with kubectl scale.";

/// A workload whose every release is an experiment with a budget: traffic shifts in steps, the
/// canary is judged against stable, and a release that breaches its error budget is rolled back.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "Rollout",
    namespaced,
    status = "RolloutStatus",
    shortname = "srn",
    doc = "A workload whose every release is an experiment with a budget.",
    category = "all",
    derive = "PartialEq",
    validation = rules::rollout_name(),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.summary.step"),
    printcolumn(name = "Weight", type_ = "string", json_path = ".status.summary.weight"),
    printcolumn(name = "Evidence", type_ = "string", json_path = ".status.summary.evidence"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.currentRevision"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::template_matches_selector())]
#[x_kube(validation = rules::deadline_exceeds_min_ready())]
#[x_kube(validation = rules::analysis_step_has_analysis())]
#[x_kube(validation = rules::pace_has_analysis())]
#[x_kube(validation = rules::indicator_has_router())]
#[x_kube(validation = rules::bake_has_router())]
pub struct RolloutSpec {
    /// Number of pods in steady state. The description says what to do with clients that cannot be
    /// told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), description = REPLICAS)]
    pub replicas: Option<i32>,
    /// The labels by which the pods are known; the template's labels must match. It cannot be
    /// changed.
    #[schemars(schema_with = "selector")]
    #[x_kube(validation = rules::selector_is_not_empty())]
    #[x_kube(validation = rules::selector_stays())]
    pub selector: LabelSelector,
    /// The pod template, as in a Deployment. A change of it is a new revision.
    pub template: PodTemplate,
    /// How many seconds a pod must have been ready to count as available; 0 where it is not
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_ready_seconds: Option<i32>,
    /// How many empty ReplicaSets of old revisions are kept; 10 where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub revision_history_limit: Option<i32>,
    /// How many seconds a release may wait for pods, the router or the Services without progress
    /// before it is aborted. A new highest number of available pods is progress, as in a
    /// Deployment; pods that come and go are not. What was reached once and is disturbed later has
    /// the whole time again. Defaults to 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub progress_deadline_seconds: Option<i32>,
    /// Lets nothing advance while it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// A return to a recent revision skips the steps if its last release was promoted. A revision
    /// that was aborted since, or that was superseded before it was promoted, runs its steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window: Option<RollbackWindow>,
    /// How a new revision replaces the stable one.
    pub strategy: StrategySpec,
    /// How a release is judged; without it pods and people alone decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisSpec>,
}

/// How far back a return skips the steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackWindow {
    /// The number of revisions, counted by age from the newest ReplicaSet before the current one.
    #[schemars(range(min = 1))]
    pub revisions: i32,
}

/// A pod template; the API server checks it when the ReplicaSet is made, and its refusal is told in
/// the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodMetadata>,
    /// The pod spec, as in a Deployment.
    #[schemars(schema_with = "pod_spec")]
    pub spec: serde_json::Value,
}

/// Labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// The pods' labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = rules::no_reserved_label())]
    pub labels: Option<BTreeMap<String, String>>,
    /// The pods' annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A label selector with bounds, so that rules over it have a bounded cost.
fn selector(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels that a pod must have, with these values.",
                "maxProperties": 32,
                "additionalProperties": { "type": "string", "maxLength": 63 }
            },
            "matchExpressions": {
                "type": "array",
                "description": "Conditions on labels, all of which must hold.",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": { "type": "string", "description": "The label's key.", "maxLength": 317 },
                        "operator": {
                            "type": "string",
                            "description": "In, NotIn, Exists or DoesNotExist.",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"]
                        },
                        "values": {
                            "type": "array",
                            "description": "The values for In and NotIn.",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": { "type": "string", "maxLength": 63 }
                        }
                    }
                }
            }
        }
    })
}

/// A pod spec is kept as written: its full schema would outgrow the size of a CRD, and the API
/// server checks it anyway.
fn pod_spec(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "description": "The pod spec, as in a Deployment.",
        "required": ["containers"],
        "properties": {
            "containers": {
                "type": "array",
                "description": "The containers of the pod, at least one.",
                "minItems": 1,
                "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
            }
        },
        "x-kubernetes-preserve-unknown-fields": true
    })
}
