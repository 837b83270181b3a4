//! The two Services: which revision each picks, switched only while no request can be lost by it.

use crate::context::Context;
use crate::effect::{Effect, Side};
use crate::observed::ServiceView;
use crate::route_state;
use crate::state::{Stage, State};
use crate::units::{Revision, Weight, saturating_add};

/// Whether the stable Service has never been bound to a revision, so that its route is still the
/// user's own affair.
pub(crate) fn not_yet_bound(cx: &Context<'_>) -> bool {
    cx.observed
        .stable_service
        .as_ref()
        .is_none_or(|service| service.selects.is_none())
}

/// Whether the stable Service picks this revision, has its endpoints, and the router has had time
/// to see them.
pub(crate) fn stable_serves(cx: &Context<'_>, revision: Option<&Revision>) -> bool {
    let (Some(service), Some(routing)) = (&cx.observed.stable_service, cx.plan.routing()) else {
        return false;
    };
    let settled = service
        .serving_since
        .is_some_and(|since| saturating_add(since, routing.settle) <= cx.now);
    revision.is_some() && service.selects.as_ref() == revision && settled
}

/// What the Services must pick.
pub(crate) fn effects(cx: &Context<'_>, state: &State) -> Vec<Effect> {
    let Some(routing) = cx.plan.routing() else {
        return Vec::new();
    };
    let mut effects = Vec::new();
    if let (Some(service), Some(revision)) = (&cx.observed.stable_service, stable_side(cx, state))
        && must_bind(cx, service, &revision, false)
    {
        effects.push(Effect::BindService {
            side: Side::Stable,
            name: routing.stable_service.clone(),
            revision,
        });
    }
    if let (Some(service), Some(revision)) = (&cx.observed.canary_service, canary_side(cx, state))
        && must_bind(cx, service, &revision, true)
    {
        effects.push(Effect::BindService {
            side: Side::Canary,
            name: routing.canary_service.clone(),
            revision,
        });
    }
    effects
}

/// The revision that the stable Service shall pick.
pub(crate) fn stable_side(cx: &Context<'_>, state: &State) -> Option<Revision> {
    let current = state.current_revision.clone();
    match state.stage {
        Stage::FirstDeploy => current,
        Stage::Promoting => {
            let service = cx.observed.stable_service.as_ref();
            let switched = current.is_some()
                && service.and_then(|service| service.selects.as_ref()) == current.as_ref();
            let free = route_state::in_effect_for(cx, current.as_ref()) == Some(Weight::FULL)
                && (cx.plan.bake().is_none() || state.is_bake_complete());
            if switched || free {
                current
            } else {
                state.stable_revision.clone()
            }
        }
        Stage::Progressing | Stage::Aborted | Stage::Stable => state.stable_revision.clone(),
    }
}

/// The revision that the canary Service shall pick; `None` leaves it as it is.
fn canary_side(cx: &Context<'_>, state: &State) -> Option<Revision> {
    match state.stage {
        Stage::Progressing | Stage::Promoting | Stage::FirstDeploy => {
            state.current_revision.clone()
        }
        // A route that names it from the beginning is resolved by its router only if it exists.
        Stage::Aborted | Stage::Stable => {
            let is_missing = cx
                .observed
                .canary_service
                .as_ref()
                .is_some_and(|service| !service.exists);
            state.stable_revision.clone().filter(|_| is_missing)
        }
    }
}

fn must_bind(cx: &Context<'_>, service: &ServiceView, revision: &Revision, canary: bool) -> bool {
    if service.exists && service.selects.as_ref() == Some(revision) {
        return false;
    }
    if !service.exists || service.ready == 0 {
        return true;
    }
    if canary {
        // Its pods are superseded: they lose their traffic first.
        return route_state::canary_unreachable(cx);
    }
    cx.observed
        .replica_sets
        .get(revision)
        .is_some_and(|set| set.available > 0)
}
