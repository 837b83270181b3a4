//! `spec.defaults` of a RolloutPolicy: what Rollouts that say nothing themselves get.
//!
//! Services, routes and pods belong to one Rollout, so they have no defaults here.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::{
    BudgetSpec, CheckSpec, ObjectiveSpec, OnNoDataSpec, PrometheusSpec, RollbackSpec,
};
use crate::comparison::BaselineSpec;
use crate::rollout::{MAX_REPLICAS, MAX_SECONDS, RollbackWindow};
use crate::rules;
use crate::strategy::{PaceSpec, StepSpec};

/// Values for the fields that a Rollout leaves out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDefaults {
    /// Default of `progressDeadlineSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SECONDS))]
    pub progress_deadline_seconds: Option<i32>,
    /// Default of `progressDeadlineAbort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_abort: Option<bool>,
    /// Default of `rollbackWindow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window: Option<RollbackWindow>,
    /// Defaults of `strategy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyDefaults>,
    /// Defaults of `analysis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisDefaults>,
}

/// Defaults of the strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StrategyDefaults {
    /// Defaults of the canary strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryDefaults>,
    /// Defaults of the blue/green strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreenDefaults>,
}

/// Defaults of the blue/green strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlueGreenDefaults {
    /// Default of `autoPromotionEnabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_promotion_enabled: Option<bool>,
    /// Default of `autoPromotionSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SECONDS))]
    pub auto_promotion_seconds: Option<i32>,
    /// Default of `scaleDownDelaySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub scale_down_delay_seconds: Option<i32>,
    /// Default of `abortScaleDownDelaySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub abort_scale_down_delay_seconds: Option<i32>,
    /// Default of `maxUnavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_unavailable: Option<IntOrString>,
    /// Default of `podRestartLimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pod_restart_limit: Option<i32>,
    /// Defaults of `trafficRouting`, for Rollouts with a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRoutingDefaults>,
}

/// Defaults of the canary strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::steps_or_pace())]
#[x_kube(validation = rules::pods_can_be_replaced())]
pub struct CanaryDefaults {
    /// Default of `maxSurge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_surge: Option<IntOrString>,
    /// Default of `maxUnavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    pub max_unavailable: Option<IntOrString>,
    /// Default of `minPodsPerReplicaSet`, for Rollouts with a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_REPLICAS))]
    pub min_pods_per_replica_set: Option<i32>,
    /// Default of `replicaProgressThreshold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16, "maximum" = MAX_REPLICAS))]
    #[x_kube(validation = rules::pods_or_percentage())]
    #[x_kube(validation = rules::is_not_zero())]
    pub replica_progress_threshold: Option<IntOrString>,
    /// Default of `scaleDownDelaySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub scale_down_delay_seconds: Option<i32>,
    /// Default of `abortScaleDownDelaySeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_SECONDS))]
    pub abort_scale_down_delay_seconds: Option<i32>,
    /// Default of `dynamicStableScale`, for Rollouts with a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_stable_scale: Option<bool>,
    /// Default of `podRestartLimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pod_restart_limit: Option<i32>,
    /// Defaults of `trafficRouting`, for Rollouts with a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRoutingDefaults>,
    /// Default of `steps`, for Rollouts without `steps` and `pace`. Excludes `pace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub steps: Option<Vec<StepSpec>>,
    /// Default of `pace`, for Rollouts with a router and without `steps`. Excludes `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<PaceSpec>,
}

/// Defaults of the router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRoutingDefaults {
    /// Default of `settle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub settle: Option<String>,
}

/// Defaults of the analysis. Without an objective or a check, they apply only to Rollouts that have
/// an analysis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisDefaults {
    /// Default of `prometheus`. A Rollout that sets `address` gets only the scrape interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSpec>,
    /// Objectives of every Rollout, in addition to its own. An objective of the Rollout with the
    /// same name replaces it. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = rules::names_or_refs_are_unique())]
    pub objectives: Vec<ObjectiveSpec>,
    /// Checks of every Rollout, in addition to its own. A check of the Rollout with the same name
    /// replaces it. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = rules::names_or_refs_are_unique())]
    pub checks: Vec<CheckSpec>,
    /// Default of `bakeTime`, for Rollouts with a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub bake_time: Option<String>,
    /// Default of `baseline`, for Rollouts with a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineSpec>,
    /// Default of `rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackSpec>,
    /// Default of `budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSpec>,
    /// Default of `onNoData`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<OnNoDataSpec>,
    /// Default of `warmUp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub warm_up: Option<String>,
    /// Default of `maxDuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub max_duration: Option<String>,
}
