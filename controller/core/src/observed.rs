//! The observation: what the cluster and the analysis report now.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::assignment_unit::AssignmentUnit;
use crate::command::Command;
use crate::effect::Side;
use crate::gate::GateReport;
use crate::guardrail::GuardrailReport;
use crate::hold::{Blocks, Hold, HoldCode};
use crate::managed_route::ManagedRoute;
use crate::plan::{Requirements, RouteRef};
use crate::release_analysis::AnalysisDocument;
use crate::release_policy::ReleasePolicy;
use crate::state::{AbortCause, State};
use crate::text::Message;
use crate::units::{Revision, Weight};

/// A consistent observation of everything that belongs to a Rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The state persisted in status.
    pub state: State,
    /// Why the persisted state cannot be understood completely: another version of the controller
    /// wrote it. [`Observed::state`] then holds the fields that could be read.
    pub incompatible_state: Option<String>,
    /// Whether the Rollout is quarantined, because a reconcile of it panicked or ended the process.
    /// Only an abort is carried out.
    pub is_quarantined: bool,
    /// When this process began to observe the Rollout.
    pub observed_since: Timestamp,
    /// `metadata.generation` of the Rollout.
    pub generation: i64,
    /// Why the spec cannot be used. The plan passed to `decide` is then the active plan.
    pub spec_problem: Option<String>,
    /// Code of the hold for [`Observed::spec_problem`]. `None` for [`HoldCode::SpecInvalid`].
    pub spec_problem_code: Option<HoldCode>,
    /// The RolloutPolicies that apply now, by precedence. A release that begins keeps them.
    pub policies: Vec<ReleasePolicy>,
    /// The guardrails of these policies. `None` if there are no policies.
    pub policy_guardrails: Option<AnalysisDocument>,
    /// `spec.replicas` as the API server stores it.
    pub spec_replicas: u32,
    /// Who set `spec.replicas`.
    pub replicas_source: ReplicasSource,
    /// The hash of the valid spec's plan. `None` if the spec is invalid.
    pub plan_hash: Option<String>,
    /// Whether the release keeps its strategy although the spec has another one
    /// ([`crate::spec_change::keep_strategy`]).
    pub keeps_strategy: bool,
    /// `spec.analysis`. `None` if it is unset or cannot be decoded.
    pub spec_analysis: Option<AnalysisDocument>,
    /// The revision of the spec's template. `None` if it is not known.
    pub target_revision: Option<Revision>,
    /// The Rollout's own ReplicaSets.
    pub replica_sets: BTreeMap<Revision, ReplicaSetView>,
    /// The Service of the stable side. `None` if the plan names none.
    pub stable_service: Option<ServiceView>,
    /// The Service of the canary side. `None` if the plan names none.
    pub canary_service: Option<ServiceView>,
    /// The routes of the plan, in its order.
    pub routes: Vec<RouteView>,
    /// What is assigned to a side as a whole.
    pub assignment_unit: AssignmentUnit,
    /// The Deployment whose pods the Rollout takes over, has taken over or gives back. `None` if
    /// there is none.
    pub workload: Option<WorkloadView>,
    /// Commands that have no outcome yet and are within the limit of pending commands, oldest
    /// first.
    pub commands: Vec<Command>,
    /// What the analysis found for the current revision; `None` if no analysis is configured.
    pub analysis: Option<AnalysisReport>,
    /// What the guardrails found about the revision of the spec's template.
    pub guardrails: GuardrailReport,
    /// What was read for the gate of the current step; `None` if it has none, or nothing was read.
    pub gate: Option<GateReport>,
}

impl Observed {
    /// The analysis, if its data is fresh and nothing holds or breaches.
    pub(crate) fn fresh_analysis(&self) -> Option<&AnalysisReport> {
        self.analysis.as_ref().filter(|report| report.is_fresh())
    }

    /// Why no release may start: its policies cannot be applied. `None` if they can.
    pub(crate) fn policy_problem(&self) -> Option<(HoldCode, &str)> {
        self.spec_problem_code.zip(self.spec_problem.as_deref())
    }

    /// The Service of a side. `None` if the plan names none.
    pub fn service(&self, side: Side) -> Option<&ServiceView> {
        match side {
            Side::Stable => self.stable_service.as_ref(),
            Side::Canary => self.canary_service.as_ref(),
        }
    }

    /// Both Services, stable first.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceView> {
        let sides = [Side::Stable, Side::Canary].into_iter();
        sides.filter_map(|side| self.service(side))
    }

    /// Why a Service or a route of the plan must not be written, if one must not. A new release does
    /// not start meanwhile.
    pub(crate) fn refusal(&self) -> Option<&Hold> {
        let of_services = self.services().find_map(ServiceView::refusal);
        of_services.or_else(|| self.routes.iter().find_map(RouteView::refusal))
    }

    /// The object that somebody else keeps changing, if any.
    pub(crate) fn contested(&self) -> Option<&Hold> {
        let of_services = self.services().map(|service| &service.hold);
        let of_routes = self.routes.iter().map(|route| &route.hold);
        let mut holds = of_routes.chain(of_services).flatten();
        holds.find(|hold| hold.code == HoldCode::Contested)
    }

    /// The analysis' first hold, if any.
    pub(crate) fn analysis_hold(&self) -> Option<&Hold> {
        self.analysis.as_ref()?.holds.first()
    }
}

