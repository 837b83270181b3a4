//! The Rollout resource.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::AnalysisSpec;
use crate::guardrails::GuardrailException;
use crate::pod_spec::PodSpecText;
use crate::rules;
use crate::status::RolloutStatus;
use crate::strategy::StrategySpec;
use crate::workload::{AdoptSpec, OnDelete, RolloutMode, WorkloadRef, is_unset};

/// Maximum number of pods. More than a cluster can run.
pub(crate) const MAX_REPLICAS: i32 = 1_000_000;
/// Maximum number of seconds, with which users of a Deployment disable its progress deadline.
pub(crate) const MAX_SECONDS: i32 = i32::MAX;
const MAX_REVISIONS: i32 = 1_000;

const REPLICAS: &str = "\
    Number of pods in steady state. Defaults to 1. Leave it unset if an autoscaler sets it. If it is \
    removed from a manifest that is applied with kubectl apply or server-side apply (Argo CD, \
    Flux), the current number is kept until it is set again. With other clients (Helm 3, kubectl \
    edit, patch and replace), removing it is the same as setting it to 1: use kubectl scale to \
    restore the desired number.";

/// Desired state of a Rollout. A Rollout shifts traffic to a new revision in steps, compares the
/// canary with the stable revision, and rolls back a release that breaches its error budget.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "Rollout",
    namespaced,
    status = "RolloutStatus",
    shortname = "srn",
    doc = "A workload whose releases shift traffic in steps and are rolled back if they breach the \
        error budget.",
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
#[x_kube(validation = rules::template_or_workload_ref())]
#[x_kube(validation = rules::observe_mode_is_set_at_creation())]
#[x_kube(validation = rules::observe_mode_compares_two_sides())]
#[x_kube(validation = rules::adopt_requires_template())]
#[x_kube(validation = rules::template_matches_selector())]
#[x_kube(validation = rules::deadline_exceeds_min_ready())]
#[x_kube(validation = rules::analysis_step_requires_analysis())]
#[x_kube(validation = rules::pace_requires_analysis())]
#[x_kube(validation = rules::indicator_requires_router())]
#[x_kube(validation = rules::bake_requires_router())]
#[x_kube(validation = rules::anti_affinity_excludes_adoption())]
#[x_kube(validation = rules::baseline_requires_router())]
pub struct RolloutSpec {
    /// Manage: the Rollout creates the pods and moves the traffic. Observe: another controller does,
    /// and the Rollout analyzes its releases, reports what it would have done, and changes nothing.
    /// In this mode `template` may be left out, and `selector` selects the pods of the other
    /// controller. It can be removed later, but not set on a Rollout that manages pods. Defaults to
    /// Manage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<RolloutMode>,
    /// Number of pods in steady state. The description in the schema also covers clients that the
    /// controller cannot distinguish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_REPLICAS), description = REPLICAS)]
    pub replicas: Option<i32>,
    /// Label selector of the pods. The labels of the template must match it. Immutable. If unset, it
    /// is that of the Deployment in `workloadRef`.
    #[serde(default, skip_serializing_if = "is_unset")]
    #[schemars(schema_with = "selector")]
    #[x_kube(validation = rules::selector_is_not_empty())]
    #[x_kube(validation = rules::selector_is_immutable())]
    pub selector: LabelSelector,
    /// Pod template, as in a Deployment. Each change of it creates a new revision. If unset, it is
    /// that of the Deployment in `workloadRef`.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub template: PodTemplate,
    /// Deployment that has the pod template and the selector, instead of `template` and `selector`.
    /// Each change of its template creates a new revision. Its pods are taken over. If unset, the
    /// Rollout has its own template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_ref: Option<WorkloadRef>,
    /// Deployment with the same selector whose pods are taken over without a restart. If the
    /// templates differ, a release follows. If unset, or if the Deployment does not exist, the
    /// Rollout creates all of its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<AdoptSpec>,
    /// What becomes of the pods when the Rollout is deleted: GiveBack or Delete. Defaults to
    /// GiveBack if they were taken over from a Deployment that still exists, otherwise to Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// Time in seconds for which a pod must be ready before it counts as available. Defaults to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub min_ready_seconds: Option<i32>,
    /// Number of empty ReplicaSets of old revisions to keep. Defaults to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_REVISIONS))]
    pub revision_history_limit: Option<i32>,
    /// Maximum time in seconds for which a release may wait for pods, the router or the Services
    /// without progress before it is aborted. As in a Deployment, progress is a new highest number
    /// of available pods; pods that come and go are not progress. If a complete state is disturbed
    /// later, the full time starts again. Defaults to 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SECONDS))]
    pub progress_deadline_seconds: Option<i32>,
    /// If true, a release that has made no progress for `progressDeadlineSeconds` is aborted. If
    /// false, it is reported as degraded and goes on waiting. Defaults to true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_abort: Option<bool>,
    /// If true, the rollout does not advance. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Time at which all pods that were created before it are replaced, without a release, within
    /// `maxSurge`, `maxUnavailable` and the disruption budgets of the pods, for example
    /// 2027-01-31T12:00:00Z. A release that is in progress comes first. If unset, or once the pods
    /// are replaced, nothing is restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::restart_time())]
    pub restart_at: Option<String>,
    /// Lets a return to a recent revision skip the steps if the last release of that revision was
    /// promoted. A revision that was aborted since, or superseded before it was promoted, runs its
    /// steps. If unset, every revision runs its steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window: Option<RollbackWindow>,
    /// How a new revision replaces the stable one.
    pub strategy: StrategySpec,
    /// How a release is analyzed. If unset, only pod status and manual actions decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisSpec>,
    /// Guardrails of a RolloutPolicy from which this Rollout is exempt until a date. A change needs
    /// the verb except on rollouts.serin.dev. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["guardrail".into()]))]
    pub guardrail_exceptions: Vec<GuardrailException>,
}

