//! Requests the metrics analysis, and converts its snapshot into status fields.

mod evidence;

use serin_core::hold::Hold;
use serin_core::hold::HoldCode;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serin_analysis::Arm;
use serin_analysis::claim::RoutedUnit;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::blue_green::switched_share;
use serin_core::effect::{Level, Reason};
use serin_core::observed::{AnalysisReport, Observed};
use serin_core::plan::{Canary, CanaryScale, Pace, Plan, Step};
use serin_core::state::{Stage, State};
use serin_core::units::{Revision, Weight};
use serin_crds::analysis::AnalysisSpec;
use serin_crds::status::{
    AnalysisStatus, BudgetStatus, CHECKPOINT_BYTES, CheckStatus, PlaceboStatus, serialized_bytes,
};
use serin_crds::{RolloutSpec, RolloutStatus};
use serin_metrics_analysis::checks::AwaitedChecks;
use serin_metrics_analysis::routes::{RouteRules, RouteScope, service_names};
use serin_metrics_analysis::{AnalysisRequest, AnalysisSnapshot, ReleasePhase, RolloutName};

use crate::analyzer::Analyzer;
use crate::cluster_cache::{ClusterCache, RolloutObject};
use crate::local_state::LocalState;
use crate::observe::Snapshot;

/// The inputs of one analysis request.
pub(super) struct AnalysisInputs<'a> {
    pub analyzer: &'a dyn Analyzer,
    pub rollout: &'a RolloutObject,
    pub spec: Option<&'a RolloutSpec>,
    pub status: &'a RolloutStatus,
    pub plan: &'a Plan,
    pub observed: &'a Observed,
    pub snapshot: &'a Snapshot,
    pub cache: &'a ClusterCache,
    /// The HTTPRoutes in the cache.
    pub route_scope: RouteScope,
}

/// The latest analysis, and the analysis fields of the previous status.
pub(super) struct AnalysisOutcome {
    /// `None` if there is nothing to analyze.
    pub report: Option<AnalysisReport>,
    revision: Option<Revision>,
    latest: Option<AnalysisSnapshot>,
    before: Box<RolloutStatus>,
    /// Whether the release was already aborted before this reconcile.
    was_aborted: bool,
    /// Identifies the attempt that was analyzed.
    previous_ended_at: Option<Timestamp>,
}

/// Requests the analysis of the current release. Without a release, only the error budget is
/// followed.
pub(super) fn analyze(inputs: &AnalysisInputs<'_>, local: &mut LocalState) -> AnalysisOutcome {
    let state = &inputs.observed.state;
    let before = analysis_fields(inputs.status);
    let was_aborted = state.stage == Stage::Aborted;
    let previous_ended_at = previous_ended_at(state);
    let is_releasing = matches!(state.stage, Stage::Progressing | Stage::Promoting);
    let revision = state
        .current_revision
        .clone()
        .filter(|_| is_releasing && inputs.plan.canary().analysis.is_some());
    let Some(revision) = revision else {
        let latest = follow_budgets(inputs, local);
        return AnalysisOutcome {
            report: None,
            revision: None,
            latest,
            before,
            was_aborted,
            previous_ended_at,
        };
    };
    if let Some(request) = analysis_request(inputs, &revision) {
        inputs.analyzer.start_or_update(request);
        local.analyzing = true;
    }
    if !local.analyzing {
        let report = AnalysisReport::held(Hold::new(
            HoldCode::InvalidSpec,
            "cannot analyze this release: the spec cannot be decoded",
        ));
        return AnalysisOutcome {
            report: Some(report),
            revision: Some(revision),
            latest: None,
            before,
            was_aborted,
            previous_ended_at,
        };
    }
    let mut latest = inputs.analyzer.snapshot(inputs.rollout.uid(), &revision);
    let mut report = latest.report.clone();
    if let Some(hold) = checkpoint_hold(&latest) {
        report.holds.insert(0, hold);
        latest.checkpoint = None;
    }
    AnalysisOutcome {
        report: Some(report),
        revision: Some(revision),
        latest: Some(latest),
        before,
        was_aborted,
        previous_ended_at,
    }
}

