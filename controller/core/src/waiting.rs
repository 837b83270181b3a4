//! What a stage or step can wait for, and whether it has come.

use jiff::Timestamp;

use crate::draft::Look;
use crate::plan::Questions;
use crate::state::{PauseReason, State};
use crate::units::Weight;
use crate::{approximate, goal, router};

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
pub(crate) fn answered(look: &Look<'_>, state: &State, asked: &Questions) -> Wait {
    let nothing = Questions::default();
    let proven = look
        .seen
        .judgement
        .proven_at(goal::share(look, state))
        .unwrap_or(&nothing);
    match asked.open(proven) {
        None => Wait::Done,
        Some(open) => Wait::Evidence(format!("waiting for {open}")),
    }
}

/// A moment has passed.
pub(crate) fn until(look: &Look<'_>, at: Timestamp) -> Wait {
    if at <= look.now {
        Wait::Done
    } else {
        Wait::Until(at)
    }
}

/// The traffic has been seen to be split so, and the canary has the pods for it.
pub(crate) fn shifted(look: &Look<'_>, state: &State, weight: Weight) -> Wait {
    if look.plan.routing().is_none() {
        let reached = approximate::reached(look, state);
        return if reached {
            Wait::Done
        } else {
            Wait::Progress("waiting for pods".to_owned())
        };
    }
    match available(look, state, goal::carrying_pods(look, state, weight)) {
        Wait::Done => {}
        missing => return missing,
    }
    match router::in_effect_for(look, state.current_revision.as_ref()) {
        Some(effective) if effective == weight => Wait::Done,
        _ => Wait::Progress(router::waiting_for(look)),
    }
}

/// So many pods of the new revision are available.
pub(crate) fn available(look: &Look<'_>, state: &State, needed: u32) -> Wait {
    let set = state
        .current_revision
        .as_ref()
        .and_then(|revision| look.seen.replica_sets.get(revision));
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
pub(crate) fn available_pods(look: &Look<'_>, state: &State) -> u32 {
    let set = state
        .current_revision
        .as_ref()
        .and_then(|revision| look.seen.replica_sets.get(revision));
    set.map_or(0, |set| set.available)
}

/// Whether nothing advances until a person says so.
pub(crate) fn is_held_by_person(look: &Look<'_>, state: &State) -> bool {
    look.plan.paused
        || state
            .pause
            .as_ref()
            .is_some_and(|pause| pause.reason != PauseReason::Step)
}
