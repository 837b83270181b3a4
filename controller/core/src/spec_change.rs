//! What is asked: a new revision, a return to an old one, an edited plan.

use crate::context::{Context, Transition, releasing};
use crate::observed::AnalysisReport;
use crate::plan::{Canary, Pace, Plan};
use crate::state::{ActivePlan, Bake, PauseReason, ReleaseResult, Stage, State, StepPosition};
use crate::units::{Revision, Weight};

/// Takes in the spec's revision and plan.
pub(crate) fn take_in(cx: &Context<'_>, transition: &mut Transition) {
    transition.state.observed_generation = cx.observed.generation;
    // While the spec cannot be used, the plan in force goes on to hold what it holds.
    if cx.observed.spec_problem.is_some() {
        return;
    }
    take_in_plan(cx, transition);
    let Some(target) = cx.observed.target_revision.clone() else {
        return;
    };
    if transition.state.current_revision.as_ref() == Some(&target) {
        return;
    }
    if transition.state.stable_revision.is_none() {
        transition.normal(
            "FirstDeploy",
            format!("revision {target} is the first: it becomes stable when it is available"),
        );
        transition.state.current_revision = Some(target);
        transition.enter_stage(Stage::FirstDeploy, cx.now);
        return;
    }
    leave_current(cx, transition, &target);
    transition.state.freeze_override = None;
    if transition.state.stable_revision.as_ref() == Some(&target) {
        transition.state.abort = None;
        transition.state.current_revision = Some(target);
        transition.enter_stage(Stage::Stable, cx.now);
    } else {
        begin(cx, transition, target);
    }
}

/// Ends the release under way, where there is one, in favour of `target`.
fn leave_current(cx: &Context<'_>, transition: &mut Transition, target: &Revision) {
    let Some(current) = transition
        .state
        .current_revision
        .clone()
        .filter(|_| releasing(&transition.state))
    else {
        return;
    };
    if transition.state.stable_revision.as_ref() == Some(target) {
        let message = format!("reverted to the stable revision {target}");
        transition.warning(
            "RolledBack",
            format!("revision {current} is given up: {message}"),
        );
        transition.record(current, ReleaseResult::Aborted, cx.now, message);
    } else {
        let message = format!("superseded by revision {target}");
        transition.normal("Superseded", format!("revision {current} is {message}"));
        transition.record(current, ReleaseResult::Superseded, cx.now, message);
    }
}