/// The analysis fields of a status.
fn analysis_fields(status: &RolloutStatus) -> Box<RolloutStatus> {
    Box::new(RolloutStatus {
        evidence: status.evidence.clone(),
        budgets: status.budgets.clone(),
        checks: status.checks.clone(),
        analysis: status.analysis.clone(),
        summary: status.summary.clone(),
        ..RolloutStatus::default()
    })
}

/// Why a release with a checkpoint that does not fit into the status is held: after a restart, its
/// evidence would be lost.
fn checkpoint_hold(latest: &AnalysisSnapshot) -> Option<Hold> {
    let bytes = serialized_bytes(&latest.checkpoint.as_ref()?.checkpoint);
    let (size, limit) = (bytes >> 10, CHECKPOINT_BYTES >> 10);
    (bytes > CHECKPOINT_BYTES).then(|| {
        let message = format!(
            "spec.analysis.objectives: the state of the analysis has {size} KiB, more than the \
             {limit} KiB that fit into the status. Use fewer objectives, or latency.guard and \
             endpointLabel with fewer of them"
        );
        Hold::new(HoldCode::InvalidSpec, message)
    })
}

/// Follows the error budget of a Rollout without a release.
fn follow_budgets(inputs: &AnalysisInputs<'_>, local: &mut LocalState) -> Option<AnalysisSnapshot> {
    let state = &inputs.observed.state;
    let is_idle = matches!(state.stage, Stage::Stable | Stage::Aborted);
    let revision = state
        .current_revision
        .as_ref()
        .filter(|_| is_idle && inputs.plan.canary().analysis.is_some());
    let request = revision.and_then(|revision| analysis_request(inputs, revision));
    let Some(request) = request.filter(|request| !request.analysis.objectives.is_empty()) else {
        if std::mem::take(&mut local.analyzing) {
            inputs.analyzer.stop(inputs.rollout.uid());
        }
        return None;
    };
    let revision = request.revision.clone();
    inputs.analyzer.start_or_update(AnalysisRequest {
        phase: ReleasePhase::Idle,
        weight: Weight::ZERO,
        resume_from: None,
        ..request
    });
    local.analyzing = true;
    Some(inputs.analyzer.snapshot(inputs.rollout.uid(), &revision))
}

/// Builds the request. `None` if the spec cannot be decoded; a running analysis then continues.
fn analysis_request(inputs: &AnalysisInputs<'_>, revision: &Revision) -> Option<AnalysisRequest> {
    let state = &inputs.observed.state;
    let analysis = analysis_spec(inputs, state)?;
    let key = inputs.rollout.key();
    let routing = inputs.plan.services();
    let set_name = |revision: &Revision| {
        inputs
            .observed
            .replica_sets
            .get(revision)
            .map(|set| set.name.clone())
    };
    let own = inputs
        .status
        .analysis
        .clone()
        .filter(|analysis| analysis.revision == revision.as_str());
    let is_position = |analysis: &AnalysisStatus| {
        analysis
            .checkpoint
            .as_object()
            .is_some_and(|position| !position.is_empty())
    };
    Some(AnalysisRequest {
        rollout: RolloutName {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        },
        uid: inputs.rollout.uid().to_owned(),
        revision: revision.clone(),
        analysis,
        stable_service: routing.map(|routing| routing.stable_service().clone()),
        canary_service: routing.map(|routing| routing.canary_service().clone()),
        rules: route_rules(inputs),
        pod_sides: pod_sides(inputs, revision),
        stable_replica_set: state.stable_revision.as_ref().and_then(set_name),
        canary_replica_set: set_name(revision)
            .unwrap_or_else(|| format!("{}-{revision}", key.name)),
        pods_created_at: inputs.snapshot.pods_created_at(),
        pod_nodes: inputs.snapshot.pod_nodes(),
        baseline_since: serin_core::baseline::started_at(inputs.plan, state),
        compared_stable: required_evidence(inputs.plan.canary()).map_or(1.0, |(weight, scale)| {
            serin_core::baseline::compared_part_of_stable(inputs.plan, scale, weight)
        }),
        routed_unit: routed_unit(&inputs.observed.assignment_unit),
        weight: canary_weight(inputs.observed, inputs.plan),
        is_blue_green: inputs.plan.is_blue_green(),
        pace: match &inputs.plan.canary().pace {
            Pace::Evidence(pace) => Some(*pace),
            Pace::Steps(_) => None,
        },
        evidence_required_at: required_evidence(inputs.plan.canary()).map(|(weight, _)| weight),
        awaited_checks: awaited_checks(inputs),
        phase: analysis_phase(inputs),
        freeze_lifted: state
            .freeze_override
            .as_ref()
            .is_some_and(|lifted| lifted.revision == *revision),
        previous_ended_at: previous_ended_at(state),
        resume_from: own.filter(is_position),
        placebos: placebos(inputs.status),
    })
}

