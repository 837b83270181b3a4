//! Growth during a release: where `replicas` is raised, the canary grows no faster than the stable
//! revision does.
//!
//! Otherwise a canary whose pods start first would be all that serves for a moment, above all after
//! a scale to zero.

use crate::context::{Context, Transition};
use crate::state::State;
use crate::target;
use crate::units::saturating_add;

/// Ends the growth once the stable revision has its pods. A stable revision that never gets them
/// holds the canary up to the progress deadline only, so that a broken one can still be replaced.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition) {
    let Some(since) = transition.state.growing_since else {
        return;
    };
    let has_its_pods =
        stable_available(cx, &transition.state) >= target::stable_pods(cx, &transition.state);
    if has_its_pods || saturating_add(since, cx.plan.progress_deadline) <= cx.now {
        transition.state.growing_since = None;
    }
}

/// The canary pods to ask for instead of `wanted`, given that there are `now` of them.
pub(crate) fn limited(cx: &Context<'_>, state: &State, wanted: u32, now: u32) -> u32 {
    let needed = target::stable_pods(cx, state);
    if state.growing_since.is_none() || needed == 0 {
        return wanted;
    }
    let available = stable_available(cx, state).min(needed);
    let proportion = (u64::from(wanted) * u64::from(available)).div_ceil(u64::from(needed));
    wanted.min(u32::try_from(proportion).unwrap_or(wanted).max(now))
}

fn stable_available(cx: &Context<'_>, state: &State) -> u32 {
    let set = state
        .stable_revision
        .as_ref()
        .and_then(|revision| cx.observed.replica_sets.get(revision));
    set.map_or(0, |set| set.available)
}
