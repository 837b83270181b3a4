//! The traffic split: what the release asks for, what the pods can carry, and what the router is
//! seen to do.

use crate::context::{Context, Transition};
use crate::effect::Effect;
use crate::state::{Stage, State};
use crate::units::{Revision, Weight, saturating_add};
use crate::{replica_ratio, route_state, services, target};

/// The share that the routes shall give the canary now: the goal, cut to what either side has
/// available pods for.
pub(crate) fn split(cx: &Context<'_>, state: &State) -> Weight {
    let goal = target::share(cx, state);
    let current = route_state::written(cx);
    let carried = canary_carries(cx, state, goal, current);
    // Up in one move, once all its pods are there; down at once, as far as pods are missing.
    let wanted = if carried >= goal {
        goal
    } else {
        carried.min(current)
    };
    // What stable cannot carry stays with a canary that can.
    let stuck = stable_carries(cx, state)
        .complement()
        .min(stuck_bound(cx, state, current));
    let share = wanted.max(stuck);
    // Only a release raises the canary's share: after an abort it never rises again.
    match state.stage {
        Stage::Progressing | Stage::Promoting => share,
        Stage::FirstDeploy | Stage::Aborted | Stage::Stable => share.min(current),
    }
}

fn canary_carries(cx: &Context<'_>, state: &State, share: Weight, current: Weight) -> Weight {
    let (Some(service), Some(routing), Some(revision)) = (
        &cx.observed.canary_service,
        cx.plan.routing(),
        &state.current_revision,
    ) else {
        return Weight::ZERO;
    };
    // The router must have seen the first endpoints before it is sent the first request.
    let settled = service
        .serving_since
        .is_some_and(|since| saturating_add(since, routing.settle) <= cx.now);
    if service.selects.as_ref() != Some(revision) || (current.is_zero() && !settled) {
        return Weight::ZERO;
    }
    let pods = available(cx, revision).min(service.ready);
    share.limited_to_capacity(pods, target::carrying_pods(cx, state, share))
}

/// How much of what stable cannot carry may be with the canary side: what the pods behind its
/// Service can carry, and no more than today where those are not of the revision that is being
/// released.
fn stuck_bound(cx: &Context<'_>, state: &State, current: Weight) -> Weight {
    let Some(service) = &cx.observed.canary_service else {
        return Weight::ZERO;
    };
    let pods = service
        .selects
        .as_ref()
        .map_or(0, |revision| available(cx, revision))
        .min(service.ready);
    let carried = Weight::FULL.limited_to_capacity(pods, cx.plan.replicas);
    if service.selects == state.current_revision {
        carried
    } else {
        carried.min(current)
    }
}

fn stable_carries(cx: &Context<'_>, state: &State) -> Weight {
    let Some(service) = &cx.observed.stable_service else {
        return Weight::FULL;
    };
    let Some(revision) = services::stable_side(cx, state) else {
        return Weight::FULL;
    };
    let pods = match state.stage {
        // There is nothing else to send it to.
        Stage::FirstDeploy => return Weight::FULL,
        _ if service.selects.as_ref() == Some(&revision) => {
            available(cx, &revision).min(service.ready)
        }
        // Someone else changed the selector; it is put back at once, which is no reason to raise
        // the canary.
        Stage::Progressing => available(cx, &revision),
        Stage::Promoting | Stage::Aborted | Stage::Stable => 0,
    };
    let needed = if cx.plan.canary().dynamic_stable_scale {
        cx.plan.replicas
    } else {
        1
    };
    Weight::FULL.limited_to_capacity(pods, needed)
}

fn available(cx: &Context<'_>, revision: &Revision) -> u32 {
    cx.observed
        .replica_sets
        .get(revision)
        .map_or(0, |set| set.available)
}

/// Notes in the state what is asked for and what has been seen.
pub(crate) fn note_weights(cx: &Context<'_>, transition: &mut Transition) {
    let asked = target::share(cx, &transition.state);
    let before = cx.observed.state.weights;
    let weights = &mut transition.state.weights;
    if before.desired != asked {
        weights.desired = asked;
        weights.verified = None;
        weights.since = Some(cx.now);
        weights.pods = None;
    }
    let seen = match cx.plan.routing() {
        Some(_) => route_state::in_effect_for(cx, transition.state.current_revision.as_ref()),
        None => replica_ratio::reached(cx, &transition.state).then_some(asked),
    };
    let needed = target::canary_pods(cx, &transition.state, asked);
    let has_them = transition
        .state
        .current_revision
        .as_ref()
        .is_some_and(|revision| available(cx, revision) >= needed);
    let weights = &mut transition.state.weights;
    if seen == Some(asked) && has_them && !asked.is_zero() {
        weights.pods = Some(needed);
    }
    if seen == Some(asked) && weights.verified != Some(asked) {
        weights.verified = Some(asked);
        weights.since = Some(cx.now);
        return;
    }
    let moved = cx
        .observed
        .routes
        .iter()
        .find(|route| matches!(&route.canary_weight, Ok(weight) if *weight != asked));
    if let Some(route) = moved
        && weights.verified == Some(asked)
    {
        weights.verified = None;
        weights.since = Some(cx.now);
        if split(cx, &transition.state) == asked {
            let found = route_state::written(cx);
            let name = &route.route.name;
            transition.warning(
                "RouteDrift",
                format!("route {name} was changed to {found}: it is put back to {asked}"),
            );
        }
    }
}

/// What the routes must say.
pub(crate) fn effects(cx: &Context<'_>, state: &State) -> Vec<Effect> {
    if cx.plan.routing().is_none() || services::not_yet_bound(cx) {
        return Vec::new();
    }
    let share = split(cx, state);
    let changed = cx
        .observed
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