/// The analysis of the release in progress, or else that of the spec.
fn analysis_spec(inputs: &AnalysisInputs<'_>, state: &State) -> Option<AnalysisSpec> {
    let of_release = state.release_analysis.as_ref();
    match of_release.filter(|_| state.is_releasing()) {
        // Unreadable only if another version wrote it: a running analysis then continues, and after
        // a restart the release is held.
        Some(fixed) => AnalysisSpec::deserialize(fixed.spec.as_value()).ok(),
        None => inputs.spec?.analysis.clone(),
    }
}

/// The unit as the analysis defines it.
const fn routed_unit(unit: &AssignmentUnit) -> RoutedUnit {
    match unit {
        AssignmentUnit::Request => RoutedUnit::Request,
        AssignmentUnit::Client { .. } => RoutedUnit::Client,
        AssignmentUnit::Connection { .. } => RoutedUnit::Connection,
        AssignmentUnit::ChosenRequests { .. } => RoutedUnit::ChosenRequests,
    }
}

/// The rules of all routes that affect the counters of the two Services.
fn route_rules(inputs: &AnalysisInputs<'_>) -> RouteRules {
    let Some(routing) = inputs.plan.routing() else {
        return RouteRules::default();
    };
    let namespace = &inputs.rollout.key().namespace;
    let names = service_names(namespace, routing);
    let routes = inputs.cache.routes.with_backends(&names);
    let routes = routes.iter().map(|(kind, route)| (*kind, &route.object));
    RouteRules {
        scope: inputs.route_scope,
        ..RouteRules::from_routes(routes, namespace, routing)
    }
}

/// The side of each pod, by its owner.
fn pod_sides(inputs: &AnalysisInputs<'_>, canary: &Revision) -> BTreeMap<String, Arm> {
    let uid_of = |revision: &Revision| {
        inputs
            .snapshot
            .replica_sets
            .get(revision)
            .map(|set| set.identity.uid.as_str())
    };
    let canary = uid_of(canary);
    let stable = inputs
        .observed
        .state
        .stable_revision
        .as_ref()
        .and_then(uid_of);
    let side = |owner: Option<&str>| match owner {
        None => None,
        owner if owner == canary => Some(Arm::Canary),
        owner if owner == stable => Some(Arm::Stable),
        Some(_) => None,
    };
    let pods = inputs.snapshot.pods.iter();
    pods.filter_map(|pod| {
        Some((
            pod.identity.key.name.clone(),
            side(pod.owner_uid.as_deref())?,
        ))
    })
    .collect()
}

/// The stored placebo releases, by objective.
fn placebos(status: &RolloutStatus) -> BTreeMap<String, PlaceboStatus> {
    let budgets = status.budgets.iter();
    budgets
        .filter_map(|budget| Some((budget.objective.clone(), budget.placebo.clone()?)))
        .collect()
}

