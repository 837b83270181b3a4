//! `spec.strategy`: how a new revision replaces the stable one.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gate::GateSpec;
use crate::managed_routes::{HeaderRouteSpec, MirrorRouteSpec};
use crate::rollout::{MAX_REPLICAS, MAX_SECONDS};
use crate::rules;
use crate::side_metadata::SideMetadata;
use crate::traffic_routing::TrafficRoutingSpec;

/// How a new revision replaces the stable one. Exactly one of the fields must be set. While a release
/// is in progress, a change from one to the other counts when it has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::exactly_one_strategy())]
pub struct StrategySpec {
    /// Canary strategy: traffic moves to the new revision in steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    /// Blue/green strategy: all of the traffic moves to the new revision at once, when it has all of
    /// its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreenSpec>,
}

impl StrategySpec {
    /// The settings of the strategy as those of a canary: those of blue/green have a counterpart
    /// there, apart from when it switches. The defaults if no strategy is set.
    pub fn as_canary(&self) -> Cow<'_, CanarySpec> {
        match (&self.canary, &self.blue_green) {
            (Some(canary), _) => Cow::Borrowed(canary),
            (None, Some(blue_green)) => Cow::Owned(blue_green.to_canary()),
            (None, None) => Cow::Owned(CanarySpec::default()),
        }
    }
}

/// Blue/green strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::blue_green_services_differ())]
pub struct BlueGreenSpec {
    /// Name of the Service that selects the pods with the traffic. The Service is created if it does
    /// not exist. Without `trafficRouting` a change of its selector is the switch; otherwise it is a
    /// change of the routes from 0 to 100%, and the selector follows.
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::service_name())]
    pub active_service: String,
    /// Name of the Service that selects the pods of the new revision from the first pod on, and those
    /// with the traffic while there is no release. The Service is created if it does not exist.
    /// Defaults to the name of the Rollout with the suffix `-preview`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::service_name())]
    pub preview_service: Option<String>,
    /// Number of pods of the new revision until the switch is due, at most `replicas`. Then it gets
    /// all of its `replicas`. Defaults to `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_REPLICAS))]
    pub preview_replica_count: Option<i32>,
    /// If false, the release waits before the switch until it is promoted manually, or for
    /// `autoPromotionSeconds`. Defaults to true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_promotion_enabled: Option<bool>,
    /// Time in seconds for which the release waits before the switch, from when the preview is
    /// available and its checks have succeeded. A manual promotion ends it. If unset, the release
    /// does not wait, or waits without a limit if `autoPromotionEnabled` is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SECONDS))]
    pub auto_promotion_seconds: Option<i32>,
    /// Time in seconds for which the pods of the old revision are kept after the new one has become
    /// stable. Meanwhile an abort switches back to them. Defaults to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub scale_down_delay_seconds: Option<i32>,
    /// Time in seconds for which the pods of the new revision are kept after an abort. It starts when
    /// no traffic can reach them. Defaults to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub abort_scale_down_delay_seconds: Option<i32>,
    /// Maximum number of unavailable pods, as a number or a percentage. Used by the condition
    /// Available and by the command `restart`. Defaults to 25%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_unavailable: Option<IntOrString>,
    /// Keeps the pods of different revisions on different nodes. It is part of the pods that are
    /// created after it was set, and not of the revision: a change of it does not start a release.
    /// Excludes `workloadRef` and `adopt`. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<AntiAffinitySpec>,
    /// Labels and annotations of the pods of the revision that replaces another one, until it is
    /// stable. They are not part of the revision: a change of them starts no release and no pod.
    /// Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview_metadata: Option<SideMetadata>,
    /// Labels and annotations of the pods of the stable revision. They are changed in place.
    /// Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_metadata: Option<SideMetadata>,
    /// Number of container restarts that aborts the release, over all pods of the new revision since
    /// the release began. Restarts that pods of the old one have in the same proportion, or that come
    /// with a restart of the node, do not count. A crash loop always aborts. Defaults to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pod_restart_limit: Option<i32>,
    /// Router that switches the traffic. If unset, the selector of `activeService` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRoutingSpec>,
}

impl BlueGreenSpec {
    /// The settings that a canary has too.
    pub(crate) fn to_canary(&self) -> CanarySpec {
        CanarySpec {
            stable_service: Some(self.active_service.clone()),
            canary_service: self.preview_service.clone(),
            max_unavailable: self.max_unavailable.clone(),
            scale_down_delay_seconds: self.scale_down_delay_seconds,
            abort_scale_down_delay_seconds: self.abort_scale_down_delay_seconds,
            anti_affinity: self.anti_affinity.clone(),
            canary_metadata: self.preview_metadata.clone(),
            stable_metadata: self.active_metadata.clone(),
            pod_restart_limit: self.pod_restart_limit,
            traffic_routing: self.traffic_routing.clone(),
            ..CanarySpec::default()
        }
    }
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
    /// Labels and annotations of the canary pods, until their revision is stable. They are not part
    /// of the revision: a change of them starts no release and no pod. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_metadata: Option<SideMetadata>,
    /// Labels and annotations of the stable pods. They are changed in place. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_metadata: Option<SideMetadata>,
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

/// A step. Exactly one of its fields must be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.setWeight), has(self.pause), has(self.setCanaryScale), has(self.analysis), has(self.gate), has(self.setHeaderRoute), has(self.setMirrorRoute)].filter(x, x).size() == 1")
    .message("a step must have exactly one of setWeight, pause, setCanaryScale, analysis, gate, setHeaderRoute, setMirrorRoute"))]
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
    /// Waits for a person's approval, or for a condition on an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSpec>,
    /// Sends requests with a header or a cookie to the canary, at any weight, until a later step
    /// removes the rule or the release ends. Requires `trafficRouting` with `managedRoutes`, whose
    /// routes are HTTPRoutes, GRPCRoutes or VirtualServices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_header_route: Option<HeaderRouteSpec>,
    /// Copies requests to the canary, until a later step removes the rule or the release ends.
    /// Requires `trafficRouting` with `managedRoutes`, whose routes are HTTPRoutes, GRPCRoutes or
    /// VirtualServices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_mirror_route: Option<MirrorRouteSpec>,
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
