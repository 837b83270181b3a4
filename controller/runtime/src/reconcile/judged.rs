//! What is asked of the judge, and what of its answer goes into the status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use serin_analysis::Arm;
use serin_core::effect::{Level, Reason};
use serin_core::observed::{AnalysisReport, Observed};
use serin_core::plan::{Canary, Pace, Plan, Step};
use serin_core::state::{Stage, State};
use serin_core::units::{Revision, Weight};
use serin_crds::status::{AnalysisStatus, BudgetStatus, CheckStatus, EvidenceStatus};
use serin_crds::{RolloutSpec, RolloutStatus};
use serin_metrics_analysis::routes::{RouteRules, service_names};
use serin_metrics_analysis::{JudgeRequest, Look, Phase, RolloutName};

use crate::judge::Judge;
use crate::memory::Memory;
use crate::observe::Snapshot;
use crate::world::{RolloutObject, World};

/// One Rollout before its judge.
pub(super) struct Case<'a> {
    pub judge: &'a dyn Judge,
    pub rollout: &'a RolloutObject,
    pub spec: Option<&'a RolloutSpec>,
    pub status: &'a RolloutStatus,
    pub plan: &'a Plan,
    pub seen: &'a Observed,
    pub snapshot: &'a Snapshot,
    pub world: &'a World,
}

/// The judge's answer, and what the status said before.
pub(super) struct Judged {
    pub judgement: AnalysisReport,
    revision: Option<Revision>,
    look: Option<Look>,
    before: Box<RolloutStatus>,
    /// Whether the release had been given up before this look.
    was_aborted: bool,
    /// The attempt that was judged.
    previous_ended_at: Option<Timestamp>,
}

/// Asks the judge about the release under way; of a Rollout without one only how its error budget
/// stands.
pub(super) fn judge(case: &Case<'_>, memory: &mut Memory) -> Judged {
    let state = &case.seen.state;
    let before = Box::new(RolloutStatus {
        evidence: case.status.evidence.clone(),
        budgets: case.status.budgets.clone(),
        checks: case.status.checks.clone(),
        analysis: case.status.analysis.clone(),
        summary: case.status.summary.clone(),
        ..RolloutStatus::default()
    });
    let was_aborted = state.stage == Stage::Aborted;
    let previous_ended_at = previous_ended_at(state);
    let releasing = matches!(state.stage, Stage::Progressing | Stage::Promoting);
    let revision = state
        .current_revision
        .clone()
        .filter(|_| releasing && case.plan.canary().analysis.is_some());
    let Some(revision) = revision else {
        let look = idle(case, memory);
        let judgement = AnalysisReport::NotConfigured;
        return Judged {
            judgement,
            revision: None,
            look,
            before,
            was_aborted,
            previous_ended_at,
        };
    };
    if let Some(question) = question(case, &revision) {
        case.judge.watch(question);
        memory.judging = true;
    }
    if !memory.judging {
        let judgement = AnalysisReport::Hold {
            cause: "SpecUnusable".to_owned(),
            message: "how to judge this release cannot be read from the spec".to_owned(),
            lower_to: None,
        };
        return Judged {
            judgement,
            revision: Some(revision),
            look: None,
            before,
            was_aborted,
            previous_ended_at,
        };
    }
    let look = case.judge.look(case.rollout.uid(), &revision);
    let judgement = look.judgement.clone();
    Judged {
        judgement,
        revision: Some(revision),
        look: Some(look),
        before,
        was_aborted,
        previous_ended_at,
    }
}

/// Follows the error budget of a Rollout that is not releasing anything.
fn idle(case: &Case<'_>, memory: &mut Memory) -> Option<Look> {
    let state = &case.seen.state;
    let rests = matches!(state.stage, Stage::Stable | Stage::Aborted);
    let revision = state
        .current_revision
        .as_ref()
        .filter(|_| rests && case.plan.canary().analysis.is_some());
    let question = revision.and_then(|revision| question(case, revision));
    let Some(question) = question.filter(|question| !question.analysis.objectives.is_empty())
    else {
        if std::mem::take(&mut memory.judging) {
            case.judge.forget(case.rollout.uid());
        }
        return None;
    };
    let revision = question.revision.clone();
    case.judge.watch(JudgeRequest {
        phase: Phase::Idle,
        weight: Weight::ZERO,
        resume_from: None,
        ..question
    });
    memory.judging = true;
    Some(case.judge.look(case.rollout.uid(), &revision))
}

