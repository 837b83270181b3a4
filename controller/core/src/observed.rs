//! What is true of the world right now, as far as the planner needs it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::command::Command;
use crate::plan::{Requirements, RouteRef};
use crate::state::State;
use crate::units::{Revision, Weight};

/// One consistent look at everything that belongs to a Rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The position that was persisted in status.
    pub state: State,
    /// Since when this process has looked at the Rollout.
    pub observed_since: Timestamp,
    /// `metadata.generation` of the Rollout.
    pub generation: i64,
    /// Why the spec cannot be used; the plan passed to `decide` is then the plan in force.
    pub spec_problem: Option<String>,
    /// `spec.replicas` as the API server stores it.
    pub spec_replicas: u32,
    /// Who set `spec.replicas`.
    pub replicas_source: ReplicasSource,
    /// The hash of the valid spec's plan; none while the spec is invalid.
    pub plan_hash: Option<String>,
    /// The revision that the spec's template stands for; none while it cannot be told.
    pub target_revision: Option<Revision>,
    /// The Rollout's own ReplicaSets.
    pub replica_sets: BTreeMap<Revision, ReplicaSetView>,
    /// The Service of the stable side; none where the plan names none.
    pub stable_service: Option<ServiceView>,
    /// The Service of the canary side; none where the plan names none.
    pub canary_service: Option<ServiceView>,
    /// The routes of the plan, in its order.
    pub routes: Vec<RouteView>,
    /// Commands that have no outcome yet, oldest first.
    pub commands: Vec<Command>,
    /// What the metrics say of the revision that is being released.
    pub analysis: AnalysisReport,
}

/// Who set `spec.replicas` of a Rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicasSource {
    /// Somebody wrote the value: a manifest, an edit, or a client that cannot be told from one.
    #[default]
    Declared,
    /// Nobody did: the API server filled in the schema's default, because the manifest leaves the
    /// field out.
    Default,
    /// The field has the default and no owner: the manifest leaves it out, and either the API
    /// server filled it in or an autoscaler scaled to 1, which the API server does not record for a
    /// field without an owner.
    Unowned,
    /// An autoscaler or `kubectl scale` wrote it through the `scale` subresource.
    Scaled,
}

impl ReplicasSource {
    /// Resolves `Unowned` by what was observed before: only an autoscaler changes a value without
    /// an owner, so after `Scaled` it is an autoscaler's 1, and otherwise the API server's default.
    #[must_use]
    pub const fn resolved(self, was_scaled: bool) -> Self {
        match self {
            Self::Unowned if was_scaled => Self::Scaled,
            Self::Unowned => Self::Default,
            known => known,
        }
    }
}

/// A ReplicaSet and its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSetView {
    /// The object's name.
    pub name: String,
    /// `spec.replicas`.
    pub desired: u32,
    /// Pods that exist and are not terminating.
    pub current: u32,
    /// Pods that have been ready for `minReadySeconds`.
    pub available: u32,
    /// Container restarts of its pods, together, since the release began.
    pub restarts: u32,
    /// Why a pod of it cannot run, in the kubelet's words, for example `CrashLoopBackOff`; one that
    /// has not restarted since the release began is not in a crash loop of this release.
    pub crash: Option<String>,
    /// When the object was created.
    pub created_at: Timestamp,
}

/// A Service of one side and the pods behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// Whether the object exists.
    pub exists: bool,
    /// The revision that its selector picks; none: it is not bound to a revision.
    pub selects: Option<Revision>,
    /// Ready endpoints that are pods of the selected revision (any pod, where it is not bound).
    pub ready: u32,
    /// Since when there have been ready endpoints and none of another revision; none: not so now.
    pub serving_since: Option<Timestamp>,
}

/// What a route object says and what its router says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteView {
    /// Which route.
    pub route: RouteRef,
    /// The canary's share as written in the object, or why it cannot be told.
    pub canary_weight: Result<Weight, String>,
    /// Since when this process has seen the object say so.
    pub written_since: Timestamp,
    /// Whether the router has taken it over.
    pub programmed: Programmed,
}

/// Whether a router has taken over what its object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programmed {
    /// Every parent reports the current generation accepted and resolved, seen since then.
    Since(Timestamp),
    /// A parent has not, and why.
    Pending(String),
    /// The router reports no generation, so nobody can tell.
    Unreported,
}

/// What the metrics say of the revision that is being released.
#[derive(Clone, Debug, PartialEq)]
pub enum AnalysisReport {
    /// No analysis is configured.
    NotConfigured,
    /// The data is missing, stale or unusable, or the traffic at hand is more than is left to
    /// spend: never a success. `cause` is one CamelCase word.
    Hold {
        /// The kind of trouble, as a condition's reason.
        cause: String,
        /// What an operator reads.
        message: String,
        /// The weight to go down to, where it has lasted too long for the one at hand.
        lower_to: Option<Weight>,
    },
    /// The service as a whole has no errors to spend, whoever makes them: nothing advances until it
    /// has recovered or a person lifts the freeze. `cause` is one CamelCase word.
    Frozen {
        /// `BudgetSpent` or `ServiceBurning`, as a condition's reason.
        cause: String,
        /// What an operator reads.
        message: String,
    },
    /// Fresh data that does not yet decide.
    Undecided {
        /// What an operator reads.
        message: String,
        /// Since when the data has been fresh without a gap.
        fresh_since: Timestamp,
        /// The next weight that evidence permits, where evidence sets the pace.
        next_weight: Option<Weight>,
        /// What suffices by itself.
        satisfied: SatisfiedRequirements,
    },
    /// Fresh data that suffices to promote.
    Sound {
        /// What an operator reads.
        message: String,
        /// Since when the data has been fresh without a gap.
        fresh_since: Timestamp,
        /// What suffices by itself.
        satisfied: SatisfiedRequirements,
    },
    /// The canary is worse than its budget allows.
    RollBack {
        /// `Evidence` or `ErrorBudget`, as a condition's reason.
        cause: String,
        /// What an operator reads.
        message: String,
    },
}

/// What suffices by itself, at one weight: an answer that was given at another is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SatisfiedRequirements {
    /// The canary's share at which this was found.
    pub weight: Weight,
    /// The objectives whose evidence suffices, and the checks that have succeeded since the weight
    /// last changed.
    pub requirements: Requirements,
}

impl AnalysisReport {
    /// What suffices at this weight; nothing where there is no fresh data of it.
    pub fn satisfied_at(&self, weight: Weight) -> Option<&Requirements> {
        match self {
            Self::Undecided {
                satisfied: proven, ..
            }
            | Self::Sound {
                satisfied: proven, ..
            } if proven.weight == weight => Some(&proven.requirements),
            _ => None,
        }
    }
}
