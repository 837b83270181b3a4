//! The validated spec of a Rollout.

mod routing;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::gate::Gate;
use crate::managed_route::ManagedRoute;
use crate::units::Weight;

pub use routing::{ArmBinding, RouteKind, RouteRef, Routing};

/// A validated Rollout spec, with every default filled in, apart from the pod template.
///
/// It is stored in status as the active plan, so that an abort, a drain or a restart of the
/// controller uses it even if the spec has become invalid since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Number of pods in steady state.
    pub replicas: u32,
    /// Maximum time without progress of pods, Services or the router before a release is aborted.
    pub progress_deadline: Duration,
    /// Whether a release that has made no progress for [`Plan::progress_deadline`] is aborted.
    /// Otherwise it is reported and goes on waiting.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    pub progress_deadline_abort: bool,
    /// Number of empty ReplicaSets of old revisions to keep.
    pub revision_history_limit: usize,
    /// Number of earlier revisions, by age, whose release skips the steps. 0 disables it.
    pub rollback_window: usize,
    /// Whether nothing advances (`spec.paused`).
    pub paused: bool,
    /// Pods that were created before this time are replaced once it has come. `None` if no restart
    /// is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Timestamp>,
    /// Whose pods the Rollout manages.
    pub workload: Workload,
    /// How traffic is split between the two revisions.
    pub exposure: Exposure,
    /// How a new revision replaces the stable one.
    pub strategy: Strategy,
}

/// Whose pods a Rollout manages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Workload {
    /// ReplicaSets that the Rollout creates from its own template.
    #[default]
    Owned,
    /// The pods of a Deployment, and the ReplicaSets that the Rollout creates after them.
    Adopted(Adoption),
}

impl Workload {
    /// The Deployment whose pods are taken over or replaced.
    pub fn adoption(&self) -> Option<&Adoption> {
        match self {
            Self::Owned => None,
            Self::Adopted(adoption) => Some(adoption),
        }
    }
}

/// How the pods of a Deployment become those of a Rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// The name of the Deployment, in the namespace of the Rollout.
    pub deployment: String,
    /// Whether the pod template and the selector are those of the Deployment.
    pub reads_template: bool,
    /// What becomes of the Deployment's pods.
    pub takeover: Takeover,
}

/// What becomes of the pods of a Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Takeover {
    /// The Rollout becomes the controller of their ReplicaSet.
    InPlace,
    /// The Rollout creates pods of its own beside them.
    SecondFleet(DeploymentScaleDown),
}

/// When the Deployment is scaled down after the Rollout has created pods of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeploymentScaleDown {
    /// Never: its owner does it.
    Never,
    /// When the first revision of the Rollout serves with all of its pods.
    OnSuccess,
    /// As the pods of the Rollout become available.
    Progressively,
}

/// How traffic is split between the two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exposure {
    /// The number of pods of each revision approximates the split. There is no router.
    ReplicaRatio,
    /// A router splits the traffic by weight.
    Weighted(Routing),
    /// As [`Exposure::ReplicaRatio`], with a Service for each side that selects its pods. There are
    /// no routes.
    ReplicaRatioServices(Routing),
    /// The revision that the stable Service selects has all of the traffic. The canary Service
    /// selects the other side. There are no routes.
    Switch(Routing),
}

/// How a new revision replaces the stable one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// Traffic moves in steps, analyzed on the way.
    Canary(Canary),
    /// All of the traffic moves at once, when the new revision has all of its pods. The settings
    /// are those of a canary whose steps set no weight ([`crate::blue_green`]).
    BlueGreen(Canary),
}