/// While the spec cannot be read, what was asked before goes on to be judged.
fn question(case: &Case<'_>, revision: &Revision) -> Option<JudgeRequest> {
    let analysis = case.spec?.analysis.clone()?;
    let state = &case.seen.state;
    let key = case.rollout.key();
    let routing = case.plan.routing();
    let set_name = |revision: &Revision| {
        case.seen
            .replica_sets
            .get(revision)
            .map(|set| set.name.clone())
    };
    let own = case
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
    Some(JudgeRequest {
        rollout: RolloutName {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        },
        uid: case.rollout.uid().to_owned(),
        revision: revision.clone(),
        analysis,
        stable_service: routing.map(|routing| routing.stable_service.clone()),
        canary_service: routing.map(|routing| routing.canary_service.clone()),
        rules: rules(case),
        pod_sides: pod_sides(case, revision),
        stable_replica_set: state.stable_revision.as_ref().and_then(set_name),
        canary_replica_set: set_name(revision)
            .unwrap_or_else(|| format!("{}-{revision}", key.name)),
        pods_created_at: case.snapshot.pods_created_at(),
        weight: weight(case.seen, case.plan),
        pace: match &case.plan.canary().pace {
            Pace::Evidence(pace) => Some(*pace),
            Pace::Steps(_) => None,
        },
        proven_at: proven_at(case.plan.canary()),
        phase: phase(case),
        freeze_lifted: state
            .freeze_override
            .as_ref()
            .is_some_and(|lifted| lifted.revision == *revision),
        previous_ended_at: previous_ended_at(state),
        resume_from: own.filter(is_position),
    })
}

/// The rules of all HTTPRoutes that matter to the counters of the two Services.
fn rules(case: &Case<'_>) -> RouteRules {
    let Some(routing) = case.plan.routing() else {
        return RouteRules::default();
    };
    let namespace = &case.rollout.key().namespace;
    let names = service_names(namespace, routing);
    let mut routes = case.world.routes.all();
    routes.retain(|route| route.backends.iter().any(|backend| names.contains(backend)));
    RouteRules::of(routes.iter().map(|route| &route.object), namespace, routing)
}

/// The side of each pod, by its owner.
fn pod_sides(case: &Case<'_>, canary: &Revision) -> BTreeMap<String, Arm> {
    let uid_of = |revision: &Revision| {
        case.snapshot
            .replica_sets
            .get(revision)
            .map(|set| set.identity.uid.as_str())
    };
    let canary = uid_of(canary);
    let stable = case.seen.state.stable_revision.as_ref().and_then(uid_of);
    let side = |owner: Option<&str>| match owner {
        None => None,
        owner if owner == canary => Some(Arm::Canary),
        owner if owner == stable => Some(Arm::Stable),
        Some(_) => None,
    };
    let pods = case.snapshot.pods.iter();
    pods.filter_map(|pod| {
        Some((
            pod.identity.key.name.clone(),
            side(pod.owner_uid.as_deref())?,
        ))
    })
    .collect()
}

/// When the last release ended. While one is under way this identifies the attempt: each abort,
/// promotion and supersession adds to the history.
fn previous_ended_at(state: &State) -> Option<Timestamp> {
    state.history.last().map(|release| release.at)
}

/// The least share of the canary at which something waits until the evidence suffices: there it
/// takes longest.
fn proven_at(canary: &Canary) -> Option<Weight> {
    let steps = match &canary.pace {
        Pace::Evidence(pace) => return Some(pace.max_weight),
        Pace::Steps(steps) => steps,
    };
    let mut weight = Weight::ZERO;
    let mut least = None;
    for step in steps {
        match step {
            Step::SetWeight(set) => weight = *set,
            Step::Require(questions) if questions.objectives.is_empty() => {}
            Step::Analysis(None) | Step::Require(_) if !weight.is_zero() => {
                least = Some(least.map_or(weight, |least: Weight| least.min(weight)));
            }
            _ => {}
        }
    }
    least
}

/// How far the release has come.
fn phase(case: &Case<'_>) -> Phase {
    let state = &case.seen.state;
    let is_watched = state.bake.is_some_and(|watch| watch.ended_at.is_none());
    let is_in_effect = state.weights.verified == Some(state.weights.desired);
    match (state.stage, &case.plan.canary().pace, state.step) {
        (Stage::Promoting, _, _) if is_watched => Phase::AfterPromotion,
        (Stage::Promoting, _, _) => Phase::Promoting,
        (_, Pace::Steps(steps), Some(step)) if step.index >= steps.len() && is_in_effect => {
            Phase::BeforePromotion
        }
        _ => Phase::Release,
    }
}

/// The canary's share as the routes have it now; without a router as it is asked for.
fn weight(seen: &Observed, plan: &Plan) -> Weight {
    if plan.routing().is_none() {
        return seen.state.weights.desired;
    }
    let written = seen
        .routes
        .iter()
        .filter_map(|route| route.canary_weight.as_ref().ok());
    written.max().copied().unwrap_or(Weight::ZERO)
}

