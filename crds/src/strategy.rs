//! `spec.strategy`: how a new revision replaces the stable one.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::{MAX_REPLICAS, MAX_SECONDS};
use crate::rules;

/// How a new revision replaces the stable one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StrategySpec {
    /// Canary strategy: traffic moves to the new revision in steps.
    pub canary: CanarySpec,
}

/// Canary strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::steps_or_pace())]
#[x_kube(validation = rules::fields_require_router())]
#[x_kube(validation = rules::both_services_without_router())]
#[x_kube(validation = rules::steps_require_router())]
#[x_kube(validation = rules::services_differ())]
#[x_kube(validation = rules::pods_can_be_replaced())]
pub struct CanarySpec {
    /// Name of the Service that selects the stable pods. The Service is created if it does not
    /// exist. Without `trafficRouting` it is set together with `canaryService`, and gives a fixed
    /// address to the stable pods: the replica counts still determine the weights. Defaults to the
    /// name of the Rollout if there is `trafficRouting`, otherwise there is no such Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::service_name())]
    pub stable_service: Option<String>,
    /// Name of the Service that selects the canary pods, and the stable pods while there is no
    /// release. The Service is created if it does not exist. Without `trafficRouting` it is set
    /// together with `stableService`. Defaults to the name of the Rollout with the suffix `-canary`
    /// if there is `trafficRouting`, otherwise there is no such Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::service_name())]
    pub canary_service: Option<String>,
    /// Maximum number of pods above `replicas`, as a number or a percentage. Used without
    /// `trafficRouting`, and by the command `restart`. Defaults to 25%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_surge: Option<IntOrString>,
    /// Maximum number of unavailable pods, as a number or a percentage. Used without
    /// `trafficRouting`, and by the command `restart`. Defaults to 25%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_unavailable: Option<IntOrString>,
    /// Time in seconds for which the old stable pods are kept after a promotion. It starts when no
    /// traffic can reach them. Defaults to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub scale_down_delay_seconds: Option<i32>,
    /// Time in seconds for which the canary pods are kept after an abort. It starts when no traffic
    /// can reach them. Defaults to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub abort_scale_down_delay_seconds: Option<i32>,
    /// If true, the stable ReplicaSet is scaled down as its share of the traffic shrinks. Requires
    /// `trafficRouting`. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_stable_scale: Option<bool>,
    /// Minimum number of pods of each side that receives requests, at most `replicas`. A
    /// `setCanaryScale` step can set fewer canary pods. Requires `trafficRouting`. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_REPLICAS))]
    pub min_pods_per_replica_set: Option<i32>,
    /// Number of available pods that suffices for all pods that a release waits for, as a number or
    /// a percentage of them, above 0. It lets a release advance although single pods cannot be
    /// scheduled. Defaults to 100%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    #[x_kube(validation = rules::is_not_zero())]
    pub replica_progress_threshold: Option<IntOrString>,
    /// Keeps the pods of different revisions on different nodes. It is part of the pods that are
    /// created after it was set, and not of the revision: a change of it does not start a release.
    /// Excludes `workloadRef` and `adopt`. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<AntiAffinitySpec>,
    /// Number of container restarts that aborts the release, over all canary pods since the release
    /// began. Restarts that stable pods have in the same proportion, or that come with a restart of
    /// the node, do not count. A crash loop always aborts. Defaults to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pod_restart_limit: Option<i32>,
    /// Router that splits the traffic. If unset, weights are approximated by replica counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRoutingSpec>,
    /// Steps between the first canary pod and full promotion. If unset, evidence sets the pace,
    /// provided that there are objectives and a router. Otherwise the release goes directly to
    /// 100%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub steps: Option<Vec<StepSpec>>,
    /// Bounds of the weight while evidence sets the pace. Excludes `steps`. If unset, the defaults
    /// of its fields apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<PaceSpec>,
}

/// Anti-affinity between the pods of different revisions. Exactly one of the fields must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.requiredDuringSchedulingIgnoredDuringExecution) != has(self.preferredDuringSchedulingIgnoredDuringExecution)")
    .message("exactly one of requiredDuringSchedulingIgnoredDuringExecution and preferredDuringSchedulingIgnoredDuringExecution is required: set one of them"))]
