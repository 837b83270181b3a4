//! What is asked: a new revision, a return to an old one, an edited plan.

use crate::draft::{Draft, Look, releasing};
use crate::observed::Judgement;
use crate::plan::{Canary, Pace, Plan};
use crate::state::{PauseReason, PlanInForce, ReleaseResult, Stage, State, StepPosition, Watch};
use crate::units::{Revision, Weight};

/// Takes in the spec's revision and plan.
pub(crate) fn take_in(look: &Look<'_>, draft: &mut Draft) {
    draft.state.observed_generation = look.seen.generation;
    // While the spec cannot be used, the plan in force goes on to hold what it holds.
    if look.seen.spec_problem.is_some() {
        return;
    }
    take_in_plan(look, draft);
    let Some(target) = look.seen.target.clone() else {
        return;
    };
    if draft.state.current_revision.as_ref() == Some(&target) {
        return;
    }
    if draft.state.stable_revision.is_none() {
        draft.normal(
            "FirstDeploy",
            format!("revision {target} is the first: it becomes stable when it is available"),
        );
        draft.state.current_revision = Some(target);
        draft.enter(Stage::FirstDeploy, look.now);
        return;
    }
    leave_current(look, draft, &target);
    draft.state.freeze_override = None;
    if draft.state.stable_revision.as_ref() == Some(&target) {
        draft.state.abort = None;
        draft.state.current_revision = Some(target);
        draft.enter(Stage::Stable, look.now);
    } else {
        begin(look, draft, target);
    }
}

/// Ends the release under way, where there is one, in favour of `target`.
fn leave_current(look: &Look<'_>, draft: &mut Draft, target: &Revision) {
    let Some(current) = draft
        .state
        .current_revision
        .clone()
        .filter(|_| releasing(&draft.state))
    else {
        return;
    };
    if draft.state.stable_revision.as_ref() == Some(target) {
        let message = format!("reverted to the stable revision {target}");
        draft.warning(
            "RolledBack",
            format!("revision {current} is given up: {message}"),
        );
        draft.record(current, ReleaseResult::Aborted, look.now, message);
    } else {
        let message = format!("superseded by revision {target}");
        draft.normal("Superseded", format!("revision {current} is {message}"));
        draft.record(current, ReleaseResult::Superseded, look.now, message);
    }
}

/// Starts the release of `target` from its first step.
pub(crate) fn begin(look: &Look<'_>, draft: &mut Draft, target: Revision) {
    draft.state.abort = None;
    draft.state.freeze_override = None;
    draft.enter(Stage::Stepping, look.now);
    draft.state.release_started_at = Some(look.now);
    draft.state.growing_since = None;
    draft.state.step = None;
    draft.state.weights.asked = Weight::ZERO;
    draft.state.weights.cap = None;
    draft.state.current_revision = Some(target.clone());
    match shortcut(look, &draft.state, &target) {
        Some(Shortcut::WithoutTraffic) => {
            let message = "no replicas: promoted without traffic and without analysis";
            draft.warning(
                "PromotedWithoutTraffic",
                format!("revision {target}: {message}"),
            );
            draft.become_stable(look.now, message);
        }
        Some(Shortcut::RollbackWindow) => {
            let how = "a recently promoted revision inside the rollback window: without steps";
            draft.normal("RollbackWindow", format!("revision {target}: {how}"));
            draft.enter(Stage::Promoting, look.now);
        }
        None => {
            draft.normal(
                "ReleaseStarted",
                format!("revision {target}: the canary is being made"),
            );
            draft.state.step = Some(StepPosition {
                index: 0,
                started_at: look.now,
            });
            if let Pace::Evidence(pace) = pace(look.plan) {
                draft.state.weights.asked = pace.first_weight;
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
fn shortcut(look: &Look<'_>, state: &State, target: &Revision) -> Option<Shortcut> {
    let last = last_verdict(state, target);
    if look.plan.paused || last == Some(ReleaseResult::Aborted) {
        return None;
    }
    if look.plan.replicas == 0 {
        let is_frozen = matches!(look.seen.judgement, Judgement::Frozen { .. });
        return (!is_frozen).then_some(Shortcut::WithoutTraffic);
    }
    let was_promoted = last == Some(ReleaseResult::Promoted);
    (was_promoted && in_rollback_window(look, target)).then_some(Shortcut::RollbackWindow)
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
fn in_rollback_window(look: &Look<'_>, target: &Revision) -> bool {
    let mut newest: Vec<_> = look.seen.replica_sets.iter().collect();
    newest.sort_by_key(|(_, set)| std::cmp::Reverse(set.created_at));
    let earlier = newest
        .iter()
        .map(|(revision, _)| *revision)
        .filter(|revision| Some(*revision) != look.seen.state.current_revision.as_ref());
    earlier
        .take(look.plan.rollback_window)
        .any(|revision| revision == target)
}

/// Takes in an edited plan: new steps start anew from a weight that is no higher than today's.
fn take_in_plan(look: &Look<'_>, draft: &mut Draft) {
    let Some(hash) = look.seen.plan_hash.clone() else {
        return;
    };
    let before = draft.state.plan.take();
    let changed_pace = before
        .as_ref()
        .is_some_and(|before| pace(&before.spec) != pace(look.plan));
    draft.state.plan = Some(match &before {
        Some(before) if before.hash == hash => before.clone(),
        _ => PlanInForce {
            hash,
            spec: look.plan.clone(),
        },
    });
    if let Some(before) = &before {
        note_transitions(look, draft, &before.spec);
    }
    if !changed_pace || draft.state.stage != Stage::Stepping {
        return;
    }
    draft.normal(
        "StepsEdited",
        "the steps were edited on the way: they start anew",
    );
    // A person's hold is not undone by an edit.
    let held = draft
        .state
        .pause
        .take()
        .filter(|pause| pause.reason == PauseReason::Command);
    draft.enter(Stage::Stepping, look.now);
    draft.state.pause = held;
    draft.state.step = Some(StepPosition {
        index: 0,
        started_at: look.now,
    });
    match pace(look.plan) {
        // Traffic must not jump up because of an edit: higher than today's is reached from zero, as
        // any release is.
        Pace::Steps(steps) => {
            draft.state.restarting = Canary::weight_at(steps, 0) > draft.state.weights.asked
        }
        Pace::Evidence(pace) => {
            draft.state.weights.asked = draft.state.weights.asked.min(pace.first_weight);
        }
    }
}

/// What an edit of `replicas` or `paused` means for a release under way.
fn note_transitions(look: &Look<'_>, draft: &mut Draft, before: &Plan) {
    if !releasing(&draft.state) && draft.state.stage != Stage::FirstDeploy {
        return;
    }
    let has_pods_again = before.replicas == 0 && look.plan.replicas > 0;
    if has_pods_again || (before.paused && !look.plan.paused) {
        // Nothing could make progress meanwhile.
        draft.start_waiting(look.now);
    }
    if has_pods_again && let Some(watch) = draft.state.watch_under_way() {
        draft.state.watch = Some(Watch {
            since: look.now,
            ..watch
        });
    }
    if draft.state.stage == Stage::Stepping && look.plan.replicas > before.replicas {
        draft.state.growing_since = Some(look.now);
    }
}

fn pace(plan: &Plan) -> &Pace {
    &plan.canary().pace
}