/// The end of the last release. It identifies the current attempt, because each abort, promotion
/// and supersession adds to the history.
fn previous_ended_at(state: &State) -> Option<Timestamp> {
    state.history.last().map(|release| release.at)
}

/// The smallest canary weight at which a step waits for sufficient evidence, and the canary's scale
/// there. Evidence takes longest there.
fn required_evidence(canary: &Canary) -> Option<(Weight, CanaryScale)> {
    let steps = match &canary.pace {
        Pace::Evidence(pace) => return Some((pace.max_weight, CanaryScale::MatchTrafficWeight)),
        Pace::Steps(steps) => steps,
    };
    let mut weight = Weight::ZERO;
    let mut least: Option<(Weight, CanaryScale)> = None;
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::SetWeight(set) => weight = *set,
            Step::Require(requirements) if requirements.objectives.is_empty() => {}
            Step::Analysis(None) | Step::Require(_)
                if !weight.is_zero() && least.is_none_or(|(least, _)| weight < least) =>
            {
                least = Some((weight, Canary::scale_at(steps, index)));
            }
            _ => {}
        }
    }
    least
}

/// The checks that the position of the release waits for.
fn awaited_checks(inputs: &AnalysisInputs<'_>) -> AwaitedChecks {
    let awaited = serin_core::awaited_checks(inputs.plan, &inputs.observed.state);
    awaited.map_or_else(AwaitedChecks::default, |(names, since)| AwaitedChecks {
        names: names.clone(),
        since_ms: since.as_millisecond(),
    })
}

/// The phase of the release, as the analysis defines it.
fn analysis_phase(inputs: &AnalysisInputs<'_>) -> ReleasePhase {
    let state = &inputs.observed.state;
    let is_baking = state.bake.is_some_and(|watch| watch.ended_at.is_none());
    let is_in_effect = state.weights.verified == Some(state.weights.desired);
    let is_blue_green = inputs.plan.is_blue_green();
    match (state.stage, &inputs.plan.canary().pace, state.step) {
        (Stage::Promoting, _, _) if is_baking => ReleasePhase::Bake,
        (Stage::Promoting, _, _) => ReleasePhase::Promoting,
        // The first step of blue/green creates the preview.
        (Stage::Progressing, _, Some(step)) if is_blue_green && step.index > 0 => {
            ReleasePhase::Preview
        }
        (_, Pace::Steps(steps), Some(step)) if step.index >= steps.len() && is_in_effect => {
            ReleasePhase::BeforePromotion
        }
        _ => ReleasePhase::Release,
    }
}

/// The current canary weight of the routes. Without a router, the desired weight.
fn canary_weight(observed: &Observed, plan: &Plan) -> Weight {
    if plan.switches_service() {
        return switched_share(observed);
    }
    if plan.routing().is_none() {
        return observed.state.weights.desired;
    }
    let written = observed
        .routes
        .iter()
        .filter_map(|route| route.canary_weight.as_ref().ok());
    written.max().copied().unwrap_or(Weight::ZERO)
}

impl AnalysisOutcome {
    /// No analysis: what the status reports is kept.
    pub(super) fn without_analysis(status: &RolloutStatus, state: &State) -> Self {
        Self {
            report: None,
            revision: None,
            latest: None,
            before: analysis_fields(status),
            was_aborted: state.stage == Stage::Aborted,
            previous_ended_at: previous_ended_at(state),
        }
    }

    /// Whether the analysis is about the revision that `state` releases.
    fn applies_to(&self, state: &State) -> bool {
        self.revision.is_some()
            && self.revision == state.current_revision
            && !self.is_another_attempt(state)
    }

    /// Whether `state` belongs to another attempt than the analysis. One reconcile can both abort
    /// and retry.
    fn is_another_attempt(&self, state: &State) -> bool {
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        matches!(state.stage, Stage::Progressing | Stage::Promoting)
            && second(previous_ended_at(state)) != second(self.previous_ended_at)
    }