/// Starts the release of `target` from its first step.
pub(crate) fn begin(cx: &Context<'_>, transition: &mut Transition, target: Revision) {
    transition.state.abort = None;
    transition.state.freeze_override = None;
    transition.enter_stage(Stage::Progressing, cx.now);
    transition.state.release_started_at = Some(cx.now);
    transition.state.growing_since = None;
    transition.state.step = None;
    transition.state.weights.desired = Weight::ZERO;
    transition.state.weights.cap = None;
    transition.state.current_revision = Some(target.clone());
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
            let how = "a recently promoted revision inside the rollback window: without steps";
            transition.normal("RollbackWindow", format!("revision {target}: {how}"));
            transition.enter_stage(Stage::Promoting, cx.now);
        }
        None => {
            transition.normal(
                "ReleaseStarted",
                format!("revision {target}: the canary is being made"),
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
    /// There is no traffic that could be shifted or judged.
    WithoutTraffic,
    /// The revision was promoted a short while ago.
    RollbackWindow,
}

/// Whether the release of `target` skips the steps. Nothing that is held does, nor a revision that
/// was aborted last time.
fn shortcut(cx: &Context<'_>, state: &State, target: &Revision) -> Option<Shortcut> {
    let last = last_verdict(state, target);
    if cx.plan.paused || last == Some(ReleaseResult::Aborted) {
        return None;
    }
    if cx.plan.replicas == 0 {
        let is_frozen = matches!(cx.observed.analysis, AnalysisReport::Frozen { .. });
        return (!is_frozen).then_some(Shortcut::WithoutTraffic);
    }
    let was_promoted = last == Some(ReleaseResult::Promoted);
    (was_promoted && in_rollback_window(cx, target)).then_some(Shortcut::RollbackWindow)
}

/// How the last release of this revision that was decided ended; one that was superseded was not
/// decided.
fn last_verdict(state: &State, revision: &Revision) -> Option<ReleaseResult> {
    let of_revision = state
        .history
        .iter()
        .rev()
        .filter(|release| release.revision == *revision);
    of_revision
        .map(|release| release.result)
        .find(|result| *result != ReleaseResult::Superseded)
}

/// Whether `target` is one of the newest revisions before the current one, by the age of their
/// ReplicaSets.
fn in_rollback_window(cx: &Context<'_>, target: &Revision) -> bool {
    let mut newest: Vec<_> = cx.observed.replica_sets.iter().collect();
    newest.sort_by_key(|(_, set)| std::cmp::Reverse(set.created_at));
    let earlier = newest
        .iter()
        .map(|(revision, _)| *revision)
        .filter(|revision| Some(*revision) != cx.observed.state.current_revision.as_ref());
    earlier
        .take(cx.plan.rollback_window)
        .any(|revision| revision == target)
}

/// Takes in an edited plan: new steps start anew from a weight that is no higher than today's.
fn take_in_plan(cx: &Context<'_>, transition: &mut Transition) {
    let Some(hash) = cx.observed.plan_hash.clone() else {
        return;
    };
    let before = transition.state.plan.take();
    let changed_pace = before
        .as_ref()
        .is_some_and(|before| pace(&before.spec) != pace(cx.plan));
    transition.state.plan = Some(match &before {
        Some(before) if before.hash == hash => before.clone(),
        _ => ActivePlan {
            hash,
            spec: cx.plan.clone(),
        },
    });
    if let Some(before) = &before {
        note_transitions(cx, transition, &before.spec);
    }
    if !changed_pace || transition.state.stage != Stage::Progressing {
        return;
    }
    transition.normal(
        "StepsEdited",
        "the steps were edited on the way: they start anew",
    );
    // A person's hold is not undone by an edit.
    let held = transition
        .state
        .pause
        .take()
        .filter(|pause| pause.reason == PauseReason::Command);
    transition.enter_stage(Stage::Progressing, cx.now);
    transition.state.pause = held;
    transition.state.step = Some(StepPosition {
        index: 0,
        started_at: cx.now,
    });
    match pace(cx.plan) {
        // Traffic must not jump up because of an edit: higher than today's is reached from zero, as
        // any release is.
        Pace::Steps(steps) => {
            transition.state.restarting =
                Canary::weight_at(steps, 0) > transition.state.weights.desired
        }
        Pace::Evidence(pace) => {
            transition.state.weights.desired =
                transition.state.weights.desired.min(pace.first_weight);
        }
    }
}

/// What an edit of `replicas` or `paused` means for a release under way.
fn note_transitions(cx: &Context<'_>, transition: &mut Transition, before: &Plan) {
    if !releasing(&transition.state) && transition.state.stage != Stage::FirstDeploy {
        return;
    }
    let has_pods_again = before.replicas == 0 && cx.plan.replicas > 0;
    if has_pods_again || (before.paused && !cx.plan.paused) {
        // Nothing could make progress meanwhile.
        transition.start_waiting(cx.now);
    }
    if has_pods_again && let Some(watch) = transition.state.active_bake() {
        transition.state.bake = Some(Bake {
            since: cx.now,
            ..watch
        });
    }
    if transition.state.stage == Stage::Progressing && cx.plan.replicas > before.replicas {
        transition.state.growing_since = Some(cx.now);
    }
}

fn pace(plan: &Plan) -> &Pace {
    &plan.canary().pace
}
