//! The two Services: which revision each selects. A Service changes its revision only if no request
//! can be lost by it.

use super::available_pods;
use crate::blue_green;
use crate::context::Context;
use crate::effect::{Effect, Side};
use crate::observed::ServiceView;
use crate::route_state;
use crate::target::Target;
use crate::units::{Revision, saturating_add};

/// Whether the stable Service has never selected a revision, so that its route is still the user's.
pub(crate) fn is_unbound(cx: &Context<'_>) -> bool {
    let service = cx.observed.stable_service.as_ref();
    service.is_none_or(|service| service.selects.is_none())
}

/// Whether the stable Service selects this revision, has its endpoints, and the router has had time
/// to see them.
pub(crate) fn stable_serves(cx: &Context<'_>, revision: Option<&Revision>) -> bool {
    let (Some(service), Some(routing)) = (&cx.observed.stable_service, cx.plan.services()) else {
        return false;
    };
    let is_settled = |since| cx.reached(saturating_add(since, routing.settle));
    revision.is_some()
        && service.selects.as_ref() == revision
        && service.serving_since.is_some_and(is_settled)
}

/// A Service of the plan and the revision that it should select.
pub(crate) struct SideBinding<'a> {
    pub side: Side,
    pub service: &'a ServiceView,
    pub revision: &'a Revision,
}

/// The Services that should select a revision, with that revision.
pub(crate) fn sides<'a>(cx: &Context<'a>, target: &'a Target) -> Vec<SideBinding<'a>> {
    let observed = cx.observed;
    let sides = [
        (Side::Stable, &target.stable_binding),
        (Side::Canary, &target.canary_binding),
    ];
    let bindings = sides.into_iter().filter_map(|(side, revision)| {
        Some(SideBinding {
            side,
            service: observed.service(side)?,
            revision: revision.as_ref()?,
        })
    });
    bindings.collect()
}

/// The Services that have to select another revision.
pub(super) fn effects(cx: &Context<'_>, target: &Target) -> Vec<Effect> {
    let Some(routing) = cx.plan.services() else {
        return Vec::new();
    };
    let sides = sides(cx, target).into_iter();
    let bound = sides.filter(|side| needs_binding(side) && may_bind(cx, target, side));
    bound
        .map(|side| Effect::BindService {
            side: side.side,
            name: routing.service(side.side).clone(),
            revision: side.revision.clone(),
        })
        .collect()
}

fn needs_binding(side: &SideBinding<'_>) -> bool {
    !side.service.exists || side.service.selects.as_ref() != Some(side.revision)
}

fn may_bind(cx: &Context<'_>, target: &Target, side: &SideBinding<'_>) -> bool {
    let service = side.service;
    if service.refusal().is_some() || pods_before_first_binding(cx, target, side).is_some() {
        return false;
    }
    let set = cx.observed.replica_sets.get(side.revision);
    if service.selects.is_none() && set.is_some_and(|set| !set.has_confirmed_labels()) {
        return false;
    }
    if !service.exists || service.ready == 0 {
        return true;
    }
    if cx.plan.is_blue_green() && side.side == Side::Stable {
        return blue_green::can_take_over(
            cx,
            available_pods(cx, side.revision),
            serving_pods(cx, side),
        );
    }
    if cx.plan.routing().is_none() {
        return carries_requests_of(cx, side);
    }
    match side.side {
        Side::Stable => available_pods(cx, side.revision) > 0,
        // The selected pods are superseded: they lose their traffic first.
        Side::Canary => route_state::canary_is_unreachable(cx),
    }
}

/// The pods that serve the requests of the Service now.
fn serving_pods(cx: &Context<'_>, side: &SideBinding<'_>) -> u32 {
    let service = side.service;
    let selected = service.selects.as_ref();
    selected.map_or(service.ready, |revision| available_pods(cx, revision))
}

/// Whether the revision has as many available pods as the revision that the Service selects now.
/// Without a router a Service moves all of its requests at once.
fn carries_requests_of(cx: &Context<'_>, side: &SideBinding<'_>) -> bool {
    let pods = available_pods(cx, side.revision);
    let selected = side.service.selects.as_ref();
    let needed = match side.side {
        Side::Stable => selected.map_or(0, |selected| available_pods(cx, selected)),
        Side::Canary => 0,
    };
    pods > 0 && pods >= needed
}

/// The number of available pods that the revision needs before the Service selects it for the first
/// time. `None` if it has them, or if no pods of somebody else serve the Service: binding it takes
/// it away from those pods, so the revision must be able to serve its requests.
pub(crate) fn pods_before_first_binding(
    cx: &Context<'_>,
    target: &Target,
    side: &SideBinding<'_>,
) -> Option<u32> {
    if side.service.selects.is_some() || side.service.other_ready == 0 {
        return None;
    }
    let wanted = target.pods.get(side.revision).map_or(0, |pods| pods.count);
    let needed = match side.side {
        Side::Stable => cx.plan.replicas,
        Side::Canary => wanted,
    };
    let needed = needed.max(1);
    (available_pods(cx, side.revision) < needed).then_some(needed)
}