/// Range of revisions for which a return skips the steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackWindow {
    /// Number of revisions, counted by age from the newest ReplicaSet before the current one.
    #[schemars(range(min = 1, max = MAX_REVISIONS))]
    pub revisions: i32,
}

/// Pod template. The API server validates it when the ReplicaSet is created. An error is reported
/// in the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the pods. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodMetadata>,
    /// Pod spec, as in a Deployment.
    #[schemars(schema_with = "pod_spec")]
    pub spec: PodSpecText,
    /// Whether it was read from the Deployment of `workloadRef`. Not a field of the API.
    #[serde(skip)]
    pub is_of_deployment: bool,
}

/// Labels and annotations of the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// Labels of the pods. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_labels")]
    #[x_kube(validation = rules::no_reserved_labels())]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the pods. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_annotations")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Schema of the labels of the pods. The limits bound the cost of the validation rules.
fn pod_labels(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 63 }
    })
}

/// Schema of the annotations of the pods.
fn pod_annotations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 256,
        "additionalProperties": { "type": "string", "maxLength": 65_536 }
    })
}

/// Schema of a label selector with size limits, which bound the cost of the validation rules.
pub(crate) fn selector(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels that a pod must have, with their values.",
                "maxProperties": 32,
                "additionalProperties": { "type": "string", "maxLength": 63 }
            },
            "matchExpressions": {
                "type": "array",
                "description": "Requirements on labels. All of them must be met.",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": { "type": "string", "description": "Key of the label.", "maxLength": 317 },
                        "operator": {
                            "type": "string",
                            "description": "Operator: In, NotIn, Exists or DoesNotExist.",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"]
                        },
                        "values": {
                            "type": "array",
                            "description": "Values for In and NotIn. Must be empty for Exists and DoesNotExist.",
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

/// Schema of a pod spec. Unknown fields are preserved: the full schema would exceed the size limit
/// of a CRD, and the API server validates the pod spec when the ReplicaSet is created. The plan
/// refuses a template that is too large.
fn pod_spec(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "description": "Pod spec, as in a Deployment.",
        "required": ["containers"],
        "properties": {
            "containers": {
                "type": "array",
                "description": "Containers of the pod. At least one is required.",
                "minItems": 1,
                "maxItems": 256,
                "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
            }
        },
        "x-kubernetes-preserve-unknown-fields": true
    })
}
