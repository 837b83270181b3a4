//! What the router is seen to do.

use jiff::Timestamp;

use crate::context::Context;
use crate::observed::{Programmed, RouteView};
use crate::plan::Routing;
use crate::units::{Revision, Weight, saturating_add};

/// From when a route does what its object says; none: nobody can tell yet.
pub(crate) fn effective_from(routing: &Routing, route: &RouteView) -> Option<Timestamp> {
    match &route.programmed {
        Programmed::Since(since) => Some(saturating_add(
            route.written_since.max(*since),
            routing.settle,
        )),
        Programmed::Unreported => Some(saturating_add(
            route.written_since,
            routing.unverified_after,
        )),
        Programmed::Pending(_) => None,
    }
}

/// The canary's share that every route is known to give it; none while a change is on its way.
pub(crate) fn in_effect(cx: &Context<'_>) -> Option<Weight> {
    let routing = cx.plan.routing()?;
    let first = cx.observed.routes.first()?.canary_weight.clone().ok()?;
    let settled = cx.observed.routes.iter().all(|route| {
        route.canary_weight == Ok(first)
            && effective_from(routing, route).is_some_and(|from| from <= cx.now)
    });
    settled.then_some(first)
}

/// The share that every route is known to give this revision. A canary Service that still picks a
/// superseded revision gives it none, whatever the routes say.
pub(crate) fn in_effect_for(cx: &Context<'_>, revision: Option<&Revision>) -> Option<Weight> {
    let is_picked = cx
        .observed
        .canary_service
        .as_ref()
        .is_some_and(|service| service.selects.as_ref() == revision);
    in_effect(cx).filter(|share| share.is_zero() || is_picked)
}

/// Whether a superseded revision is behind the canary Service and may still get requests.
pub(crate) fn superseded_gets_traffic(cx: &Context<'_>, current: Option<&Revision>) -> bool {
    let picked = cx
        .observed
        .canary_service
        .as_ref()
        .and_then(|service| service.selects.as_ref());
    picked.is_some() && picked != current && !canary_unreachable(cx)
}

/// The highest share that any route's object gives the canary.
pub(crate) fn written(cx: &Context<'_>) -> Weight {
    let weights = cx
        .observed
        .routes
        .iter()
        .filter_map(|route| route.canary_weight.clone().ok());
    weights.max().unwrap_or(Weight::ZERO)
}

/// Why a route cannot be read: it does not exist, is not understood, or its kind is not served.
/// `None` if all are readable.
pub(crate) fn unreadable(cx: &Context<'_>) -> Option<String> {
    cx.plan.routing()?;
    let problem = |route: &RouteView| route.canary_weight.as_ref().err().cloned();
    cx.observed
        .routes
        .iter()
        .find_map(|route| Some(format!("route {}: {}", route.route.name, problem(route)?)))
}

/// Whether no request can reach the canary Service any more.
pub(crate) fn canary_unreachable(cx: &Context<'_>) -> bool {
    in_effect(cx) == Some(Weight::ZERO)
}

/// What the router still owes, in a sentence.
pub(crate) fn waiting_for(cx: &Context<'_>) -> String {
    for route in &cx.observed.routes {
        match (&route.canary_weight, &route.programmed) {
            (Err(problem), _) => return format!("route {}: {problem}", route.route.name),
            (Ok(_), Programmed::Pending(why)) => {
                return format!("route {}: {why}", route.route.name);
            }
            (Ok(_), Programmed::Since(_) | Programmed::Unreported) => {}
        }
    }
    "waiting for the router".to_owned()
}
