//! Progress toward what the release waits for. The progress deadline counts from the last progress
//! of that very thing.
//!
//! Progress is a new highest count: of available pods at this step, then of what the router and the
//! Services have taken over. A pod that comes and goes reaches no new highest count, so flapping
//! renews nothing. What was reached once and is disturbed later (a replaced pod, a route that is
//! confirmed again) has the whole deadline again, counted from the disturbance; disturbances that
//! follow each other without a steady time between them count as one.

use std::time::Duration;

use jiff::Timestamp;

use crate::blockers::Wait;
use crate::context::{Context, Transition, releasing};
use crate::state::{Progress, Stage, State};
use crate::units::{Weight, saturating_add};
use crate::{blockers, replica_ratio, route_state, services, steps, target};

/// What holds for this long is steady: a later disturbance is a new one.
const STEADY: Duration = Duration::from_secs(60);

/// Records what has been reached.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition) {
    if !releasing(&transition.state) && transition.state.stage != Stage::FirstDeploy {
        return;
    }
    // A status that an earlier version wrote has none.
    let before = *transition
        .state
        .progress
        .get_or_insert(Progress::start(cx.now));
    let deadline = cx.plan.progress_deadline;
    let waits = matches!(steps::wait(cx, &transition.state), Wait::Progress(_));
    let reached = Some(measure(cx, &transition.state));
    let is_renewal = reached > before.reached && saturating_add(before.at, deadline / 10) <= cx.now;
    transition.state.progress = Some(match (waits, before.complete_since) {
        (false, None) => Progress {
            complete_since: Some(cx.now),
            ..before
        },
        (true, Some(since)) => {
            let is_new = saturating_add(since, STEADY.min(deadline)) <= cx.now;
            Progress {
                at: if is_new { cx.now } else { before.at },
                reached,
                complete_since: None,
            }
        }
        // Where it starts from is no progress.
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

/// How far the release has come toward what it waits for. Comparable within one goal only.
fn measure(cx: &Context<'_>, state: &State) -> i64 {
    if cx.plan.routing().is_none() {
        return replica_ratio::in_place(cx, state);
    }
    let share = target::share(cx, state);
    let needed = match state.stage {
        Stage::FirstDeploy | Stage::Promoting => cx.plan.replicas,
        Stage::Progressing | Stage::Aborted | Stage::Stable => {
            target::canary_pods(cx, state, share)
        }
    };
    let current = state.current_revision.as_ref();
    let pods = blockers::available_pods(cx, state).min(needed);
    let is_routed = route_state::in_effect_for(cx, current) == Some(share) && share > Weight::ZERO;
    let is_selected = state.stage == Stage::Promoting
        && cx
            .observed
            .stable_service
            .as_ref()
            .is_some_and(|service| service.selects.as_ref() == current);
    let serves = state.stage == Stage::Promoting && services::stable_serves(cx, current);
    i64::from(pods) + i64::from(is_routed) + i64::from(is_selected) + i64::from(serves)
}
