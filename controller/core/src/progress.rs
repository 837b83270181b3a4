//! Progress toward what the release waits for. The progress deadline counts from the last progress.
//!
//! Progress is a new highest count: of available pods at this step, then of what the router and the
//! Services have taken over. A pod that comes and goes reaches no new highest count, so flapping
//! renews nothing. What was reached once and is disturbed later (a replaced pod, a route that is
//! confirmed again) has the whole deadline again, counted from the disturbance; disturbances that
//! follow each other without a steady time between them count as one.

use std::time::Duration;

use jiff::Timestamp;

use crate::baseline;
use crate::context::{Context, Transition};
use crate::converge::{bindings, replica_ratio};
use crate::hold::Hold;
use crate::holds::Holds;
use crate::route_state;
use crate::state::{Progress, Stage, State};
use crate::target;
use crate::units::{Weight, saturating_add};

/// What holds for this long is steady: a later disturbance is a new one.
const STEADY: Duration = Duration::from_secs(60);

/// Records what has been reached.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition, holds: &Holds) {
    let state = &transition.state;
    if !state.is_releasing() && state.stage != Stage::FirstDeploy {
        return;
    }
    // A status that an earlier version wrote has none.
    let before = state.progress.unwrap_or(Progress::start(cx.now));
    let is_waiting = holds
        .position()
        .is_some_and(Hold::is_bounded_by_progress_deadline);
    let reached = Some(measure(cx, state));
    // The times below are no deadlines: nothing becomes true by their passing alone.
    let has_passed = |start, duration| saturating_add(start, duration) <= cx.now;
    let deadline = cx.plan.progress_deadline;
    let is_renewal = reached > before.reached && has_passed(before.at, deadline / 10);
    transition.state.progress = Some(match (is_waiting, before.complete_since) {
        (false, None) => Progress {
            complete_since: Some(cx.now),
            ..before
        },
        (true, Some(since)) => {
            let is_new = has_passed(since, STEADY.min(deadline));
            Progress {
                at: if is_new { cx.now } else { before.at },
                reached,
                complete_since: None,
            }
        }
        // The starting point is no progress.
        (true, None) if before.reached.is_none() => Progress { reached, ..before },
        // A renewal soon after the last one moves the deadline by next to nothing and is not worth
        // a write.
        (true, None) if is_renewal => Progress {
            at: cx.now,
            reached,
            complete_since: None,
        },
        (true, None) | (false, Some(_)) => before,
    });
}

/// When what the release waits for becomes overdue; `None` if nothing is awaited since it was
/// reached.
pub(crate) fn overdue_at(cx: &Context<'_>, state: &State) -> Option<Timestamp> {
    let progress = state
        .progress
        .filter(|progress| progress.complete_since.is_none())?;
    Some(saturating_add(progress.at, cx.plan.progress_deadline))
}

/// How far the release has come toward what it waits for. Comparable within one step only.
fn measure(cx: &Context<'_>, state: &State) -> i64 {
    let target = target::target(cx, state);
    if cx.plan.splits_by_pods() {
        return replica_ratio::pods_in_place(cx, &target);
    }
    let Some(current) = state.current_revision.as_ref() else {
        return 0;
    };
    let needed = target.pods.get(current).map_or(0, |pods| pods.count);
    let set = cx.observed.replica_sets.get(current);
    let available = set.map_or(0, |set| set.available).min(needed);
    let is_routed = target.share > Weight::ZERO
        && route_state::in_effect_for(cx, Some(current)) == Some(target.share);
    let service = cx.observed.stable_service.as_ref();
    let is_selected = target.is_cutover
        && service.is_some_and(|service| service.selects.as_ref() == Some(current));
    let serves = target.is_cutover && bindings::stable_serves(cx, Some(current));
    let pods = i64::from(available) + i64::from(baseline::available(cx, state));
    pods + i64::from(is_routed) + i64::from(is_selected) + i64::from(serves)
}
