//! The traffic split: what the release asks for, what the pods can carry, and what the router is
//! seen to do.

use crate::draft::{Draft, Look};
use crate::effect::Effect;
use crate::state::{Stage, State};
use crate::units::{Revision, Weight, after};
use crate::{approximate, goal, router, services};

/// The share that the routes shall give the canary now: the goal, cut to what either side has
/// available pods for.
pub(crate) fn split(look: &Look<'_>, state: &State) -> Weight {
    let goal = goal::share(look, state);
    let current = router::written(look);
    let carried = canary_carries(look, state, goal, current);
    // Up in one move, once all its pods are there; down at once, as far as pods are missing.
    let wanted = if carried >= goal {
        goal
    } else {
        carried.min(current)
    };
    // What stable cannot carry stays with a canary that can.
    let stuck = stable_carries(look, state)
        .rest()
        .min(stuck_bound(look, state, current));
    let share = wanted.max(stuck);
    // Only a release raises the canary's share: after an abort it never rises again.
    match state.stage {
        Stage::Stepping | Stage::Promoting => share,
        Stage::FirstDeploy | Stage::Aborted | Stage::Stable => share.min(current),
    }
}

fn canary_carries(look: &Look<'_>, state: &State, share: Weight, current: Weight) -> Weight {
    let (Some(service), Some(routing), Some(revision)) = (
        &look.seen.canary_service,
        look.plan.routing(),
        &state.current_revision,
    ) else {
        return Weight::ZERO;
    };
    // The router must have seen the first endpoints before it is sent the first request.
    let settled = service
        .serving_since
        .is_some_and(|since| after(since, routing.settle) <= look.now);
    if service.selects.as_ref() != Some(revision) || (current.is_zero() && !settled) {
        return Weight::ZERO;
    }
    let pods = available(look, revision).min(service.ready);
    share.carried_by(pods, goal::carrying_pods(look, state, share))
}

/// How much of what stable cannot carry may be with the canary side: what the pods behind its
/// Service can carry, and no more than today where those are not of the revision that is being
/// released.
fn stuck_bound(look: &Look<'_>, state: &State, current: Weight) -> Weight {
    let Some(service) = &look.seen.canary_service else {
        return Weight::ZERO;
    };
    let pods = service
        .selects
        .as_ref()
        .map_or(0, |revision| available(look, revision))
        .min(service.ready);
    let carried = Weight::FULL.carried_by(pods, look.plan.replicas);
    if service.selects == state.current_revision {
        carried
    } else {
        carried.min(current)
    }
}

fn stable_carries(look: &Look<'_>, state: &State) -> Weight {
    let Some(service) = &look.seen.stable_service else {
        return Weight::FULL;
    };
    let Some(revision) = services::stable_side(look, state) else {
        return Weight::FULL;
    };
    let pods = match state.stage {
        // There is nothing else to send it to.
        Stage::FirstDeploy => return Weight::FULL,
        _ if service.selects.as_ref() == Some(&revision) => {
            available(look, &revision).min(service.ready)
        }
        // Someone else changed the selector; it is put back at once, which is no reason to raise
        // the canary.
        Stage::Stepping => available(look, &revision),
        Stage::Promoting | Stage::Aborted | Stage::Stable => 0,
    };
    let needed = if look.plan.canary().dynamic_stable_scale {
        look.plan.replicas
    } else {
        1
    };
    Weight::FULL.carried_by(pods, needed)
}

fn available(look: &Look<'_>, revision: &Revision) -> u32 {
    look.seen
        .replica_sets
        .get(revision)
        .map_or(0, |set| set.available)
}

/// Notes in the state what is asked for and what has been seen.
pub(crate) fn note_weights(look: &Look<'_>, draft: &mut Draft) {
    let asked = goal::share(look, &draft.state);
    let before = look.seen.state.weights;
    let weights = &mut draft.state.weights;
    if before.asked != asked {
        weights.asked = asked;
        weights.verified = None;
        weights.since = Some(look.now);
        weights.pods = None;
    }
    let seen = match look.plan.routing() {
        Some(_) => router::in_effect_for(look, draft.state.current_revision.as_ref()),
        None => approximate::reached(look, &draft.state).then_some(asked),
    };
    let needed = goal::canary_pods(look, &draft.state, asked);
    let has_them = draft
        .state
        .current_revision
        .as_ref()
        .is_some_and(|revision| available(look, revision) >= needed);
    let weights = &mut draft.state.weights;
    if seen == Some(asked) && has_them && !asked.is_zero() {
        weights.pods = Some(needed);
    }
    if seen == Some(asked) && weights.verified != Some(asked) {
        weights.verified = Some(asked);
        weights.since = Some(look.now);
        return;
    }
    let moved = look
        .seen
        .routes
        .iter()
        .find(|route| matches!(&route.canary_weight, Ok(weight) if *weight != asked));
    if let Some(route) = moved
        && weights.verified == Some(asked)
    {
        weights.verified = None;
        weights.since = Some(look.now);
        if split(look, &draft.state) == asked {
            let found = router::written(look);
            let name = &route.route.name;
            draft.warning(
                "RouteDrift",
                format!("route {name} was changed to {found}: it is put back to {asked}"),
            );
        }
    }
}

/// What the routes must say.
pub(crate) fn effects(look: &Look<'_>, state: &State) -> Vec<Effect> {
    if look.plan.routing().is_none() || services::not_yet_bound(look) {
        return Vec::new();
    }
    let share = split(look, state);
    let changed = look
        .seen
        .routes
        .iter()
        .filter(|route| matches!(route.canary_weight, Ok(weight) if weight != share));
    changed
        .map(|route| Effect::SetWeight {
            route: route.route.clone(),
            canary: share,
        })
        .collect()
}
