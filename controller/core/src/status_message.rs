//! The phase and the sentence that people read.
//!
//! A sentence changes when the position changes, not with every pod: each change costs a write.

use crate::blockers::Wait;
use crate::context::{Context, Transition, releasing};
use crate::state::{PauseReason, Phase, Stage, State};
use crate::units::Weight;
use crate::{progress, route_state, steps, target};

/// Sets the phase and the message.
pub(crate) fn tell(cx: &Context<'_>, transition: &mut Transition) {
    let (phase, message) = of(cx, &transition.state);
    transition.state.phase = phase;
    transition.state.message = message;
}

fn of(cx: &Context<'_>, state: &State) -> (Phase, String) {
    let (phase, message) = match state.stage {
        Stage::FirstDeploy => first_deploy(cx, state),
        Stage::Progressing => stepping(cx, state),
        Stage::Promoting => {
            let what = if state.active_bake().is_some() {
                "watched at 100 %"
            } else {
                "going to 100 %"
            };
            (Phase::Progressing, with_wait(what, &steps::wait(cx, state)))
        }
        Stage::Aborted => aborted(state),
        Stage::Stable => stable(cx, state),
    };
    let is_at_zero = cx.plan.replicas == 0 && releasing(state);
    let message = if is_at_zero {
        format!("{message}; scaled to 0: the position is kept until replicas is raised")
    } else {
        message
    };
    let message = match &state.freeze_override {
        Some(lifted) if matches!(state.stage, Stage::Progressing | Stage::Promoting) => {
            let by = lifted
                .by
                .as_deref()
                .map(|by| format!(" by {by}"))
                .unwrap_or_default();
            format!("{message}; the freeze was lifted{by}: {}", lifted.reason)
        }
        _ => message,
    };
    match &cx.observed.spec_problem {
        Some(problem) => (
            Phase::Degraded,
            format!("the spec cannot be used: {problem}; meanwhile: {message}"),
        ),
        None => (phase, message),
    }
}

fn first_deploy(cx: &Context<'_>, state: &State) -> (Phase, String) {
    let waiting = with_wait("first deploy", &steps::wait(cx, state));
    let overdue = progress::overdue_at(cx, state).is_some_and(|at| at <= cx.now);
    if overdue {
        return (
            Phase::Degraded,
            format!("{waiting}: longer than the progress deadline"),
        );
    }
    (Phase::Progressing, waiting)
}

fn stepping(cx: &Context<'_>, state: &State) -> (Phase, String) {
    let total = cx.plan.steps().len();
    let index = state.step.map_or(0, |step| step.index);
    let mut at = match steps::current(cx.plan, state) {
        Some(step) => format!("step {} of {total} ({})", index + 1, steps::name(step)),
        None if total > 0 => format!("all {total} steps are complete"),
        None => format!("at {}, paced by evidence", state.weights.desired),
    };
    if let Some(cap) = state
        .weights
        .cap
        .filter(|cap| *cap < target::planned(cx, state))
    {
        at = format!("{at}, cut to {cap}");
    }
    if cx.plan.paused {
        return (Phase::Paused, format!("{at}: spec.paused is true"));
    }
    let wait = steps::wait(cx, state);
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

fn stable(cx: &Context<'_>, state: &State) -> (Phase, String) {
    let set = state
        .stable_revision
        .as_ref()
        .and_then(|revision| cx.observed.replica_sets.get(revision));
    let available = set.map_or(0, |set| set.available);
    let complete = available >= cx.plan.replicas;
    let route_free =
        cx.plan.routing().is_none() || route_state::in_effect(cx) == Some(Weight::ZERO);
    if available == 0 && cx.plan.replicas > 0 {
        return (
            Phase::Degraded,
            "no pod of the stable revision is available".to_owned(),
        );
    }
    // Pods that come and go do not undo what was completed; the Available condition tells of them.
    let was_healthy =
        cx.observed.state.phase == Phase::Healthy && cx.observed.state.stage == Stage::Stable;
    if was_healthy || (complete && route_free) {
        return (Phase::Healthy, "the revision is stable".to_owned());
    }
    let what = match route_state::unreadable(cx) {
        Some(why) => why,
        None if complete => "the route is on its way back to stable".to_owned(),
        None => "waiting for pods".to_owned(),
    };
    (
        Phase::Progressing,
        format!("the revision is stable; {what}"),
    )
}
