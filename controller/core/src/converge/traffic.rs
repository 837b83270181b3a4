//! The traffic split: what is wanted, what the pods can carry, and what is in effect.

use super::{available_pods, bindings, replica_ratio};
use crate::baseline;
use crate::blue_green;
use crate::context::{Context, Transition};
use crate::effect::Effect;
use crate::managed_route::ManagedRoute;
use crate::observed::{RouteView, ServiceView};
use crate::route_state;
use crate::state::State;
use crate::target::{self, StableCapacity, Target};
use crate::units::{Revision, Weight, saturating_add};

/// The share that the routes should give the canary now: the wanted share, limited to what either
/// side has available pods for.
pub(crate) fn safe_share(cx: &Context<'_>, state: &State, target: &Target) -> Weight {
    let wanted = target.share;
    let current = route_state::written(cx);
    let carried = canary_capacity(cx, state, target, current);
    if cx.plan.is_blue_green() {
        return whole_share(cx, target, current, carried);
    }
    // Up in one move once all pods are there; down at once as far as pods are missing.
    let share = if carried >= wanted {
        wanted
    } else {
        carried.min(current)
    };
    // What stable cannot carry stays with a canary that can.
    let shortfall = stable_capacity(cx, target).complement();
    let share = share.max(shortfall.min(shortfall_limit(cx, state, current)));
    if target.may_raise {
        share
    } else {
        share.min(current)
    }
}

/// The rules for chosen requests that the routes should have now, given the canary's share. None
/// while the pods of the current revision cannot serve them, or if the canary has all of the
/// traffic.
fn safe_managed_routes(
    cx: &Context<'_>,
    state: &State,
    target: &Target,
    share: Weight,
) -> Vec<ManagedRoute> {
    let (Some(service), Some(routing), Some(revision)) = (
        &cx.observed.canary_service,
        cx.plan.routing(),
        &state.current_revision,
    ) else {
        return Vec::new();
    };
    let is_served = service.selects.as_ref() == Some(revision)
        && available_pods(cx, revision).min(service.ready) > 0;
    if !is_served || share == Weight::FULL || cx.observed.refusal().is_some() {
        return Vec::new();
    }
    let since = service.serving_since;
    let is_settled = since.is_some_and(|at| cx.reached(saturating_add(at, routing.settle)));
    if target.may_raise && (is_settled || !share.is_zero()) {
        return target.managed_routes.clone();
    }
    // Those that are there stay.
    let mut kept = target.managed_routes.clone();
    kept.retain(|one| route_state::is_on_every_route(cx, one));
    kept
}

/// The share of blue/green: nothing or everything. It changes when the other side is complete, and
/// then stays while the side has a pod. `carried` is how much the current revision can carry.
fn whole_share(cx: &Context<'_>, target: &Target, current: Weight, carried: Weight) -> Weight {
    if target.share == Weight::FULL {
        let is_complete = target.may_raise && carried == Weight::FULL;
        let stays = current == Weight::FULL && !carried.is_zero();
        return if is_complete || stays {
            Weight::FULL
        } else {
            Weight::ZERO
        };
    }
    let service = cx.observed.canary_service.as_ref();
    let selected = service.and_then(|service| service.selects.as_ref());
    let pods = selected.map_or(0, |revision| available_pods(cx, revision));
    let from = pods.min(service.map_or(0, |service| service.ready));
    let has_stable = target.stable_capacity != StableCapacity::Unlimited;
    let stays = has_stable
        && from > 0
        && !blue_green::can_take_over(cx, ready_stable_pods(cx, target), from);
    if stays { current } else { Weight::ZERO }
}

/// How much of the wanted share the canary's pods can carry.
fn canary_capacity(cx: &Context<'_>, state: &State, target: &Target, current: Weight) -> Weight {
    let (Some(service), Some(routing), Some(revision)) = (
        &cx.observed.canary_service,
        cx.plan.routing(),
        &state.current_revision,
    ) else {
        return Weight::ZERO;
    };
    // The router must have seen the first endpoints before it is sent the first request.
    let is_settled = || {
        let since = service.serving_since;
        since.is_some_and(|since| cx.reached(saturating_add(since, routing.settle)))
    };
    if service.selects.as_ref() != Some(revision)
        || (current.is_zero() && !is_settled())
        || baseline::hold(cx, state).is_some()
    {
        return Weight::ZERO;
    }
    let pods = available_pods(cx, revision).min(service.ready);
    let needed = target::sufficient_canary_pods(cx, state, target.share);
    let needed = cx.plan.canary().sufficient_pods(needed);
    target.share.limited_to_capacity(pods, needed)
}

