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

use crate::draft::{Draft, Look, releasing};
use crate::state::{Progress, Stage, State};
use crate::units::{Weight, after};
use crate::waiting::Wait;
use crate::{approximate, goal, router, services, steps, waiting};

/// What holds for this long is steady: a later disturbance is a new one.
const STEADY: Duration = Duration::from_secs(60);

/// Records what has been reached.
pub(crate) fn record(look: &Look<'_>, draft: &mut Draft) {
    if !releasing(&draft.state) && draft.state.stage != Stage::FirstDeploy {
        return;
    }
    // A status that an earlier version wrote has none.
    let before = *draft
        .state
        .progress
        .get_or_insert(Progress::start(look.now));
    let deadline = look.plan.progress_deadline;
    let waits = matches!(steps::wait(look, &draft.state), Wait::Progress(_));
    let reached = Some(measure(look, &draft.state));
    let is_renewal = reached > before.reached && after(before.at, deadline / 10) <= look.now;
    draft.state.progress = Some(match (waits, before.complete_since) {
        (false, None) => Progress {
            complete_since: Some(look.now),
            ..before
        },
        (true, Some(since)) => {
            let is_new = after(since, STEADY.min(deadline)) <= look.now;
            Progress {
                at: if is_new { look.now } else { before.at },
                reached,
                complete_since: None,
            }
        }
        // Where it starts from is no progress.
        (true, None) if before.reached.is_none() => Progress { reached, ..before },
        // A renewal soon after the last one moves the deadline by next to nothing and is not worth
        // a write.
        (true, None) if is_renewal => Progress {
            at: look.now,
            reached,
            complete_since: None,
        },
        (true, None) | (false, Some(_)) => before,
    });
}

/// When what the release waits for becomes overdue; `None` if nothing is awaited since it was
/// reached.
pub(crate) fn overdue_at(look: &Look<'_>, state: &State) -> Option<Timestamp> {
    let progress = state
        .progress
        .filter(|progress| progress.complete_since.is_none())?;
    Some(after(progress.at, look.plan.progress_deadline))
}

/// How far the release has come toward what it waits for. Comparable within one goal only.
fn measure(look: &Look<'_>, state: &State) -> i64 {
    if look.plan.routing().is_none() {
        return approximate::in_place(look, state);
    }
    let share = goal::share(look, state);
    let needed = match state.stage {
        Stage::FirstDeploy | Stage::Promoting => look.plan.replicas,
        Stage::Stepping | Stage::Aborted | Stage::Stable => goal::canary_pods(look, state, share),
    };
    let current = state.current_revision.as_ref();
    let pods = waiting::available_pods(look, state).min(needed);
    let is_routed = router::in_effect_for(look, current) == Some(share) && share > Weight::ZERO;
    let is_selected = state.stage == Stage::Promoting
        && look
            .seen
            .stable_service
            .as_ref()
            .is_some_and(|service| service.selects.as_ref() == current);
    let serves = state.stage == Stage::Promoting && services::stable_serves(look, current);
    i64::from(pods) + i64::from(is_routed) + i64::from(is_selected) + i64::from(serves)
}
