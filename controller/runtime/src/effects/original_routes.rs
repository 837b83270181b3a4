//! The original weights of routes: recorded before the first change, for their restoration.

use serde_json::Value;
use serin_core::effect::{Decision, Effect};
use serin_core::hold::{Blocks, Hold};
use serin_core::plan::{RouteRef, Routing};
use serin_core::state::Stage;
use serin_crds::status::{ORIGINAL_ROUTES_BYTES, OriginalRoute, serialized_bytes};
use serin_traffic::{OriginalWeights, Services, router_of};

use crate::cluster_cache::{ClusterCache, Key};
use crate::observe::Snapshot;

/// The original routes to record in the status, before any effect of `decision` changes them. They
/// are recorded at the start of a release, so that they need no additional write. Entries of other
/// routes in `recorded` are kept.
pub fn original_routes(
    recorded: &[OriginalRoute],
    decision: &Decision,
    routing: Option<&Routing>,
    snapshot: &Snapshot,
    rollout: &Key,
    cache: &ClusterCache,
) -> Vec<OriginalRoute> {
    let mut all = recorded.to_vec();
    // Restored entries are removed first, because the plan may use the same route with other
    // Services.
    all.retain(|entry| {
        routing.is_some_and(|routing| is_in_plan(entry, routing))
            || !is_restored(entry, routing, rollout, cache)
    });
    let Some(routing) = routing else { return all };
    // The rules belong to the Rollout that holds their stable Service.
    let stable = snapshot.service_holds.get(routing.stable_service());
    if stable.is_some_and(is_refusal) {
        return all;
    }
    let releasing = matches!(decision.state.stage, Stage::Progressing | Stage::Promoting);
    for route in &routing.routes {
        let changes = |effect: &Effect| matches!(effect, Effect::SetWeight { route: changed, .. } if changed == route);
        if snapshot.route_holds.get(route).is_some_and(is_refusal) {
            continue;
        }
        // Its entry is about other Services, and must be restored first.
        let is_orphaned = all
            .iter()
            .any(|entry| is_for_route(entry, route) && !is_in_plan(entry, routing));
        let is_new = releasing && recorded_original(&all, route, routing).is_none();
        let Some(cached) = snapshot.route_object(route) else {
            continue;
        };
        if !is_orphaned && (is_new || decision.effects.iter().any(changes)) {
            record_original(&mut all, route, &cached.object, routing);
        }
    }
    all
}

fn is_for_route(entry: &OriginalRoute, route: &RouteRef) -> bool {
    router_of(route.kind).kind() == entry.kind && route.name == entry.name
}

/// Whether the plan uses the route with the same two Services.
pub(super) fn is_in_plan(entry: &OriginalRoute, routing: &Routing) -> bool {
    let is_current = |recorded: &Option<String>, named: &String| {
        recorded.as_ref().is_none_or(|name| name == named)
    };
    routing
        .routes
        .iter()
        .any(|route| is_for_route(entry, route))
        && is_current(&entry.stable_service, routing.stable_service())
        && is_current(&entry.canary_service, routing.canary_service())
}

/// The two Services between which the route was split. Entries without Services were written by
/// older versions and are about the Services of the plan.
pub(super) fn services_of<'a>(
    entry: &'a OriginalRoute,
    routing: Option<&'a Routing>,
) -> Option<(&'a str, &'a str)> {
    let stable = entry
        .stable_service
        .as_ref()
        .or(routing.map(Routing::stable_service))?;
    let canary = entry
        .canary_service
        .as_ref()
        .or(routing.map(Routing::canary_service))?;
    Some((stable, canary))
}

/// Whether the route must be restored.
pub fn needs_restore(
    entry: &OriginalRoute,
    routing: Option<&Routing>,
    rollout: &Key,
    cache: &ClusterCache,
) -> bool {
    !is_restored(entry, routing, rollout, cache)
}

/// Whether nothing is left to restore.
fn is_restored(
    entry: &OriginalRoute,
    routing: Option<&Routing>,
    rollout: &Key,
    cache: &ClusterCache,
) -> bool {
    let Some((stable, canary)) = services_of(entry, routing) else {
        return false;
    };
    // The rules belong to the Rollout that holds their stable Service now.
    if is_held_by_another(entry, stable, rollout, cache) {
        return true;
    }
    let Some(routes) = cache.routes.of_name(&entry.kind) else {
        return true;
    };
    // A missing object was deleted only if the kind was served both before and after the lookup.
    let served = routes.state.is_served();
    let key = Key::new(&rollout.namespace, &entry.name);
    let Some(cached) = routes.objects.get(&key) else {
        return served && routes.state.is_served();
    };
    let Ok(original) = serde_json::from_str::<OriginalWeights>(&entry.backends) else {
        return true;
    };
    let services = Services { stable, canary };
    let patch = routes.router.restore(&cached.object, &original, services);
    patch.is_ok_and(|patch| patch.0.is_empty())
}

/// Whether another Rollout holds the stable Service whose traffic the entry is about.
pub(super) fn is_held_by_another(
    entry: &OriginalRoute,
    stable: &str,
    rollout: &Key,
    cache: &ClusterCache,
) -> bool {
    let holder = cache.other_holder(&Key::new(&rollout.namespace, stable), rollout);
    if let Some(holder) = &holder {
        tracing::debug!(route = %entry.name, %stable, %holder, "another Rollout holds the Service");
    }
    holder.is_some()
}

fn is_refusal(hold: &Hold) -> bool {
    hold.blocks == Blocks::Start
}

fn record_original(
    all: &mut Vec<OriginalRoute>,
    route: &RouteRef,
    object: &Value,
    routing: &Routing,
) {
    let recorded = recorded_original(all, route, routing);
    let (stable, canary) = (routing.stable_service(), routing.canary_service());
    let services = Services { stable, canary };
    let fresh = router_of(route.kind).refresh_original(
        object,
        route.rule.as_deref(),
        services,
        recorded.as_ref(),
    );
    // A route that cannot be decoded is not changed either.
    let Ok(mut fresh) = fresh else { return };
    // Several entries of a plan may refer to rules of the same route.
    fresh.add_missing(recorded.unwrap_or_default());
    let Ok(backends) = serde_json::to_string(&fresh) else {
        return;
    };
    let kind = router_of(route.kind).kind().to_owned();
    let fresh = OriginalRoute {
        kind,
        name: route.name.clone(),
        backends,
        stable_service: Some(stable.clone()),
        canary_service: Some(canary.clone()),
    };
    let others = all.iter().filter(|entry| !is_for_route(entry, route));
    let bytes = others.map(serialized_bytes).sum::<usize>() + serialized_bytes(&fresh);
    // Without its entry, the route is not changed.
    if bytes > ORIGINAL_ROUTES_BYTES {
        return;
    }
    match all.iter_mut().find(|entry| is_for_route(entry, route)) {
        Some(entry) => *entry = fresh,
        None => all.push(fresh),
    }
}

pub(super) fn recorded_original(
    all: &[OriginalRoute],
    route: &RouteRef,
    routing: &Routing,
) -> Option<OriginalWeights> {
    let entry = all
        .iter()
        .find(|entry| is_for_route(entry, route) && is_in_plan(entry, routing))?;
    serde_json::from_str(&entry.backends).ok()
}
