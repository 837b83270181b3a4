//! What a stage or step can wait for, and whether it has come.

use jiff::Timestamp;

use crate::context::Context;
use crate::plan::Requirements;
use crate::state::{PauseReason, State};
use crate::units::Weight;
use crate::{replica_ratio, route_state, target};

/// What a stage or step waits for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wait {
    /// Nothing: its effect has been observed.
    Done,
    /// Pods or the router: bounded by the progress deadline.
    Progress(String),
    /// A time.
    Until(Timestamp),
    /// A person.
    Person,
    /// The metrics: bounded by the longest duration of the analysis.
    Evidence(String),
    /// The evidence permits a higher weight.
    Raise(Weight),
    /// Somebody to raise `replicas` from 0: there are no pods to move traffic to, and the position
    /// is kept.
    Replicas,
}

/// What is asked suffices at the weight at hand.
pub(crate) fn answered(cx: &Context<'_>, state: &State, asked: &Requirements) -> Wait {
    let nothing = Requirements::default();
    let proven = cx
        .observed
        .analysis
        .satisfied_at(target::share(cx, state))
        .unwrap_or(&nothing);
    match asked.unmet(proven) {
        None => Wait::Done,
        Some(open) => Wait::Evidence(format!("waiting for {open}")),
    }
}

/// A moment has passed.
pub(crate) fn until(cx: &Context<'_>, at: Timestamp) -> Wait {
    if at <= cx.now {
        Wait::Done
    } else {
        Wait::Until(at)
    }
}

/// The traffic has been seen to be split so, and the canary has the pods for it.
pub(crate) fn shifted(cx: &Context<'_>, state: &State, weight: Weight) -> Wait {
    if cx.plan.routing().is_none() {
        let reached = replica_ratio::reached(cx, state);
        return if reached {
            Wait::Done
        } else {
            Wait::Progress("waiting for pods".to_owned())
        };
    }
    match available(cx, state, target::carrying_pods(cx, state, weight)) {
        Wait::Done => {}
        missing => return missing,
    }
    match route_state::in_effect_for(cx, state.current_revision.as_ref()) {
        Some(effective) if effective == weight => Wait::Done,
        _ => Wait::Progress(route_state::waiting_for(cx)),
    }
}

/// So many pods of the new revision are available.
pub(crate) fn available(cx: &Context<'_>, state: &State, needed: u32) -> Wait {
    let set = state
        .current_revision
        .as_ref()
        .and_then(|revision| cx.observed.replica_sets.get(revision));
    let (available, desired) = set.map_or((0, 0), |set| (set.available, set.desired));
    if set.is_some() && available >= needed && desired >= needed {
        return Wait::Done;
    }
    let why = set
        .and_then(|set| set.crash.as_deref())
        .map(|why| format!(" ({why})"))
        .unwrap_or_default();
    Wait::Progress(format!(
        "waiting for {needed} available pods of the new revision{why}"
    ))
}

/// The available pods of the new revision.
pub(crate) fn available_pods(cx: &Context<'_>, state: &State) -> u32 {
    let set = state
        .current_revision
        .as_ref()
        .and_then(|revision| cx.observed.replica_sets.get(revision));
    set.map_or(0, |set| set.available)
}

/// Whether nothing advances until a person says so.
pub(crate) fn is_held_by_person(cx: &Context<'_>, state: &State) -> bool {
    cx.plan.paused
        || state
            .pause
            .as_ref()
            .is_some_and(|pause| pause.reason != PauseReason::Step)
}
