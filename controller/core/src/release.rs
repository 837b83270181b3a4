//! What is asked: a new revision, a return to an old one, an edited plan.

use crate::draft::{Draft, Look, releasing};
use crate::plan::{Canary, Pace, Plan};
use crate::state::{PlanInForce, ReleaseResult, Stage, StepPosition};
use crate::units::{Revision, Weight};

/// Takes in the spec's revision and plan.
pub(crate) fn take_in(look: &Look<'_>, draft: &mut Draft) {
    draft.state.observed_generation = look.seen.generation;
    // While the spec cannot be used, the plan in force goes on to hold what it holds.
    if look.seen.spec_problem.is_some() {
        return;
    }
    take_in_plan(look, draft);
    let Some(target) = look.seen.target.clone() else { return };
    if draft.state.current_revision.as_ref() == Some(&target) {
        return;
    }
    if draft.state.stable_revision.is_none() {
        draft.normal("FirstDeploy", format!("revision {target} is the first: it becomes stable when it is available"));
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
    let Some(current) = draft.state.current_revision.clone().filter(|_| releasing(&draft.state)) else { return };
    if draft.state.stable_revision.as_ref() == Some(target) {
        let message = format!("reverted to the stable revision {target}");
        draft.warning("RolledBack", format!("revision {current} is given up: {message}"));
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
    draft.state.step = None;
    draft.state.weights.asked = Weight::ZERO;
    draft.state.weights.cap = None;
    let skip = if look.plan.replicas == 0 {
        Some("no replicas: promoted without traffic and without analysis")
    } else if in_rollback_window(look, &target) {
        Some("a recent revision inside the rollback window: without steps")
    } else {
        None
    };
    let code = if skip.is_some() { "RollbackWindow" } else { "ReleaseStarted" };
    let how = skip.unwrap_or("the canary is being made");
    draft.normal(code, format!("revision {target}: {how}"));
    if skip.is_some() {
        draft.enter(Stage::Promoting, look.now);
    } else {
        draft.state.step = Some(StepPosition { index: 0, started_at: look.now });
        if let Pace::Evidence(pace) = pace(look.plan) {
            draft.state.weights.asked = pace.first_weight;
        }
    }
    draft.state.current_revision = Some(target);
}

/// Whether `target` is one of the newest revisions before the one at hand, by the age of their ReplicaSets.
fn in_rollback_window(look: &Look<'_>, target: &Revision) -> bool {
    let mut newest: Vec<_> = look.seen.replica_sets.iter().collect();
    newest.sort_by_key(|(_, set)| std::cmp::Reverse(set.created_at));
    let earlier = newest
        .iter()
        .map(|(revision, _)| *revision)
        .filter(|revision| Some(*revision) != look.seen.state.current_revision.as_ref());
    earlier.take(look.plan.rollback_window).any(|revision| revision == target)
}

/// Takes in an edited plan: new steps start anew from a weight that is no higher than today's.
fn take_in_plan(look: &Look<'_>, draft: &mut Draft) {
    let Some(hash) = look.seen.plan_hash.clone() else { return };
    let before = draft.state.plan.take();
    let changed_pace = before.as_ref().is_some_and(|before| pace(&before.spec) != pace(look.plan));
    draft.state.plan = Some(match before {
        Some(before) if before.hash == hash => before,
        _ => PlanInForce { hash, spec: look.plan.clone() },
    });
    if !changed_pace || draft.state.stage != Stage::Stepping {
        return;
    }
    draft.normal("StepsEdited", "the steps were edited on the way: they start anew");
    draft.enter(Stage::Stepping, look.now);
    draft.state.step = Some(StepPosition { index: 0, started_at: look.now });
    match pace(look.plan) {
        // Traffic must not jump up because of an edit: higher than today's is reached from zero, as any release is.
        Pace::Steps(steps) => draft.state.restarting = Canary::weight_at(steps, 0) > draft.state.weights.asked,
        Pace::Evidence(pace) => {
            draft.state.weights.asked = draft.state.weights.asked.min(pace.first_weight);
        }
    }
}

fn pace(plan: &Plan) -> &Pace {
    &plan.canary().pace
}