pub struct AntiAffinitySpec {
    /// Pods of different revisions never share a node. An empty object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_during_scheduling_ignored_during_execution: Option<RequiredAntiAffinity>,
    /// Pods of different revisions share a node only if there is no better one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_during_scheduling_ignored_during_execution: Option<PreferredAntiAffinity>,
}

/// A requirement without settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequiredAntiAffinity {}

/// A preference of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferredAntiAffinity {
    /// Weight among the preferences of the pod, from 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
}

/// Bounds of the weight while evidence sets the pace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::first_weight_is_at_most_max_weight())]
pub struct PaceSpec {
    /// First weight in percent, above 0 and below 100. Defaults to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    #[x_kube(validation = rules::weight_splits_traffic())]
    pub first_weight: Option<f64>,
    /// Highest weight before promotion in percent, above 0 and below 100. Defaults to 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    #[x_kube(validation = rules::weight_splits_traffic())]
    pub max_weight: Option<f64>,
}

/// Router that splits the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRoutingSpec {
    /// Gateway API routes.
    #[serde(rename = "gatewayAPI")]
    pub gateway_api: GatewayApiSpec,
    /// Time that the router needs to apply a change after its route reports it, for example `2s`.
    /// Defaults to 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub settle: Option<String>,
}

/// Gateway API routes in the Rollout's namespace. Exactly one of `httpRoute` and `httpRoutes` must
/// be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.httpRoute) != has(self.httpRoutes)")
    .message("exactly one of httpRoute and httpRoutes is required: set httpRoute for one route, or httpRoutes for several"))]
pub struct GatewayApiSpec {
    /// Name of one HTTPRoute. Every rule of it that has the stable Service as a backend is split.
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

/// A route or one of its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// Name of the HTTPRoute.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Name of the rule. If unset, every rule that has the stable Service as a backend is split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rule: Option<String>,
}

/// A step. Exactly one of its fields must be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.setWeight), has(self.pause), has(self.setCanaryScale), has(self.analysis)].filter(x, x).size() == 1")
    .message("a step must have exactly one of setWeight, pause, setCanaryScale, analysis"))]
pub struct StepSpec {
    /// Share of the traffic that goes to the canary, in percent, with up to three decimals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub set_weight: Option<f64>,
    /// Waits for `duration`, or until the rollout is promoted manually.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseSpec>,
    /// Sets the number of canary pods independently of the weight. Requires `trafficRouting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_canary_scale: Option<CanaryScaleSpec>,
    /// Waits for evidence: `duration` of fresh data without a breach, the named objectives and
    /// checks, or sufficient evidence to promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisStepSpec>,
}

/// A pause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseSpec {
    /// Length of the pause, for example `30s`, `10m`, `1h30m`, or a plain number of seconds. If
    /// unset, the rollout waits until it is promoted manually.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^([0-9]+|([0-9]+([.][0-9]+)?(ms|s|m|h|d))+)$", "maxLength" = 32, "minimum" = 1, "maximum" = 31_536_000))]
    pub duration: Option<IntOrString>,
}

/// Number of canary pods. Exactly one of the fields must be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.replicas), has(self.weight), has(self.matchTrafficWeight)].filter(x, x).size() == 1")
    .message("setCanaryScale must have exactly one of replicas, weight, matchTrafficWeight"))]
pub struct CanaryScaleSpec {
    /// Number of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_REPLICAS))]
    pub replicas: Option<i32>,
    /// Percentage of `spec.replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub weight: Option<f64>,
    /// If true, the number of pods follows the traffic weight. Only `true` is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::only_true())]
    pub match_traffic_weight: Option<bool>,
}

/// Waits for a duration, for the named objectives and checks, or, if no field is set, until all
/// evidence is sufficient to promote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::duration_or_names())]
pub struct AnalysisStepSpec {
    /// Time for which fresh data must show no breach, for example `5m`. Excludes the other fields.
    /// If unset, the step waits for the named objectives and checks, or for all evidence if none is
    /// named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub duration: Option<String>,
    /// Names of the objectives whose evidence must be sufficient to promote. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), inner(length(max = 63)))]
    pub objectives: Option<Vec<String>>,
    /// Names of the checks that must have succeeded since the last change of the weight. Defaults
    /// to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub checks: Option<Vec<String>>,
}