/// The canary strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Maximum number of pods above `replicas` without a router.
    pub max_surge: Amount,
    /// Maximum number of pods missing from `replicas` without a router.
    pub max_unavailable: Amount,
    /// Time that the old stable pods stay after a promotion, from when no traffic can reach them.
    pub scale_down_delay: Duration,
    /// Time that the canary's pods stay after an abort, from when no traffic can reach them.
    pub abort_scale_down_delay: Duration,
    /// Whether stable shrinks with its share of the traffic.
    pub dynamic_stable_scale: bool,
    /// Minimum number of pods of a side that receives requests from a router, at most `replicas`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_pods_per_replica_set: u32,
    /// Number of available pods that suffices for all pods that a release waits for, or a percentage
    /// of them. `None` if all of them must be available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_progress_threshold: Option<Amount>,
    /// What sets the pace from the first canary pod to promotion.
    pub pace: Pace,
    /// How metrics are analyzed. `None` if they are not.
    pub analysis: Option<Analysis>,
    /// Number of container restarts of all canary pods together that aborts the release.
    pub pod_restart_limit: u32,
}

/// A count of pods, or a share of `replicas`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Amount {
    /// A number of pods.
    Pods(u32),
    /// A percentage of `replicas`.
    Percent(u32),
}

impl Amount {
    /// The number of pods. Percentages are rounded up, as in a Deployment's maxSurge.
    pub fn rounded_up(self, replicas: u32) -> u32 {
        match self {
            Self::Pods(pods) => pods,
            Self::Percent(percent) => {
                u32::try_from((u64::from(replicas) * u64::from(percent)).div_ceil(100))
                    .unwrap_or(u32::MAX)
            }
        }
    }

    /// The number of pods. Percentages are rounded down, as in a Deployment's maxUnavailable.
    pub fn rounded_down(self, replicas: u32) -> u32 {
        match self {
            Self::Pods(pods) => pods,
            Self::Percent(percent) => {
                u32::try_from(u64::from(replicas) * u64::from(percent) / 100).unwrap_or(u32::MAX)
            }
        }
    }
}

/// What sets the pace of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Pace {
    /// Steps. Each must be observed to be complete.
    Steps(Vec<Step>),
    /// The evidence: the next weight is the largest whose worst case the error budget can bear.
    Evidence(EvidencePace),
}

/// Bounds of a pace that is set by evidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidencePace {
    /// The first weight, before anything is known.
    pub first_weight: Weight,
    /// The last weight before promotion.
    pub max_weight: Weight,
}

/// One step of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Shift traffic: complete when the router is seen to do it.
    SetWeight(Weight),
    /// Wait: for a duration from the step's persisted start, or until promoted.
    Pause(Option<Duration>),
    /// Set the canary's size apart from its weight: complete when the pods are available.
    SetCanaryScale(CanaryScale),
    /// Wait for evidence: for a duration of fresh data, or until it suffices to promote.
    Analysis(Option<Duration>),
    /// Wait until what is named suffices, whatever the rest says that does not roll back.
    Require(Requirements),
    /// Wait for a person or an object.
    Gate(Gate),
    /// Set or remove a rule for chosen requests: complete when the router is seen to do it.
    SetManagedRoute(ManagedRoute),
}

/// What is asked of the metrics, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirements {
    /// Objectives whose evidence must suffice to promote.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub objectives: BTreeSet<String>,
    /// Checks that must have succeeded at the current weight.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub checks: BTreeSet<String>,
}

impl Requirements {
    /// The unmet requirements, for people. `None` if all are met.
    pub fn unmet(&self, proven: &Self) -> Option<String> {
        let objectives = self
            .objectives
            .difference(&proven.objectives)
            .map(|name| format!("objective {name}"));
        let checks = self
            .checks
            .difference(&proven.checks)
            .map(|name| format!("check {name}"));
        let open: Vec<String> = objectives.chain(checks).collect();
        (!open.is_empty()).then(|| open.join(", "))
    }
}

/// The canary's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CanaryScale {
    /// As many pods as the traffic weight needs.
    MatchTrafficWeight,
    /// A number of pods.
    Replicas(u32),
    /// A share of `replicas`.
    Weight(Weight),
}