/// How much of what stable cannot carry may go to the canary side: what the pods behind its Service
/// can carry, and no more than today if those are not of the current revision.
fn shortfall_limit(cx: &Context<'_>, state: &State, current: Weight) -> Weight {
    let Some(service) = &cx.observed.canary_service else {
        return Weight::ZERO;
    };
    let selected = service.selects.as_ref();
    let pods = selected.map_or(0, |revision| available_pods(cx, revision));
    let capacity = Weight::FULL.limited_to_capacity(pods.min(service.ready), cx.plan.replicas);
    if service.selects == state.current_revision {
        capacity
    } else {
        capacity.min(current)
    }
}

/// How much of the traffic the stable side can carry.
fn stable_capacity(cx: &Context<'_>, target: &Target) -> Weight {
    let (Some(service), Some(revision)) = (&cx.observed.stable_service, &target.stable_binding)
    else {
        return Weight::FULL;
    };
    match target.stable_capacity {
        StableCapacity::Unlimited => Weight::FULL,
        StableCapacity::Pods {
            needed,
            counts_unselected,
        } => {
            let pods = serving_pods_of(cx, service, revision, counts_unselected);
            Weight::FULL.limited_to_capacity(pods, needed)
        }
    }
}

/// The pods of the stable side that can serve requests.
fn ready_stable_pods(cx: &Context<'_>, target: &Target) -> u32 {
    let (Some(service), Some(revision)) = (&cx.observed.stable_service, &target.stable_binding)
    else {
        return 0;
    };
    let counts_unselected = matches!(
        target.stable_capacity,
        StableCapacity::Pods {
            counts_unselected: true,
            ..
        }
    );
    serving_pods_of(cx, service, revision, counts_unselected)
}

fn serving_pods_of(
    cx: &Context<'_>,
    service: &ServiceView,
    revision: &Revision,
    counts_unselected: bool,
) -> u32 {
    let available = available_pods(cx, revision);
    if service.selects.as_ref() == Some(revision) {
        available.min(service.ready)
    } else if counts_unselected {
        available
    } else {
        0
    }
}

/// Records which share is desired and which was observed in effect.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition, target: &Target) {
    let desired = target.share;
    let weights = &mut transition.state.weights;
    if cx.observed.state.weights.desired != desired {
        weights.desired = desired;
        weights.verified = None;
        weights.since = Some(cx.now);
        weights.pods = None;
    }
    let current = transition.state.current_revision.clone();
    let in_effect = if cx.plan.splits_by_pods() {
        replica_ratio::is_reached(cx, target).then_some(desired)
    } else {
        route_state::in_effect_for(cx, current.as_ref())
    };
    let needed = target::canary_pods(cx, &transition.state, desired);
    let sufficient = cx.plan.canary().sufficient_pods(needed);
    let has_pods = current.is_some_and(|revision| available_pods(cx, &revision) >= sufficient);
    let weights = &mut transition.state.weights;
    if in_effect == Some(desired) && has_pods && !desired.is_zero() {
        weights.pods = Some(needed);
    }
    if in_effect == Some(desired) && weights.verified != Some(desired) {
        weights.verified = Some(desired);
        weights.since = Some(cx.now);
        return;
    }
    record_drift(cx, transition, target);
}

/// Records that somebody else changed a route.
fn record_drift(cx: &Context<'_>, transition: &mut Transition, target: &Target) {
    let desired = target.share;
    let differs =
        |route: &&RouteView| matches!(route.canary_weight, Ok(weight) if weight != desired);
    let Some(route) = cx.observed.routes.iter().find(differs) else {
        return;
    };
    let weights = &mut transition.state.weights;
    if weights.verified != Some(desired) {
        return;
    }
    weights.verified = None;
    weights.since = Some(cx.now);
    if safe_share(cx, &transition.state, target) == desired {
        let found = route_state::written(cx);
        let name = &route.route.name;
        transition.warning(
            "RouteDrift",
            format!("route {name} was changed to {found}; Serin sets it back to {desired}"),
        );
    }
}

/// The routes whose split has to change.
pub(super) fn effects(cx: &Context<'_>, state: &State, target: &Target) -> Vec<Effect> {
    let stable = cx.observed.stable_service.as_ref();
    let is_refused = stable.is_some_and(|service| service.refusal().is_some());
    if cx.plan.routing().is_none() || is_refused || bindings::is_unbound(cx) {
        return Vec::new();
    }
    let share = safe_share(cx, state, target);
    let managed_routes = safe_managed_routes(cx, state, target, share);
    let routes = cx.observed.routes.iter();
    let has_them = |route: &RouteView| route.managed_routes.as_ref() == Some(&managed_routes);
    // A rule that another Rollout splits is only left, never raised.
    let may_change = |route: &RouteView, weight| {
        let is_left = share < weight || (share == weight && managed_routes.is_empty());
        is_left || route.refusal().is_none()
    };
    let changed = routes.filter(|route| match route.canary_weight {
        Ok(weight) => (weight != share || !has_them(route)) && may_change(route, weight),
        Err(_) => false,
    });
    changed
        .map(|route| Effect::SetWeight {
            route: route.route.clone(),
            canary: share,
            managed_routes: managed_routes.clone(),
        })
        .collect()
}
