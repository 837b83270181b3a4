//! What is asked of a judge, and what it says.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_analysis::Arm;
use serin_core::observed::{AnalysisReport, SatisfiedRequirements};
use serin_core::plan::EvidencePace;
use serin_core::units::{Revision, Weight};
use serin_crds::analysis::AnalysisSpec;
use serin_crds::status::{AnalysisStatus, BudgetStatus, CheckStatus, EvidenceStatus};

use crate::matcher::is_pod_name_of;
use crate::routes::RouteRules;

/// A Rollout by its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// How far a release has come, as far as it matters to what is asked of its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Not under way: only how the service's error budget stands is asked.
    Idle,
    /// On its way through steps or weights.
    #[default]
    Release,
    /// All steps are complete.
    BeforePromotion,
    /// On its way to all of the traffic: nothing but a breach matters any more.
    Promoting,
    /// With all of the traffic, watched.
    AfterPromotion,
}

/// What is to be judged, as one reconcile sees it. Say it again at every reconcile; it costs
/// nothing where nothing has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeRequest {
    /// The Rollout, told when its judgement has changed.
    pub rollout: RolloutName,
    /// The Rollout's UID.
    pub uid: String,
    /// The revision that is being released.
    pub revision: Revision,
    /// How it is judged.
    pub analysis: AnalysisSpec,
    /// The Service of the stable side, where there is one.
    pub stable_service: Option<String>,
    /// The Service of the canary side, where there is one.
    pub canary_service: Option<String>,
    /// The rules of HTTPRoutes that send requests to the two Services, or whose names look like
    /// that in metrics.
    pub rules: RouteRules,
    /// The name of the stable revision's ReplicaSet.
    pub stable_replica_set: Option<String>,
    /// The name of the canary revision's ReplicaSet.
    pub canary_replica_set: String,
    /// The side of each pod that is known by its owner. It decides if the ReplicaSet's name is too
    /// long to be in its pods' names.
    pub pod_sides: BTreeMap<String, Arm>,
    /// When each pod of either side was created, by name. A pod that is not listed counts from its
    /// second scrape on.
    pub pods_created_at: BTreeMap<String, Timestamp>,
    /// The canary's share in effect; zero: nothing is judged.
    pub weight: Weight,
    /// The bounds of the pace where evidence sets it; nothing where steps do.
    pub pace: Option<EvidencePace>,
    /// The canary's share at which the evidence must suffice before it goes on; nothing where no
    /// step waits for that.
    pub proven_at: Option<Weight>,
    /// How far it has come.
    pub phase: Phase,
    /// Whether a person has lifted the freeze for this revision.
    pub freeze_lifted: bool,
    /// When the last release before this one ended, if there was one, be it of the same revision.
    /// It identifies the attempt: a retry has a later one. Nothing that an earlier attempt has
    /// counted is held against this one.
    pub previous_ended_at: Option<Timestamp>,
    /// The position from which to go on, as the status has it.
    pub resume_from: Option<AnalysisStatus>,
}

impl JudgeRequest {
    /// Whether this is a pod of the canary's ReplicaSet: by its owner if that is known, else by its
    /// name.
    pub(crate) fn is_canary_pod(&self, pod: &str) -> bool {
        match self.pod_sides.get(pod) {
            Some(side) => *side == Arm::Canary,
            None => is_pod_name_of(&self.canary_replica_set, pod),
        }
    }

    /// When the canary's pods were created, in milliseconds since the epoch.
    pub(crate) fn canary_created_ms(&self) -> impl Iterator<Item = i64> {
        let pods = self
            .pods_created_at
            .iter()
            .filter(|(pod, _)| self.is_canary_pod(pod));
        pods.map(|(_, created_at)| created_at.as_millisecond())
    }

    /// Whether both are about the same attempt at releasing a revision.
    pub fn is_same_attempt(&self, other: &Self) -> bool {
        let second = |request: &Self| request.previous_ended_at.map(Timestamp::as_second);
        self.revision == other.revision && second(self) == second(other)
    }
}

/// What the metrics say of a release at this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// For the planner.
    pub judgement: AnalysisReport,
    /// For the status, by objective.
    pub evidence: Vec<EvidenceStatus>,
    /// For the status, by objective: how the service's error budget stands.
    pub budgets: Vec<BudgetStatus>,
    /// For the status, by check.
    pub checks: Vec<CheckStatus>,
    /// Whether samples of the canary at its weight have arrived.
    pub has_samples_at_weight: bool,
    /// For the status: from here a restarted controller goes on.
    pub checkpoint: Option<AnalysisStatus>,
    /// For `kubectl get`: `budget 0.7 % · E 3.1/100`.
    pub summary: Option<String>,
}

impl Look {
    /// Nothing is known yet.
    pub fn undecided(message: &str, now: Timestamp) -> Self {
        let proven = SatisfiedRequirements::default();
        Self::of(AnalysisReport::Undecided {
            message: message.to_owned(),
            fresh_since: now,
            next_weight: None,
            satisfied: proven,
        })
    }

    /// A judgement without evidence.
    pub fn of(judgement: AnalysisReport) -> Self {
        Self {
            judgement,
            evidence: Vec::new(),
            budgets: Vec::new(),
            checks: Vec::new(),
            has_samples_at_weight: false,
            checkpoint: None,
            summary: None,
        }
    }
}