impl Judged {
    /// Whether what the judge has said is about the revision that `state` releases.
    fn concerns(&self, state: &State) -> bool {
        self.revision.is_some()
            && self.revision == state.current_revision
            && !self.is_another_attempt(state)
    }

    /// Whether `state` is at another attempt than was judged: an abort and a retry can come in one
    /// reconcile.
    fn is_another_attempt(&self, state: &State) -> bool {
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        matches!(state.stage, Stage::Progressing | Stage::Promoting)
            && second(previous_ended_at(state)) != second(self.previous_ended_at)
    }

    /// Whether what the status says is about this attempt. A second one begins anew: by the old
    /// evidence it would be given up at once.
    fn is_of_before(&self, state: &State) -> bool {
        if (self.was_aborted && state.stage != Stage::Aborted) || self.is_another_attempt(state) {
            return false;
        }
        let of = self
            .before
            .analysis
            .as_ref()
            .map(|analysis| analysis.revision.as_str());
        of.is_some() && of == state.current_revision.as_ref().map(Revision::as_str)
    }

    /// The evidence for the status; that of a release which has ended stays to be read until the
    /// next one begins.
    pub(super) fn evidence(&self, state: &State) -> Vec<EvidenceStatus> {
        let looked = self
            .look
            .as_ref()
            .filter(|_| self.concerns(state))
            .map(|look| look.evidence.clone());
        let looked = looked.filter(|evidence| !evidence.is_empty());
        looked.unwrap_or_else(|| {
            if self.is_of_before(state) {
                self.before.evidence.clone()
            } else {
                Vec::new()
            }
        })
    }

    /// How the error budgets stand, for the status; what was known stays until more is known.
    pub(super) fn budgets(&self, plan: &Plan) -> Vec<BudgetStatus> {
        if plan.canary().analysis.is_none() {
            return Vec::new();
        }
        let looked = self
            .look
            .as_ref()
            .map(|look| look.budgets.clone())
            .filter(|budgets| !budgets.is_empty());
        looked.unwrap_or_else(|| self.before.budgets.clone())
    }

    /// That a release can hardly be judged with the traffic that was seen, where the status does
    /// not say so yet.
    pub(super) fn infeasible(&self, plan: &Plan) -> Option<Reason> {
        let why = |budgets: &[BudgetStatus]| {
            let why: Vec<String> = budgets
                .iter()
                .filter_map(|budget| budget.infeasible.clone())
                .collect();
            (!why.is_empty()).then(|| why.join(" "))
        };
        let message = why(&self.budgets(plan)).filter(|_| why(&self.before.budgets).is_none())?;
        Some(Reason {
            code: "NotFeasible",
            message,
            level: Level::Warning,
        })
    }

    /// What the checks say, for the status, as long as the evidence.
    pub(super) fn checks(&self, state: &State) -> Vec<CheckStatus> {
        let looked = self
            .look
            .as_ref()
            .filter(|_| self.concerns(state))
            .map(|look| look.checks.clone());
        let looked = looked.filter(|checks| !checks.is_empty());
        looked.unwrap_or_else(|| {
            if self.is_of_before(state) {
                self.before.checks.clone()
            } else {
                Vec::new()
            }
        })
    }

    /// The evidence in a few words.
    pub(super) fn summary(&self, state: &State) -> Option<String> {
        let looked = self
            .look
            .as_ref()
            .filter(|_| self.concerns(state))
            .and_then(|look| look.summary.clone());
        let before = || {
            self.before
                .summary
                .as_ref()
                .filter(|_| self.is_of_before(state))?
                .evidence
                .clone()
        };
        looked.or_else(before)
    }

    /// The analysis' own position. It is begun with the release, so that a restarted controller
    /// knows from when to count.
    pub(super) fn analysis(
        &self,
        state: &State,
        plan: &Plan,
        now: Timestamp,
    ) -> Option<AnalysisStatus> {
        let looked = self
            .look
            .as_ref()
            .filter(|_| self.concerns(state))
            .and_then(|look| look.checkpoint.clone());
        let before = || {
            self.before
                .analysis
                .clone()
                .filter(|_| self.is_of_before(state))
        };
        let begun = || {
            let releasing = matches!(state.stage, Stage::Progressing | Stage::Promoting);
            let revision = state
                .current_revision
                .as_ref()
                .filter(|_| releasing && plan.canary().analysis.is_some())?;
            Some(AnalysisStatus {
                revision: revision.as_str().to_owned(),
                started_at: now,
                checkpoint: Value::Object(serde_json::Map::new()),
            })
        };
        looked.or_else(before).or_else(begun)
    }
}