/// Who set `spec.replicas` of a Rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicasSource {
    /// A manifest, an edit, or a client that cannot be distinguished from them.
    #[default]
    Declared,
    /// Nobody: the API server applied the schema's default, because the manifest leaves the field
    /// out.
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
    /// Container restarts of all its pods since the release began.
    pub restarts: u32,
    /// The kubelet's reason why a pod cannot run, for example `CrashLoopBackOff`. A pod that has
    /// not restarted since the release began is not in a crash loop of this release.
    pub crash: Option<String>,
    /// Why it lacks pods, if a cause is known.
    pub problem: Option<PodProblem>,
    /// Pods that a restart still has to replace, by name. Unavailable ones come first. Empty if there
    /// is no restart.
    pub restart_pods: Vec<RestartPod>,
    /// When the object was created.
    pub created_at: Timestamp,
    /// Pods that lack labels of the ReplicaSet's template, as the controllers of Kubernetes see them.
    pub unlabelled: u32,
    /// Whether [`ReplicaSetView::unlabelled`] does not refer to the current template yet.
    pub is_stale: bool,
}

/// A pod that was created before a restart was requested.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RestartPod {
    /// Whether it is ready, so that its eviction takes capacity away.
    pub is_available: bool,
    /// The name of the pod.
    pub name: String,
}

/// The Deployment whose pods a Rollout takes over or gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadView {
    /// The name of the Deployment.
    pub name: String,
    /// The Deployment. `None` if it does not exist.
    pub deployment: Option<DeploymentView>,
    /// The ReplicaSet with the pods that serve, if the Rollout does not control it.
    pub replica_set: Option<AdoptableReplicaSet>,
    /// The other ReplicaSets of the Deployment, which have no pods.
    pub idle_replica_sets: Vec<AdoptableReplicaSet>,
    /// Why the takeover does not begin. `None` if nothing prevents it.
    pub hold: Option<Hold>,
    /// Why the pods cannot be given back without a restart, with the fix. `None` if they can.
    pub return_problem: Option<Message>,
}

/// A Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentView {
    /// `spec.paused`.
    pub paused: bool,
    /// Whether the Deployment controller has seen the current spec.
    pub is_observed: bool,
    /// `spec.replicas`.
    pub replicas: u32,
    /// Pods of its ReplicaSet with the current template, as the Deployment controller counts them.
    pub updated: u32,
    /// All of its pods, as the Deployment controller counts them.
    pub pods: u32,
}

/// A ReplicaSet that can be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptableReplicaSet {
    /// The object's name.
    pub name: String,
    /// The revision that it becomes.
    pub revision: Revision,
}

/// Why pods cannot be created or cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodProblem {
    /// The kind of problem.
    pub code: HoldCode,
    /// The object that has the problem, for example `pod shop-abc-x`.
    pub object: String,
    /// The problem, for people.
    pub detail: String,
    /// When the problem began, if it may be a part of a normal start. It is reported after some
    /// time. `None` if it is reported at once.
    pub since: Option<Timestamp>,
}

/// A Service of one side and the pods behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// Whether the object exists.
    pub exists: bool,
    /// The revision that its selector selects. `None` if the Service is not bound to a revision.
    pub selects: Option<Revision>,
    /// Ready endpoints that are pods of the selected revision, or any pods if it is not bound.
    pub ready: u32,
    /// Ready endpoints that are not pods of this Rollout. Counted only while the Service is not bound
    /// to a revision.
    pub other_ready: u32,
    /// Since when it has had ready endpoints, and none of another revision. `None` if it has not
    /// now.
    pub serving_since: Option<Timestamp>,
    /// Why Serin does not write the Service, or writes it less often. `None` if nothing prevents it.
    pub hold: Option<Hold>,
}

impl ServiceView {
    /// Why the Service must not be written by this Rollout, if it must not.
    pub fn refusal(&self) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| is_refusal(hold))
    }
}

/// A route object and what its router reports.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteView {
    /// The route.
    pub route: RouteRef,
    /// The canary's share as written in the object, or why it cannot be read.
    pub canary_weight: Result<Weight, String>,
    /// The rules for chosen requests in the object, by precedence. `None` if there are some that no
    /// step of the plan brings about: somebody else changed one, or the plan has changed.
    pub managed_routes: Option<Vec<ManagedRoute>>,
    /// Since when this process has observed this share and these rules.
    pub written_since: Timestamp,
    /// Whether the router has applied the object.
    pub programmed: Programmed,
    /// Why Serin does not write the route, or writes it less often. `None` if nothing prevents it.
    pub hold: Option<Hold>,
}

