//! The phase and the sentence that people read.
//!
//! A sentence changes when the position changes, not with every pod: each change costs a write.

use crate::draft::{Draft, Look, releasing};
use crate::state::{PauseReason, Phase, Stage, State};
use crate::units::Weight;
use crate::waiting::Wait;
use crate::{goal, progress, router, steps};

/// Sets the phase and the message.
pub(crate) fn tell(look: &Look<'_>, draft: &mut Draft) {
    let (phase, message) = of(look, &draft.state);
    draft.state.phase = phase;
    draft.state.message = message;
}

fn of(look: &Look<'_>, state: &State) -> (Phase, String) {
    let (phase, message) = match state.stage {
        Stage::FirstDeploy => first_deploy(look, state),
        Stage::Stepping => stepping(look, state),
        Stage::Promoting => {
            let what = if state.watch_under_way().is_some() {
                "watched at 100 %"
            } else {
                "going to 100 %"
            };
            (
                Phase::Progressing,
                with_wait(what, &steps::wait(look, state)),
            )
        }
        Stage::Aborted => aborted(state),
        Stage::Stable => stable(look, state),
    };
    let is_at_zero = look.plan.replicas == 0 && releasing(state);
    let message = if is_at_zero {
        format!("{message}; scaled to 0: the position is kept until replicas is raised")
    } else {
        message
    };
    let message = match &state.freeze_override {
        Some(lifted) if matches!(state.stage, Stage::Stepping | Stage::Promoting) => {
            let by = lifted
                .by
                .as_deref()
                .map(|by| format!(" by {by}"))
                .unwrap_or_default();
            format!("{message}; the freeze was lifted{by}: {}", lifted.reason)
        }
        _ => message,
    };
    match &look.seen.spec_problem {
        Some(problem) => (
            Phase::Degraded,
            format!("the spec cannot be used: {problem}; meanwhile: {message}"),
        ),
        None => (phase, message),
    }
}

fn first_deploy(look: &Look<'_>, state: &State) -> (Phase, String) {
    let waiting = with_wait("first deploy", &steps::wait(look, state));
    let overdue = progress::overdue_at(look, state).is_some_and(|at| at <= look.now);
    if overdue {
        return (
            Phase::Degraded,
            format!("{waiting}: longer than the progress deadline"),
        );
    }
    (Phase::Progressing, waiting)
}

fn stepping(look: &Look<'_>, state: &State) -> (Phase, String) {
    let total = look.plan.steps().len();
    let index = state.step.map_or(0, |step| step.index);
    let mut at = match steps::current(look.plan, state) {
        Some(step) => format!("step {} of {total} ({})", index + 1, steps::name(step)),
        None if total > 0 => format!("all {total} steps are complete"),
        None => format!("at {}, paced by evidence", state.weights.asked),
    };
    if let Some(cap) = state
        .weights
        .cap
        .filter(|cap| *cap < goal::planned(look, state))
    {
        at = format!("{at}, cut to {cap}");
    }
    if look.plan.paused {
        return (Phase::Paused, format!("{at}: spec.paused is true"));
    }
    let wait = steps::wait(look, state);
    match state
        .pause
        .as_ref()
        .map(|pause| (pause.reason, pause.until))
    {
        Some((PauseReason::Command, _)) => (
            Phase::Paused,
            format!("{at}: paused by a command, until resume"),
        ),
        Some((PauseReason::Inconclusive, _)) => (
            Phase::Paused,
            format!("{at}: the analysis is inconclusive; promote or abort"),
        ),
        Some((PauseReason::Step, Some(until))) => (Phase::Paused, format!("{at}: until {until}")),
        Some((PauseReason::Step, None)) => (Phase::Paused, format!("{at}: until promoted")),
        None => (Phase::Progressing, with_wait(&at, &wait)),
    }
}

fn with_wait(at: &str, wait: &Wait) -> String {
    match wait {
        Wait::Progress(what) | Wait::Evidence(what) => format!("{at}: {what}"),
        Wait::Until(time) => format!("{at}: until {time}"),
        Wait::Done | Wait::Person | Wait::Raise(_) | Wait::Replicas => at.to_owned(),
    }
}

fn aborted(state: &State) -> (Phase, String) {
    // Evidence speaks in whole sentences, other causes do not.
    let why = state
        .abort
        .as_ref()
        .map_or("given up", |abort| abort.message.trim_end_matches('.'));
    let wanted = state
        .current_revision
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let stable = state
        .stable_revision
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let message = format!(
        "{why}. Stable {stable} serves; the spec still asks for {wanted}, which was given up: declare another revision, or retry"
    );
    (Phase::Degraded, message)
}

fn stable(look: &Look<'_>, state: &State) -> (Phase, String) {
    let set = state
        .stable_revision
        .as_ref()
        .and_then(|revision| look.seen.replica_sets.get(revision));
    let available = set.map_or(0, |set| set.available);
    let complete = available >= look.plan.replicas;
    let route_free = look.plan.routing().is_none() || router::in_effect(look) == Some(Weight::ZERO);
    if available == 0 && look.plan.replicas > 0 {
        return (
            Phase::Degraded,
            "no pod of the stable revision is available".to_owned(),
        );
    }
    // Pods that come and go do not undo what was completed; the Available condition tells of them.
    let was_healthy =
        look.seen.state.phase == Phase::Healthy && look.seen.state.stage == Stage::Stable;
    if was_healthy || (complete && route_free) {
        return (Phase::Healthy, "the revision is stable".to_owned());
    }
    let what = match router::unreadable(look) {
        Some(why) => why,
        None if complete => "the route is on its way back to stable".to_owned(),
        None => "waiting for pods".to_owned(),
    };
    (
        Phase::Progressing,
        format!("the revision is stable; {what}"),
    )
}
