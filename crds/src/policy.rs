//! The RolloutPolicy resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis_template::{
    CheckDefinition, IndicatorDefinition, MAX_DEFINITIONS, ObjectiveDefinition,
};
use crate::guardrails::Guardrails;
use crate::policy_defaults::PolicyDefaults;
use crate::rollout::selector;

/// Largest absolute value of a precedence.
const MAX_PRECEDENCE: i32 = 1_000_000;

/// Shared settings of the Rollouts that the selectors match: defaults, definitions for the
/// analysis, and guardrails. A Rollout comes first, then its policies by precedence, then the
/// built-in defaults. An edit counts from the next release of a Rollout.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::duplicated_attributes,
    reason = "each printed column has a type, and two columns may have the same one"
)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "RolloutPolicy",
    status = "RolloutPolicyStatus",
    shortname = "srnpol",
    doc = "Shared settings of Rollouts: defaults, definitions for the analysis, and guardrails.",
    derive = "PartialEq",
    printcolumn(name = "Precedence", type_ = "integer", json_path = ".spec.precedence"),
    printcolumn(
        name = "Rollouts",
        type_ = "integer",
        json_path = ".status.matchedRollouts"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutPolicySpec {
    /// Labels of the namespaces whose Rollouts the policy applies to. If unset, all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Labels of the Rollouts that the policy applies to. If unset, all Rollouts of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector")]
    pub rollout_selector: Option<LabelSelector>,
    /// Of several policies that set the same field or define the same name, the one with the higher
    /// precedence applies. Of equal ones, the one whose name comes first in the alphabet. Defaults
    /// to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -MAX_PRECEDENCE, max = MAX_PRECEDENCE))]
    pub precedence: Option<i32>,
    /// What happens to the Rollouts if the policy cannot be applied, or if it is deleted after a
    /// release began under it. Fail: their next release does not start. Ignore: they continue
    /// without the policy, and this is reported. Defaults to Fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
    /// Values for the fields that a Rollout leaves out. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<PolicyDefaults>,
    /// Sources of counters. Objectives refer to them with `indicatorRef`. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_DEFINITIONS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub indicators: Vec<IndicatorDefinition>,
    /// Objectives. Rollouts refer to them with `ref`. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_DEFINITIONS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub objectives: Vec<ObjectiveDefinition>,
    /// Checks. Rollouts refer to them with `ref`. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_DEFINITIONS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub checks: Vec<CheckDefinition>,
    /// What a release must meet before it gets traffic. Of several policies that set the same
    /// guardrail, the one with the higher precedence applies. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardrails: Option<Guardrails>,
}

/// What happens to Rollouts whose policy cannot be applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// Their next release does not start. A release in progress continues as it began.
    #[default]
    Fail,
    /// They continue without the policy, and this is reported.
    Ignore,
}

/// Observed state of a RolloutPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutPolicyStatus {
    /// Latest generation of the spec that the controller has processed.
    pub observed_generation: i64,
    /// Number of Rollouts that the policy applies to.
    pub matched_rollouts: i32,
    /// What is wrong with the policy, at most eight problems. Defaults to none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<PolicyProblem>,
    /// Conditions: Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A field of a policy that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyProblem {
    /// Path of the field.
    pub path: String,
    /// The problem and its fix.
    pub message: String,
}