impl RouteView {
    /// Whether the object sends chosen requests to the canary.
    pub(crate) fn has_managed_routes(&self) -> bool {
        self.managed_routes
            .as_ref()
            .is_none_or(|routes| !routes.is_empty())
    }

    /// Why the route must not be written by this Rollout, if it must not.
    pub fn refusal(&self) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| is_refusal(hold))
    }
}

/// Whether the object of this hold belongs to somebody else: nothing starts, and nothing is written.
fn is_refusal(hold: &Hold) -> bool {
    hold.blocks == Blocks::Start
}

/// Whether a router has applied its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programmed {
    /// Every parent has reported the current generation as accepted and resolved since then.
    Since(Timestamp),
    /// A parent has not, for this reason.
    Pending(String),
    /// The router reports no generation.
    Unreported,
}

/// What the analysis found for the current revision.
///
/// A report either names a breach, or holds, or is fresh: see [`AnalysisReport::is_fresh`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnalysisReport {
    /// The finding that rolls the release back.
    pub breach: Option<Breach>,
    /// What the metrics and the error budget hold, the most important first.
    pub holds: Vec<Hold>,
    /// What is sufficient on its own so far.
    pub satisfied: SatisfiedRequirements,
    /// Since when the data has been fresh without a gap.
    pub fresh_since: Option<Timestamp>,
    /// Whether the evidence suffices to promote.
    pub ready_to_promote: bool,
    /// The next weight that the evidence permits, if the evidence sets the pace.
    pub next_weight: Option<Weight>,
    /// The state of the evidence in a sentence.
    pub message: Message,
}

/// An [`AnalysisReport`] in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReportKind {
    /// The metrics hold the release.
    Hold,
    /// The error budget freezes the release.
    Freeze,
    /// The data is fresh and does not decide yet.
    Undecided,
    /// The evidence suffices to promote.
    Sufficient,
    /// The release is rolled back.
    Breach,
}

impl ReportKind {
    /// The kind as metrics and logs write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "Hold",
            Self::Freeze => "Freeze",
            Self::Undecided => "Undecided",
            Self::Sufficient => "Sufficient",
            Self::Breach => "Breach",
        }
    }
}

/// A finding that rolls the release back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// What was found.
    pub cause: AbortCause,
    /// What an operator reads.
    pub message: Message,
}

/// Requirements that are satisfied, found at one weight. Findings at another weight do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SatisfiedRequirements {
    /// The canary's share at which this was found.
    pub weight: Weight,
    /// The objectives whose evidence suffices, and the checks that have succeeded since the weight
    /// last changed.
    pub requirements: Requirements,
}

impl AnalysisReport {
    /// A report of fresh data that does not decide yet.
    pub fn undecided(message: impl Into<Message>, fresh_since: Timestamp) -> Self {
        Self {
            message: message.into(),
            fresh_since: Some(fresh_since),
            ..Self::default()
        }
    }

    /// A report of a hold.
    pub fn held(hold: Hold) -> Self {
        Self {
            message: hold.message.clone(),
            holds: vec![hold],
            ..Self::default()
        }
    }

    /// A report of a breach.
    pub fn breached(cause: AbortCause, message: impl Into<Message>) -> Self {
        let message = message.into();
        Self {
            breach: Some(Breach {
                cause,
                message: message.clone(),
            }),
            message,
            ..Self::default()
        }
    }

    /// The report in one word.
    pub fn kind(&self) -> ReportKind {
        match (&self.breach, self.holds.first()) {
            (Some(_), _) => ReportKind::Breach,
            (None, Some(hold)) if hold.is_freeze() => ReportKind::Freeze,
            (None, Some(_)) => ReportKind::Hold,
            (None, None) if self.ready_to_promote => ReportKind::Sufficient,
            (None, None) => ReportKind::Undecided,
        }
    }

    /// The code of the most important hold, if any.
    pub fn hold_code(&self) -> Option<HoldCode> {
        self.holds.first().map(|hold| hold.code)
    }

    /// The hold because of missing or unusable metrics, if any.
    pub fn missing_data(&self) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.code.is_missing_data())
    }

    /// The cause of the breach, if any.
    pub fn breach_cause(&self) -> Option<AbortCause> {
        self.breach.as_ref().map(|breach| breach.cause)
    }

    /// Whether the data is fresh and neither holds nor breaches.
    pub fn is_fresh(&self) -> bool {
        self.breach.is_none() && self.holds.is_empty() && self.fresh_since.is_some()
    }

    /// What is satisfied at this weight; `None` without fresh data of this weight.
    pub fn satisfied_at(&self, weight: Weight) -> Option<&Requirements> {
        (self.is_fresh() && self.satisfied.weight == weight).then_some(&self.satisfied.requirements)
    }

    /// The hold that only an `override` lifts early, if any.
    pub fn freeze(&self) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.is_freeze())
    }
}
