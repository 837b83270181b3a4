//! The AnalysisTemplate resource, and what it shares with a RolloutPolicy: indicators, objectives
//! and checks that are defined once, with parameters, and referred to by name.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::analysis::{ArgSpec, CheckPhase, CountersSpec, Indicator, LatencySpec};
use crate::rules;

/// Maximum number of indicators, of objectives and of checks that one object defines.
pub const MAX_DEFINITIONS: usize = 32;
/// Maximum number of parameters of a definition.
pub const MAX_PARAMETERS: usize = 16;
/// Maximum length of the value of a parameter, in characters.
pub const MAX_PARAMETER_LENGTH: usize = 253;

/// Indicators, objectives and checks that the Rollouts of a namespace refer to by name.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "AnalysisTemplate",
    namespaced,
    shortname = "srnat",
    doc = "Indicators, objectives and checks that the Rollouts of a namespace refer to by name.",
    derive = "PartialEq",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisTemplateSpec {
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
}

/// A parameter of a definition. `{{parameters.NAME}}` is replaced by its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParameterSpec {
    /// Name of the parameter: letters, digits, dashes and underscores, starting with a letter.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::argument_name())]
    pub name: String,
    /// Value if a reference sets none. If unset, every reference must set a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_PARAMETER_LENGTH))]
    #[x_kube(validation = rules::parameter_value())]
    pub default: Option<String>,
}

/// Value of a parameter of a definition that is referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParameterValue {
    /// Name of the parameter.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::argument_name())]
    pub name: String,
    /// Its value, without quotes, backslashes and braces. In a definition, it may contain
    /// `{{parameters.NAME}}` of that definition. It is not secret: everyone who can read the object
    /// can read it.
    #[schemars(length(max = MAX_PARAMETER_LENGTH))]
    #[x_kube(validation = rules::forwarded_parameter_value())]
    pub value: String,
}

/// Reference to a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionRef {
    /// Name of the definition.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// AnalysisTemplate in the namespace of the Rollout that has the definition. If unset, it is a
    /// definition of the RolloutPolicies that match the Rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub analysis_template: Option<String>,
    /// Values of the parameters of the definition. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PARAMETERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterValue>,
}

/// A source of counters. Texts may contain `{{parameters.NAME}}`, `{{rollout.name}}` and
/// `{{rollout.namespace}}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_source_of_an_indicator())]
pub struct IndicatorDefinition {
    /// Name of the indicator, for example `http-requests`. Must be unique.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Parameters. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PARAMETERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterSpec>,
    /// Indicator that this one is based on. The fields that are set here replace those of it. If
    /// unset, the definition is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<DefinitionRef>,
    /// Built-in source of the counters. Excludes `counters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indicator: Option<Indicator>,
    /// Custom counters, as PromQL series selectors. Excludes `indicator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<CountersSpec>,
    /// Counts requests slower than `threshold` as bad. If unset, failed requests are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySpec>,
    /// Label of the series whose value names the endpoint of a request. If unset, all requests are
    /// added up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::label_name())]
    pub endpoint_label: Option<String>,
}

/// A service level objective. Texts may contain `{{parameters.NAME}}`, `{{rollout.name}}` and
/// `{{rollout.namespace}}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_source_of_a_definition())]
pub struct ObjectiveDefinition {
    /// Name of the objective, for example `http-availability`. Must be unique.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Parameters. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PARAMETERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterSpec>,
    /// Objective that this one is based on. The fields that are set here replace those of it. If
    /// unset, the definition is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<DefinitionRef>,
    /// Percentage of requests that must be good, for example 99.9. Above 0 and below 100. If unset,
    /// a reference must set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    #[x_kube(validation = rules::objective_leaves_error_budget())]
    pub objective: Option<f64>,
    /// Period that the objective covers, for example `30d`. Defaults to 30d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub window: Option<String>,
    /// Built-in source of the counters. Excludes `counters` and `indicatorRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indicator: Option<Indicator>,
    /// Custom counters, as PromQL series selectors. Excludes `indicator` and `indicatorRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<CountersSpec>,
    /// Indicator of a RolloutPolicy or of an AnalysisTemplate. Excludes `indicator` and `counters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indicator_ref: Option<DefinitionRef>,
    /// Counts requests slower than `threshold` as bad. If unset, failed requests are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySpec>,
    /// Label of the series whose value names the endpoint of a request. If unset, all requests are
    /// added up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::label_name())]
    pub endpoint_label: Option<String>,
}

/// A query and a condition that its result must meet. `query`, `condition` and the values of `args`
/// may contain `{{parameters.NAME}}`, `{{rollout.name}}` and `{{rollout.namespace}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckDefinition {
    /// Name of the check, for example `queue-length`. Must be unique.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Parameters. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PARAMETERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterSpec>,
    /// Check that this one is based on. The fields that are set here replace those of it. If unset,
    /// the definition is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<DefinitionRef>,
    /// PromQL query that returns a vector or a scalar. If unset, `extends` or a reference must set
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub query: Option<String>,
    /// Arguments of the query, as in a Rollout. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub args: Vec<ArgSpec>,
    /// CEL expression that must be true, for example `result[0] < {{parameters.limit}}`. If unset,
    /// `extends` or a reference must set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub condition: Option<String>,
    /// Time between two queries, for example `1m`. Defaults to 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub interval: Option<String>,
    /// Time before the first query, for example `2m`. Defaults to 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub initial_delay: Option<String>,
    /// Number of failures that are tolerated. Defaults to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub failure_limit: Option<i32>,
    /// When the check is queried: release, step, beforeTraffic, beforePromotion or bake. Defaults to
    /// release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<CheckPhase>,
    /// If true, the result is reported but never affects the rollout. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}