/// How metrics are analyzed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Maximum time without a verdict before the rollout pauses for manual action.
    pub max_duration: Duration,
    /// Minimum time of fresh data before a release is promoted. While its pods are young, the
    /// tolerance is higher.
    #[serde(
        default = "default_warm_up",
        skip_serializing_if = "is_default_warm_up"
    )]
    pub warm_up: Duration,
    /// The checks that must have succeeded at the last weight before a release is promoted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub checks: BTreeSet<String>,
    /// The checks that must have succeeded before the first traffic of a release whose pace is set by
    /// evidence.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub checks_before_traffic: BTreeSet<String>,
    /// How a release that has all of the traffic bakes before it becomes stable. `None` if it does
    /// not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<BakePlan>,
    /// Maximum number of pods of the stable revision that start together with the canary's, and with
    /// which the canary is compared. `None` if it is compared with all pods of the stable revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_pods: Option<u32>,
}

/// How a release that has all of the traffic bakes. The old stable pods stay meanwhile, so that a
/// breach aborts as usual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BakePlan {
    /// Duration of the bake.
    pub duration: Duration,
    /// The checks that must have succeeded during the bake.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub checks: BTreeSet<String>,
}

impl Analysis {
    /// The default of [`Analysis::warm_up`].
    pub const DEFAULT_WARM_UP: Duration = Duration::from_secs(60);
}

// Fields that were added later are left out of the stored plan while they have their defaults, so
// that plans stored before keep their hash.
fn default_true() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn default_warm_up() -> Duration {
    Analysis::DEFAULT_WARM_UP
}

// Left out of the stored plan, so that plans stored before there was a choice keep their hash.
fn is_default_warm_up(warm_up: &Duration) -> bool {
    *warm_up == Analysis::DEFAULT_WARM_UP
}

impl Plan {
    /// The settings of the strategy.
    pub fn canary(&self) -> &Canary {
        let (Strategy::Canary(canary) | Strategy::BlueGreen(canary)) = &self.strategy;
        canary
    }

    pub(crate) fn canary_mut(&mut self) -> &mut Canary {
        let (Strategy::Canary(canary) | Strategy::BlueGreen(canary)) = &mut self.strategy;
        canary
    }

    /// The router, if any.
    pub fn routing(&self) -> Option<&Routing> {
        match &self.exposure {
            Exposure::ReplicaRatio | Exposure::ReplicaRatioServices(_) | Exposure::Switch(_) => {
                None
            }
            Exposure::Weighted(routing) => Some(routing),
        }
    }

    /// The Services of the two sides, with the routes between them if there is a router. `None` if
    /// the plan names no Services.
    pub fn services(&self) -> Option<&Routing> {
        match &self.exposure {
            Exposure::ReplicaRatio => None,
            Exposure::Weighted(routing)
            | Exposure::ReplicaRatioServices(routing)
            | Exposure::Switch(routing) => Some(routing),
        }
    }

    /// The bake, if any.
    pub fn bake(&self) -> Option<&BakePlan> {
        self.canary().analysis.as_ref()?.bake.as_ref()
    }

    /// The steps. Empty if the evidence sets the pace.
    pub fn steps(&self) -> &[Step] {
        match &self.canary().pace {
            Pace::Steps(steps) => steps,
            Pace::Evidence(_) => &[],
        }
    }
}

impl Canary {
    /// The number of available pods that suffices if `needed` pods are waited for.
    pub fn sufficient_pods(&self, needed: u32) -> u32 {
        let sufficient = self.replica_progress_threshold;
        let sufficient = sufficient.map_or(needed, |amount| amount.rounded_up(needed));
        sufficient.clamp(needed.min(1), needed)
    }

    /// The weight that the steps up to and including `index` set.
    pub fn weight_at(steps: &[Step], index: usize) -> Weight {
        let mut latest_first = steps.iter().take(index.saturating_add(1)).rev();
        let weight = latest_first.find_map(|step| match step {
            Step::SetWeight(weight) => Some(*weight),
            _ => None,
        });
        weight.unwrap_or(Weight::ZERO)
    }

    /// The canary's size that the steps up to and including `index` set.
    pub fn scale_at(steps: &[Step], index: usize) -> CanaryScale {
        let mut latest_first = steps.iter().take(index.saturating_add(1)).rev();
        let scale = latest_first.find_map(|step| match step {
            Step::SetCanaryScale(scale) => Some(*scale),
            _ => None,
        });
        scale.unwrap_or(CanaryScale::MatchTrafficWeight)
    }
}
