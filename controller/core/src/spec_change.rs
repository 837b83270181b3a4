//! Changes of the spec: a new revision, a return to an old one, an edited plan.

use jiff::Timestamp;

use crate::context::{Context, Transition};
use crate::plan::{Canary, Pace, Plan};
use crate::state::{ActivePlan, Bake, PauseReason, ReleaseResult, Stage, State, StepPosition};
use crate::units::{Revision, Weight, saturating_add};
use crate::{guardrail_holds, workload};

/// Applies the spec's revision and plan.
pub(crate) fn apply(cx: &Context<'_>, transition: &mut Transition) {
    transition.state.observed_generation = cx.observed.generation;
    // While the spec cannot be used, the active plan stays in effect.
    if cx.observed.spec_problem.is_some() {
        return;
    }
    apply_plan(cx, transition);
    let Some(target) = cx.observed.target_revision.clone() else {
        return;
    };
    if !workload::is_settled(cx, &transition.state) {
        return;
    }
    workload::inherit_orphans(cx, transition);
    if transition.state.current_revision.as_ref() == Some(&target) {
        return;
    }
    // Nothing new starts with Services or routes of somebody else. A return to stable is no start.
    let is_return = transition.state.stable_revision.as_ref() == Some(&target);
    if !is_return && cx.observed.refusal().is_some() {
        return;
    }
    if guardrail_holds::before_start(cx, &transition.state, &target).is_some() {
        return;
    }
    if transition.state.stable_revision.is_none() {
        transition.normal(
            "FirstDeploy",
            format!("revision {target} is the first: it becomes stable when it is available"),
        );
        transition.state.current_revision = Some(target);
        transition
            .state
            .release_policies
            .clone_from(&cx.observed.policies);
        transition.enter_stage(Stage::FirstDeploy, cx.now);
        guardrail_holds::report_warnings(cx, transition);
        return;
    }
    end_current_release(cx, transition, &target);
    transition.state.freeze_override = None;
    if transition.state.stable_revision.as_ref() == Some(&target) {
        transition.state.abort = None;
        transition.state.current_revision = Some(target);
        transition.enter_stage(Stage::Stable, cx.now);
    } else {
        begin_release(cx, transition, target);
    }
}

/// Lets a release keep its strategy: `plan` gets the strategy and the exposure of the active plan if
/// the spec has changed from canary to blue/green or back. Returns whether it did.
///
/// The traffic of a release is where its own strategy put it, so that only this strategy can move
/// it safely. The change counts as soon as no release is in progress and, after an abort or a return
/// to the stable revision, the traffic is seen to have returned. Until then a router that was removed
/// from either strategy is kept as well. A route that is never seen to return the traffic delays the
/// change no longer than the progress deadline.
pub fn keep_strategy(plan: &mut Plan, state: &State, now: Timestamp) -> bool {
    let Some(active) = &state.plan else {
        return false;
    };
    let is_other = active.spec.is_blue_green() != plan.is_blue_green();
    let loses_router = active.spec.routing().is_some() && plan.routing().is_none();
    let is_kept = if state.is_releasing() {
        is_other
    } else {
        (is_other || loses_router) && is_returning_traffic(state, now)
    };
    if is_kept {
        plan.strategy.clone_from(&active.spec.strategy);
        plan.exposure.clone_from(&active.spec.exposure);
    }
    is_kept
}

/// Whether traffic returns to the stable revision, after an abort or because the spec has.
fn is_returning_traffic(state: &State, now: Timestamp) -> bool {
    let Some(plan) = &state.plan else {
        return false;
    };
    let since = match state.stage {
        Stage::Aborted => state.abort.as_ref().map(|abort| abort.at),
        Stage::Stable if plan.spec.routing().is_some() => state.stage_since,
        Stage::Stable | Stage::FirstDeploy | Stage::Progressing | Stage::Promoting => None,
    };
    let until = since.map(|since| saturating_add(since, plan.spec.progress_deadline));
    state.weights.verified != Some(state.weights.desired) && until.is_some_and(|until| now < until)
}

/// Ends the release under way, if any, in favor of `target`.
fn end_current_release(cx: &Context<'_>, transition: &mut Transition, target: &Revision) {
    let state = &transition.state;
    let current = state
        .current_revision
        .clone()
        .filter(|_| state.is_releasing());
    let Some(current) = current else { return };
    if state.stable_revision.as_ref() == Some(target) {
        let message = format!("reverted to the stable revision {target}");
        transition.warning(
            "RolledBack",
            format!("revision {current} is aborted: {message}"),
        );
        transition.record_release(current, ReleaseResult::Aborted, cx.now, message);
    } else {
        let message = format!("superseded by revision {target}");
        transition.normal("Superseded", format!("revision {current} is {message}"));
        transition.record_release(current, ReleaseResult::Superseded, cx.now, message);
    }
}