    /// Whether the analysis fields of the status belong to this attempt. A new attempt starts
    /// without evidence, because the old evidence would abort it immediately.
    fn is_same_attempt_as_status(&self, state: &State) -> bool {
        if (self.was_aborted && state.stage != Stage::Aborted) || self.is_another_attempt(state) {
            return false;
        }
        let analyzed_revision = self
            .before
            .analysis
            .as_ref()
            .map(|analysis| analysis.revision.as_str());
        analyzed_revision.is_some()
            && analyzed_revision == state.current_revision.as_ref().map(Revision::as_str)
    }

    /// The error budgets for the status. Known budgets are kept until newer ones are available.
    pub(super) fn budgets(&self, plan: &Plan) -> Vec<BudgetStatus> {
        if plan.canary().analysis.is_none() {
            return Vec::new();
        }
        let current = self
            .latest
            .as_ref()
            .map(|latest| latest.budgets.clone())
            .filter(|budgets| !budgets.is_empty());
        current.unwrap_or_else(|| self.before.budgets.clone())
    }

    /// A warning that the observed traffic is too low to analyze a release, or that placebo releases
    /// refute the bound, unless the status already contains it.
    pub(super) fn infeasible(&self, plan: &Plan) -> Option<Reason> {
        let warning = |budgets: &[BudgetStatus]| {
            let messages: Vec<&str> = budgets
                .iter()
                .filter_map(|budget| budget.infeasible.as_deref())
                .collect();
            (!messages.is_empty()).then(|| messages.join(" "))
        };
        let message =
            warning(&self.budgets(plan)).filter(|_| warning(&self.before.budgets).is_none())?;
        Some(Reason {
            code: "NotFeasible",
            message: message.into(),
            level: Level::Warning,
        })
    }

    /// The checks for the status. They are kept as long as the evidence.
    pub(super) fn checks(&self, state: &State) -> Vec<CheckStatus> {
        let current = self
            .latest
            .as_ref()
            .filter(|_| self.applies_to(state))
            .map(|latest| latest.checks.clone());
        let current = current.filter(|checks| !checks.is_empty());
        current.unwrap_or_else(|| {
            if self.is_same_attempt_as_status(state) {
                self.before.checks.clone()
            } else {
                Vec::new()
            }
        })
    }

    /// A one-line summary of the evidence.
    pub(super) fn summary(&self, state: &State) -> Option<String> {
        let current = self
            .latest
            .as_ref()
            .filter(|_| self.applies_to(state))
            .and_then(|latest| latest.summary.clone());
        let before = || {
            self.before
                .summary
                .as_ref()
                .filter(|_| self.is_same_attempt_as_status(state))?
                .evidence
                .as_ref()
                .map(ToString::to_string)
        };
        current.or_else(before)
    }

    /// The checkpoint of the analysis. It is created at the start of the release, so that a
    /// restarted controller knows from when to count.
    pub(super) fn checkpoint(
        &self,
        state: &State,
        plan: &Plan,
        now: Timestamp,
    ) -> Option<AnalysisStatus> {
        let current = self
            .latest
            .as_ref()
            .filter(|_| self.applies_to(state))
            .and_then(|latest| latest.checkpoint.clone());
        let before = || {
            self.before
                .analysis
                .clone()
                .filter(|_| self.is_same_attempt_as_status(state))
        };
        let initial = || {
            let is_releasing = matches!(state.stage, Stage::Progressing | Stage::Promoting);
            let revision = state
                .current_revision
                .as_ref()
                .filter(|_| is_releasing && plan.canary().analysis.is_some())?;
            Some(AnalysisStatus {
                revision: revision.as_str().to_owned(),
                started_at: now,
                checkpoint: Value::Object(serde_json::Map::new()),
            })
        };
        current.or_else(before).or_else(initial)
    }
}
