//! What the routes and their router are observed to do.

use jiff::Timestamp;

use crate::blue_green::switched_share;
use crate::context::Context;
use crate::managed_route::ManagedRoute;
use crate::observed::{Programmed, RouteView};
use crate::plan::{Exposure, Routing};
use crate::units::{Revision, Weight, saturating_add};

/// From when a route does what its object says. `None` if that is not known yet.
fn effective_from(routing: &Routing, route: &RouteView) -> Option<Timestamp> {
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

/// The canary's share that is in effect on every route. `None` while a change is on its way.
pub(crate) fn in_effect(cx: &Context<'_>) -> Option<Weight> {
    if let Exposure::Switch(services) = &cx.plan.exposure {
        let since = cx.observed.stable_service.as_ref()?.serving_since?;
        let is_settled = cx.reached(saturating_add(since, services.settle));
        return is_settled.then(|| switched_share(cx.observed));
    }
    let routing = cx.plan.routing()?;
    let first = cx.observed.routes.first()?.canary_weight.clone().ok()?;
    let is_in_effect = cx.observed.routes.iter().all(|route| {
        route.canary_weight == Ok(first)
            && effective_from(routing, route).is_some_and(|from| cx.reached(from))
    });
    is_in_effect.then_some(first)
}

/// The share that is in effect for this revision. While the Service with the canary's share still
/// selects a superseded revision, only a share of zero counts.
pub(crate) fn in_effect_for(cx: &Context<'_>, revision: Option<&Revision>) -> Option<Weight> {
    let service = if cx.plan.switches_service() {
        cx.observed.stable_service.as_ref()
    } else {
        cx.observed.canary_service.as_ref()
    };
    let is_selected = service.is_some_and(|service| service.selects.as_ref() == revision);
    in_effect(cx).filter(|share| share.is_zero() || is_selected)
}

/// Whether the canary Service selects a superseded revision that may still get requests.
pub(crate) fn superseded_gets_traffic(cx: &Context<'_>, current: Option<&Revision>) -> bool {
    let service = cx.observed.canary_service.as_ref();
    let selected = service.and_then(|service| service.selects.as_ref());
    selected.is_some() && selected != current && !canary_is_unreachable(cx)
}

/// The highest share that any route's object gives the canary.
pub(crate) fn written(cx: &Context<'_>) -> Weight {
    if cx.plan.switches_service() {
        return switched_share(cx.observed);
    }
    let routes = cx.observed.routes.iter();
    let weights = routes.filter_map(|route| route.canary_weight.clone().ok());
    weights.max().unwrap_or(Weight::ZERO)
}

/// Why a route cannot be read: it does not exist, is not understood, or its kind is not served.
/// `None` if all are readable.
pub(crate) fn unreadable(cx: &Context<'_>) -> Option<String> {
    cx.plan.routing()?;
    cx.observed.routes.iter().find_map(|route| {
        let problem = route.canary_weight.as_ref().err()?;
        Some(format!("route {}: {problem}", route.route.name))
    })
}

/// Whether no request can reach the canary Service any more.
pub(crate) fn canary_is_unreachable(cx: &Context<'_>) -> bool {
    in_effect(cx) == Some(Weight::ZERO) && has_no_managed_routes_beyond(cx, &[])
}

/// Whether the objects as written send requests to the canary Service.
pub(crate) fn gives_canary_requests(cx: &Context<'_>) -> bool {
    !written(cx).is_zero() || cx.observed.routes.iter().any(RouteView::has_managed_routes)
}

/// Whether the objects have no rules for chosen requests but these.
pub(crate) fn has_no_managed_routes_beyond(cx: &Context<'_>, wanted: &[ManagedRoute]) -> bool {
    let is_within = |route: &RouteView| {
        let managed = route.managed_routes.as_ref();
        managed.is_some_and(|managed| managed.iter().all(|one| wanted.contains(one)))
    };
    cx.observed.routes.iter().all(is_within)
}

/// Whether the object of every route has this rule for chosen requests.
pub(crate) fn is_on_every_route(cx: &Context<'_>, one: &ManagedRoute) -> bool {
    let has_it = |route: &RouteView| {
        let managed = route.managed_routes.as_ref();
        managed.is_some_and(|managed| managed.contains(one))
    };
    cx.observed.routes.iter().all(has_it)
}

/// Whether every route has exactly these rules for chosen requests, and the router does what its
/// object says.
pub(crate) fn managed_routes_are_in_effect(cx: &Context<'_>, wanted: &[ManagedRoute]) -> bool {
    let is_written = |route: &RouteView| route.managed_routes.as_deref() == Some(wanted);
    in_effect(cx).is_some() && cx.observed.routes.iter().all(is_written)
}

/// Why the routes do not have the wanted effect yet.
pub(crate) fn describe_pending(cx: &Context<'_>) -> String {
    if cx.plan.switches_service() {
        return "waiting for the endpoints of the active Service".to_owned();
    }
    for route in &cx.observed.routes {
        match (&route.canary_weight, &route.programmed) {
            (Err(problem), _) | (Ok(_), Programmed::Pending(problem)) => {
                return format!("route {}: {problem}", route.route.name);
            }
            (Ok(_), Programmed::Since(_) | Programmed::Unreported) => {}
        }
    }
    "waiting for the router".to_owned()
}
