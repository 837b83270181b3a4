//! The two Services: which revision each selects. A Service changes its revision only if no request
//! can be lost by it.

use super::available_pods;
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
    let (Some(service), Some(routing)) = (&cx.observed.stable_service, cx.plan.routing()) else {
        return false;
    };
    let is_settled = |since| cx.reached(saturating_add(since, routing.settle));
    revision.is_some()
        && service.selects.as_ref() == revision
        && service.serving_since.is_some_and(is_settled)
}

/// The Services that have to select another revision.
pub(super) fn effects(cx: &Context<'_>, target: &Target) -> Vec<Effect> {
    let Some(routing) = cx.plan.routing() else {
        return Vec::new();
    };
    let sides = [
        (
            Side::Stable,
            &routing.stable_service,
            &cx.observed.stable_service,
            &target.stable_binding,
        ),
        (
            Side::Canary,
            &routing.canary_service,
            &cx.observed.canary_service,
            &target.canary_binding,
        ),
    ];
    let mut effects = Vec::new();
    for (side, name, service, binding) in sides {
        if let (Some(service), Some(revision)) = (service, binding)
            && needs_binding(service, revision)
            && may_bind(cx, side, service, revision)
        {
            effects.push(Effect::BindService {
                side,
                name: name.clone(),
                revision: revision.clone(),
            });
        }
    }
    effects
}

fn needs_binding(service: &ServiceView, revision: &Revision) -> bool {
    !service.exists || service.selects.as_ref() != Some(revision)
}

fn may_bind(cx: &Context<'_>, side: Side, service: &ServiceView, revision: &Revision) -> bool {
    if !service.exists || service.ready == 0 {
        return true;
    }
    match side {
        Side::Stable => available_pods(cx, revision) > 0,
        // The selected pods are superseded: they lose their traffic first.
        Side::Canary => route_state::canary_is_unreachable(cx),
    }
}