/// Starts the release of `target` from its first step.
pub(crate) fn begin_release(cx: &Context<'_>, transition: &mut Transition, target: Revision) {
    transition.state.abort = None;
    transition.state.freeze_override = None;
    transition.state.release_analysis = None;
    transition
        .state
        .release_policies
        .clone_from(&cx.observed.policies);
    let guardrails = &cx.observed.policy_guardrails;
    transition.state.release_guardrails.clone_from(guardrails);
    transition.enter_stage(Stage::Progressing, cx.now);
    transition.state.release_started_at = Some(cx.now);
    transition.state.growing_since = None;
    transition.state.step = None;
    transition.state.weights.desired = Weight::ZERO;
    transition.state.weights.cap = None;
    transition.state.current_revision = Some(target.clone());
    guardrail_holds::report_warnings(cx, transition);
    match shortcut(cx, &transition.state, &target) {
        Some(Shortcut::WithoutTraffic) => {
            let message = "no replicas: promoted without traffic and without analysis";
            transition.warning(
                "PromotedWithoutTraffic",
                format!("revision {target}: {message}"),
            );
            transition.become_stable(cx.now, message);
        }
        Some(Shortcut::RollbackWindow) => {
            let message = "promoted recently and inside the rollback window: without steps";
            transition.normal("RollbackWindow", format!("revision {target}: {message}"));
            transition.enter_stage(Stage::Promoting, cx.now);
        }
        None => {
            let what = if cx.plan.is_blue_green() {
                "preview"
            } else {
                "canary"
            };
            transition.normal(
                "ReleaseStarted",
                format!("revision {target}: creating the {what}"),
            );
            transition.state.step = Some(StepPosition {
                index: 0,
                started_at: cx.now,
            });
            if let Pace::Evidence(pace) = pace(cx.plan) {
                transition.state.weights.desired = pace.first_weight;
            }
        }
    }
}

/// Why a release needs no steps.
enum Shortcut {
    /// There is no traffic to shift or to analyze.
    WithoutTraffic,
    /// The revision was promoted recently.
    RollbackWindow,
}

/// Whether the release of `target` skips the steps. A held release never does, nor a revision whose
/// last release was aborted.
fn shortcut(cx: &Context<'_>, state: &State, target: &Revision) -> Option<Shortcut> {
    let last = last_result(state, target);
    if cx.plan.paused || last == Some(ReleaseResult::Aborted) {
        return None;
    }
    if cx.plan.replicas == 0 {
        let report = cx.observed.analysis.as_ref();
        let is_frozen = report.is_some_and(|report| report.freeze().is_some());
        return (!is_frozen).then_some(Shortcut::WithoutTraffic);
    }
    let was_promoted = last == Some(ReleaseResult::Promoted);
    let current = cx.observed.state.current_revision.as_ref();
    let is_recent = was_promoted && is_in_rollback_window(cx, target, current);
    is_recent.then_some(Shortcut::RollbackWindow)
}

/// How the last decided release of this revision ended; a superseded one was not decided.
pub(crate) fn last_result(state: &State, revision: &Revision) -> Option<ReleaseResult> {
    let newest_first = state.history.iter().rev();
    let results = newest_first
        .filter(|release| release.revision == *revision)
        .map(|release| release.result);
    let mut decided = results.filter(|result| *result != ReleaseResult::Superseded);
    decided.next()
}

/// Whether `target` is one of the newest revisions apart from the `current` one, by the age of their
/// ReplicaSets.
pub(crate) fn is_in_rollback_window(
    cx: &Context<'_>,
    target: &Revision,
    current: Option<&Revision>,
) -> bool {
    let mut newest_first: Vec<_> = cx.observed.replica_sets.iter().collect();
    newest_first.sort_by_key(|(_, set)| std::cmp::Reverse(set.created_at));
    let earlier = newest_first
        .iter()
        .map(|(revision, _)| *revision)
        .filter(|revision| Some(*revision) != current);
    earlier
        .take(cx.plan.rollback_window)
        .any(|revision| revision == target)
}

/// Applies an edited plan: new steps start again from a weight that is no higher than today's.
fn apply_plan(cx: &Context<'_>, transition: &mut Transition) {
    let Some(hash) = cx.observed.plan_hash.clone() else {
        return;
    };
    let before = transition.state.plan.take();
    let has_new_pace = before
        .as_ref()
        .is_some_and(|before| pace(&before.spec) != pace(cx.plan));
    transition.state.plan = Some(match &before {
        Some(before) if before.hash == hash => before.clone(),
        _ => ActivePlan {
            hash,
            spec: cx.spec_plan.clone(),
        },
    });
    if let Some(before) = &before {
        record_edits(cx, transition, &before.spec);
    }
    if !has_new_pace || transition.state.stage != Stage::Progressing {
        return;
    }
    transition.normal(
        "StepsEdited",
        "the steps were edited during the release: they start again",
    );
    // An edit does not undo a person's pause.
    let pause = transition.state.pause.take();
    let pause = pause.filter(|pause| pause.reason == PauseReason::Command);
    transition.enter_stage(Stage::Progressing, cx.now);
    transition.state.pause = pause;
    transition.state.step = Some(StepPosition {
        index: 0,
        started_at: cx.now,
    });
    let weights = &mut transition.state.weights;
    match pace(cx.plan) {
        // Traffic must not jump up because of an edit: a higher weight is reached from zero, as in
        // any release.
        Pace::Steps(steps) => {
            transition.state.restarting = Canary::weight_at(steps, 0) > weights.desired;
        }
        Pace::Evidence(pace) => weights.desired = weights.desired.min(pace.first_weight),
    }
}

/// Records what an edit of `replicas` or `paused` means for a release under way.
fn record_edits(cx: &Context<'_>, transition: &mut Transition, before: &Plan) {
    let state = &transition.state;
    if !state.is_releasing() && state.stage != Stage::FirstDeploy {
        return;
    }
    let has_pods_again = before.replicas == 0 && cx.plan.replicas > 0;
    if has_pods_again || (before.paused && !cx.plan.paused) {
        // Nothing could make progress meanwhile.
        transition.restart_deadline(cx.now);
    }
    if has_pods_again && let Some(bake) = transition.state.active_bake() {
        transition.state.bake = Some(Bake {
            since: cx.now,
            ..bake
        });
    }
    if transition.state.stage == Stage::Progressing && cx.plan.replicas > before.replicas {
        transition.state.growing_since = Some(cx.now);
    }
}

fn pace(plan: &Plan) -> &Pace {
    &plan.canary().pace
}
