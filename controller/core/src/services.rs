//! The two Services: which revision each picks, switched only while no request can be lost by it.

use crate::draft::Look;
use crate::effect::{Effect, Side};
use crate::observed::ServiceSeen;
use crate::router;
use crate::state::{Stage, State};
use crate::units::{Revision, Weight, after};

/// Whether the stable Service has never been bound to a revision, so that its route is still the
/// user's own affair.
pub(crate) fn not_yet_bound(look: &Look<'_>) -> bool {
    look.seen
        .stable_service
        .as_ref()
        .is_none_or(|service| service.selects.is_none())
}

/// Whether the stable Service picks this revision, has its endpoints, and the router has had time
/// to see them.
pub(crate) fn stable_serves(look: &Look<'_>, revision: Option<&Revision>) -> bool {
    let (Some(service), Some(routing)) = (&look.seen.stable_service, look.plan.routing()) else {
        return false;
    };
    let settled = service
        .serving_since
        .is_some_and(|since| after(since, routing.settle) <= look.now);
    revision.is_some() && service.selects.as_ref() == revision && settled
}

/// What the Services must pick.
pub(crate) fn effects(look: &Look<'_>, state: &State) -> Vec<Effect> {
    let Some(routing) = look.plan.routing() else {
        return Vec::new();
    };
    let mut effects = Vec::new();
    if let (Some(service), Some(revision)) = (&look.seen.stable_service, stable_side(look, state))
        && must_bind(look, service, &revision, false)
    {
        effects.push(Effect::BindService {
            side: Side::Stable,
            name: routing.stable_service.clone(),
            revision,
        });
    }
    if let (Some(service), Some(revision)) = (&look.seen.canary_service, canary_side(look, state))
        && must_bind(look, service, &revision, true)
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
pub(crate) fn stable_side(look: &Look<'_>, state: &State) -> Option<Revision> {
    let current = state.current_revision.clone();
    match state.stage {
        Stage::FirstDeploy => current,
        Stage::Promoting => {
            let service = look.seen.stable_service.as_ref();
            let switched = current.is_some()
                && service.and_then(|service| service.selects.as_ref()) == current.as_ref();
            let free = router::in_effect_for(look, current.as_ref()) == Some(Weight::FULL)
                && (look.plan.watch().is_none() || state.was_watched());
            if switched || free {
                current
            } else {
                state.stable_revision.clone()
            }
        }
        Stage::Stepping | Stage::Aborted | Stage::Stable => state.stable_revision.clone(),
    }
}

/// The revision that the canary Service shall pick; `None` leaves it as it is.
fn canary_side(look: &Look<'_>, state: &State) -> Option<Revision> {
    match state.stage {
        Stage::Stepping | Stage::Promoting | Stage::FirstDeploy => state.current_revision.clone(),
        // A route that names it from the beginning is resolved by its router only if it exists.
        Stage::Aborted | Stage::Stable => {
            let is_missing = look
                .seen
                .canary_service
                .as_ref()
                .is_some_and(|service| !service.exists);
            state.stable_revision.clone().filter(|_| is_missing)
        }
    }
}

fn must_bind(look: &Look<'_>, service: &ServiceSeen, revision: &Revision, canary: bool) -> bool {
    if service.exists && service.selects.as_ref() == Some(revision) {
        return false;
    }
    if !service.exists || service.ready == 0 {
        return true;
    }
    if canary {
        // Its pods are superseded: they lose their traffic first.
        return router::canary_unreachable(look);
    }
    look.seen
        .replica_sets
        .get(revision)
        .is_some_and(|set| set.available > 0)
}
