//! Growth during a release: if `replicas` is raised, the canary grows no faster than stable does.
//!
//! Otherwise a canary whose pods start first would serve alone for a moment, above all after a scale
//! to zero.

use crate::context::{Context, Transition};
use crate::state::State;
use crate::target::Target;
use crate::units::saturating_add;

/// Ends the growth once stable has its pods. A stable revision that never gets them holds the canary
/// up to the progress deadline only, so that a broken one can still be replaced.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition, target: &Target) {
    let Some(since) = transition.state.growing_since else {
        return;
    };
    let stable = Stable::observe(cx, &transition.state, target);
    let deadline = saturating_add(since, cx.plan.progress_deadline);
    if stable.available >= stable.needed || cx.reached(deadline) {
        transition.state.growing_since = None;
    }
}

/// Limits the canary's pods to stable's growth, given that the canary has `current` of them.
pub(crate) fn limit(
    cx: &Context<'_>,
    state: &State,
    target: &Target,
    wanted: u32,
    current: u32,
) -> u32 {
    let stable = Stable::observe(cx, state, target);
    if state.growing_since.is_none() || stable.needed == 0 {
        return wanted;
    }
    let available = stable.available.min(stable.needed);
    let proportion = (u64::from(wanted) * u64::from(available)).div_ceil(u64::from(stable.needed));
    wanted.min(u32::try_from(proportion).unwrap_or(wanted).max(current))
}

struct Stable {
    available: u32,
    needed: u32,
}

impl Stable {
    fn observe(cx: &Context<'_>, state: &State, target: &Target) -> Self {
        let revision = state.stable_revision.as_ref();
        let set = revision.and_then(|revision| cx.observed.replica_sets.get(revision));
        let pods = revision.and_then(|revision| target.pods.get(revision));
        Self {
            available: set.map_or(0, |set| set.available),
            needed: pods.map_or(0, |pods| pods.count),
        }
    }
}
