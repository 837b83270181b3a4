//! How a new revision replaces the stable one, as users write it.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// How a new revision replaces the stable one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StrategySpec {
    /// Traffic moves in steps, judged on the way.
    pub canary: CanarySpec,
}

/// The canary strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::steps_or_pace())]
#[x_kube(validation = rules::router_only_fields())]
#[x_kube(validation = rules::router_only_steps())]
#[x_kube(validation = rules::two_services())]
#[x_kube(validation = rules::room_to_replace())]
pub struct CanarySpec {
    /// The Service of the stable side. Where it is not written and there is a router: the Rollout's
    /// name. Made when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::service_name())]
    pub stable_service: Option<String>,
    /// The Service of the canary side. Where it is not written and there is a router: the Rollout's
    /// name with `-canary`. Made when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::service_name())]
    pub canary_service: Option<String>,
    /// Pods allowed above `replicas` (a number or a percentage) where there is no router; 25 %
    /// where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_surge: Option<IntOrString>,
    /// Pods allowed to be missing (a number or a percentage) where there is no router; 25 % where
    /// it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_unavailable: Option<IntOrString>,
    /// How many seconds old stable pods stay after a promotion once no traffic can reach them; 30
    /// where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub scale_down_delay_seconds: Option<i32>,
    /// How many seconds canary pods stay after an abort once no traffic can reach them; 30 where it
    /// is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub abort_scale_down_delay_seconds: Option<i32>,
    /// Lets stable give up pods as its share of traffic shrinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_stable_scale: Option<bool>,
    /// How many container restarts of canary pods, together, since the release began, abort it.
    /// Restarts that the stable pods have in the same proportion, or that come with a restart of
    /// the node, do not count. A crash loop always aborts. Defaults to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pod_restart_limit: Option<i32>,
    /// The router that splits the traffic. Without it weights are approximated by replica counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRoutingSpec>,
    /// What happens between the first canary pod and full promotion. Without steps the evidence
    /// sets the pace where there is an analysis and a router, and the release goes straight to 100
    /// % where there is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub steps: Option<Vec<StepSpec>>,
    /// Bounds of a pace that is set by evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<PaceSpec>,
}

/// Bounds of a pace that is set by evidence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::pace_rises())]
pub struct PaceSpec {
    /// The first weight in percent; 5 where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::compares_two_sides())]
    pub first_weight: Option<f64>,
    /// The last weight before promotion in percent; 50 where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::compares_two_sides())]
    pub max_weight: Option<f64>,
}

/// The router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRoutingSpec {
    /// Gateway API routes.
    #[serde(rename = "gatewayAPI")]
    pub gateway_api: GatewayApiSpec,
    /// How long the router needs to act on what its object says, for example `2s`, which is what it
    /// is where it is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub settle: Option<String>,
}

/// Gateway API routes in the Rollout's namespace: either `httpRoute` or `httpRoutes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.httpRoute) != has(self.httpRoutes)")
    .message("name the route either by httpRoute or by httpRoutes, not both and not neither"))]
pub struct GatewayApiSpec {
    /// The name of one HTTPRoute: every rule of it that has the stable Service as a backend is
    /// split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub http_route: Option<String>,
    /// Several HTTPRoutes, or single rules of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = rules::routes_are_distinct())]
    pub http_routes: Option<Vec<RouteSpec>>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// The HTTPRoute's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// The rule's name; without it every rule that has the stable Service as a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rule: Option<String>,
}

/// One step: exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.setWeight), has(self.pause), has(self.setCanaryScale), has(self.analysis)].filter(x, x).size() == 1")
    .message("a step is exactly one of setWeight, pause, setCanaryScale, analysis"))]
pub struct StepSpec {
    /// Shift so many percent of the traffic to the canary; up to three decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub set_weight: Option<f64>,
    /// Wait: for `duration`, or without one until promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseSpec>,
    /// Set the canary's size apart from its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_canary_scale: Option<CanaryScaleSpec>,
    /// Wait for evidence: for `duration` of fresh data, or without one until the evidence suffices
    /// to promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisStepSpec>,
}

/// A wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseSpec {
    /// How long, for example `30s`, `10m`, `1h30m`, or a bare number of seconds; without it until
    /// somebody promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^([0-9]+|([0-9]+([.][0-9]+)?(ms|s|m|h|d))+)$", "minimum" = 1))]
    pub duration: Option<IntOrString>,
}

/// The canary's size: exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.replicas), has(self.weight), has(self.matchTrafficWeight)].filter(x, x).size() == 1")
    .message("setCanaryScale is exactly one of replicas, weight, matchTrafficWeight"))]
pub struct CanaryScaleSpec {
    /// So many pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// So many percent of `spec.replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub weight: Option<f64>,
    /// As many pods as the traffic weight asks for; only `true` has a meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::only_true())]
    pub match_traffic_weight: Option<bool>,
}

/// A wait for evidence: for a duration, for what is named, or until all of it suffices to promote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::duration_or_names())]
pub struct AnalysisStepSpec {
    /// How long fresh data must have shown no breach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub duration: Option<String>,
    /// The objectives, by name, whose evidence must suffice to promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), inner(length(max = 63)))]
    pub objectives: Option<Vec<String>>,
    /// The checks, by name, that must have succeeded since the weight last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub checks: Option<Vec<String>>,
}
