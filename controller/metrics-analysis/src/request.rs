//! Input and output of an analysis.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_analysis::Arm;
use serin_analysis::claim::RoutedUnit;
use serin_core::observed::AnalysisReport;
use serin_core::plan::EvidencePace;
use serin_core::units::{Revision, Weight};
use serin_crds::analysis::AnalysisSpec;
use serin_crds::status::{
    AnalysisStatus, BudgetStatus, CheckStatus, EvidenceStatus, PlaceboStatus,
};

use crate::checks::AwaitedChecks;
use crate::matcher::is_pod_name_of;
use crate::routes::RouteRules;

/// Namespace and name of a Rollout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Phase of a release, as far as it affects the analysis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReleasePhase {
    /// No release is in progress. Only the error budget of the service is read.
    Idle,
    /// The release progresses through steps or weights.
    #[default]
    Release,
    /// The preview of a blue/green release has pods, and no traffic yet. Only checks decide.
    Preview,
    /// All steps are complete.
    BeforePromotion,
    /// Traffic is moving to the canary completely. Only a breach matters.
    Promoting,
    /// The release receives all of the traffic during the bake time.
    Bake,
}

/// Desired analysis of one release. Idempotent: submit it on every reconcile.
#[derive(Clone, Debug, PartialEq)]
pub struct AnalysisRequest {
    /// The Rollout, which is reconciled when its report changes.
    pub rollout: RolloutName,
    /// The Rollout's UID.
    pub uid: String,
    /// Revision that is being released.
    pub revision: Revision,
    /// Analysis settings of the spec.
    pub analysis: AnalysisSpec,
    /// Service of stable, if there is one.
    pub stable_service: Option<String>,
    /// Service of the canary, if there is one.
    pub canary_service: Option<String>,
    /// HTTPRoute rules that send requests to the two Services, or whose names cannot be
    /// distinguished from these in metrics.
    pub rules: RouteRules,
    /// Name of the stable ReplicaSet.
    pub stable_replica_set: Option<String>,
    /// Name of the canary ReplicaSet.
    pub canary_replica_set: String,
    /// Side of each pod whose owner is known. Required if the name of the ReplicaSet is truncated
    /// in the names of its pods.
    pub pod_sides: BTreeMap<String, Arm>,
    /// Creation times of the pods of both sides, by name. A pod that is not listed counts from its
    /// second scrape on.
    pub pods_created_at: BTreeMap<String, Timestamp>,
    /// Node of each pod whose node is known, by the name of the pod. Only for messages.
    pub pod_nodes: BTreeMap<String, String>,
    /// When the stable pods started that the canary is compared with. `None` if it is compared with
    /// all stable pods.
    pub baseline_since: Option<Timestamp>,
    /// Part of stable's requests that the canary is compared with at `evidence_required_at`, from 0 to
    /// 1. Below 1 with baseline pods. Only the feasibility depends on it.
    pub compared_stable: f64,
    /// What is assigned to a side as a whole. Only the stated condition of the bound depends on it.
    pub routed_unit: RoutedUnit,
    /// Effective canary weight. At zero there is no analysis.
    pub weight: Weight,
    /// Whether all of the traffic moves at once, so that the two sides are never compared.
    pub is_blue_green: bool,
    /// Bounds of an evidence-driven pace. `None` if explicit steps set the pace.
    pub pace: Option<EvidencePace>,
    /// Weight at which the evidence must be sufficient before the release continues. `None` if no
    /// step waits for that.
    pub evidence_required_at: Option<Weight>,
    /// The checks that the position of the release waits for.
    pub awaited_checks: AwaitedChecks,
    /// Phase of the release.
    pub phase: ReleasePhase,
    /// Whether the freeze was lifted manually for this revision.
    pub freeze_lifted: bool,
    /// End of the previous release, if there was one, even of the same revision. It identifies the
    /// attempt: a retry has a later one. Nothing from an earlier attempt counts against this one.
    pub previous_ended_at: Option<Timestamp>,
    /// Stored state from which to continue.
    pub resume_from: Option<AnalysisStatus>,
    /// Stored placebo releases, by objective.
    pub placebos: BTreeMap<String, PlaceboStatus>,
}

impl AnalysisRequest {
    /// Whether this is a canary pod, according to its owner if known, else according to its name.
    pub(crate) fn is_canary_pod(&self, pod: &str) -> bool {
        match self.pod_sides.get(pod) {
            Some(side) => *side == Arm::Canary,
            None => is_pod_name_of(&self.canary_replica_set, pod),
        }
    }

    /// Creation times of the canary's pods, in milliseconds since the epoch.
    pub(crate) fn canary_creation_times_ms(&self) -> impl Iterator<Item = i64> {
        let pods = self
            .pods_created_at
            .iter()
            .filter(|(pod, _)| self.is_canary_pod(pod));
        pods.map(|(_, created_at)| created_at.as_millisecond())
    }

    /// Whether both requests belong to the same attempt to release a revision.
    pub fn is_same_attempt(&self, other: &Self) -> bool {
        let second = |request: &Self| request.previous_ended_at.map(Timestamp::as_second);
        self.revision == other.revision && second(self) == second(other)
    }
}

/// Result of the analysis at one point in time.
#[derive(Clone, Debug, PartialEq)]
pub struct AnalysisSnapshot {
    /// Report for the planner.
    pub report: AnalysisReport,
    /// Evidence for the status, by objective.
    pub evidence: Vec<EvidenceStatus>,
    /// Error budgets for the status, by objective.
    pub budgets: Vec<BudgetStatus>,
    /// Check results for the status.
    pub checks: Vec<CheckStatus>,
    /// Whether canary samples at the current weight have arrived.
    pub has_samples_at_weight: bool,
    /// Stored state for the status, from which a restarted controller continues.
    pub checkpoint: Option<AnalysisStatus>,
    /// Summary for `kubectl get`: `budget 0.7 % · E 3.1/100`.
    pub summary: Option<String>,
}

impl AnalysisSnapshot {
    /// A snapshot before the first result.
    pub fn undecided(message: &str, now: Timestamp) -> Self {
        Self::from_report(AnalysisReport::undecided(message, now))
    }

    /// A snapshot without evidence.
    pub fn from_report(report: AnalysisReport) -> Self {
        Self {
            report,
            evidence: Vec::new(),
            budgets: Vec::new(),
            checks: Vec::new(),
            has_samples_at_weight: false,
            checkpoint: None,
            summary: None,
        }
    }
}
