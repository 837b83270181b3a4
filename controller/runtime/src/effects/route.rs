//! Traffic weights in routes: changed by JSON Patch, recorded before the first change, and restored
//! at the end.

use kube::Api;
use kube::api::{DynamicObject, Patch};
use serde_json::Value;
use serin_core::effect::{Decision, Effect};
use serin_core::plan::{RouteKind, RouteRef, Routing};
use serin_core::state::Stage;
use serin_core::units::Weight;
use serin_crds::api_status;
use serin_crds::status::OriginalRoute;
use serin_traffic::OriginalWeights;

use super::{EffectError, EffectExecutor, patch_params};
use crate::cluster_cache::{CachedObject, CachedRoute, ClusterCache, Discovery, Key};
use crate::observe::Snapshot;

/// A conflict is retried once after a new read.
const ATTEMPTS: usize = 2;

const fn kind_name(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::HttpRoute => "HTTPRoute",
    }
}

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
    let releasing = matches!(decision.state.stage, Stage::Progressing | Stage::Promoting);
    for route in &routing.routes {
        let changes = |effect: &Effect| matches!(effect, Effect::SetWeight { route: changed, .. } if changed == route);
        // Its entry is about other Services, and must be restored first.
        let is_orphaned = all
            .iter()
            .any(|entry| is_for_route(entry, route) && !is_in_plan(entry, routing));
        let is_new = releasing && recorded_original(&all, route, routing).is_none();
        let Some(cached) = snapshot.routes.get(&route.name) else {
            continue;
        };
        if !is_orphaned && (is_new || decision.effects.iter().any(changes)) {
            record_original(&mut all, route, &cached.object, routing);
        }
    }
    all
}

fn is_for_route(entry: &OriginalRoute, route: &RouteRef) -> bool {
    kind_name(route.kind) == entry.kind && route.name == entry.name
}

/// Whether the plan uses the route with the same two Services.
fn is_in_plan(entry: &OriginalRoute, routing: &Routing) -> bool {
    let is_current = |recorded: &Option<String>, named: &String| {
        recorded.as_ref().is_none_or(|name| name == named)
    };
    routing
        .routes
        .iter()
        .any(|route| is_for_route(entry, route))
        && is_current(&entry.stable_service, &routing.stable_service)
        && is_current(&entry.canary_service, &routing.canary_service)
}

/// The two Services between which the route was split. Entries without Services were written by
/// older versions and are about the Services of the plan.
fn services_of<'a>(
    entry: &'a OriginalRoute,
    routing: Option<&'a Routing>,
) -> Option<(&'a str, &'a str)> {
    let stable = entry
        .stable_service
        .as_ref()
        .or(routing.map(|routing| &routing.stable_service))?;
    let canary = entry
        .canary_service
        .as_ref()
        .or(routing.map(|routing| &routing.canary_service))?;
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
    // A missing object was deleted only if the kind was served both before and after the lookup.
    let served = cache.route_kind.is_served();
    let Some((stable, canary)) = services_of(entry, routing) else {
        return false;
    };
    let cached = cache.routes.get(&Key::new(&rollout.namespace, &entry.name));
    let Some(cached) = cached else {
        return served && cache.route_kind.is_served();
    };
    let Ok(original) = serde_json::from_str::<OriginalWeights>(&entry.backends) else {
        return true;
    };
    let patch = serin_traffic::restore(&cached.object, &original, stable, canary);
    patch.is_ok_and(|patch| patch.0.is_empty())
}

/// Restores the routes that the plan no longer uses, or uses with other Services. Nothing else
/// would update the weight that they give to the canary. Returns whether any route was changed.
///
/// # Errors
/// The first failure, after all routes have been tried.
pub async fn restore_orphaned_routes(executor: &EffectExecutor<'_>) -> Result<bool, EffectError> {
    let is_orphaned = |entry: &&OriginalRoute| {
        executor
            .plan
            .routing()
            .is_none_or(|routing| !is_in_plan(entry, routing))
    };
    match restore(
        executor,
        executor.status.original_routes.iter().filter(is_orphaned),
    )
    .await
    {
        // They stay recorded, and are restored when the kind is served again.
        Err(EffectError::KindAbsent(_)) => Ok(false),
        restored => restored,
    }
}

fn record_original(
    all: &mut Vec<OriginalRoute>,
    route: &RouteRef,
    object: &Value,
    routing: &Routing,
) {
    let recorded = recorded_original(all, route, routing);
    let (stable, canary) = (&routing.stable_service, &routing.canary_service);
    let fresh = serin_traffic::refresh_original(
        object,
        route.rule.as_deref(),
        stable,
        canary,
        recorded.as_ref(),
    );
    // A route that cannot be decoded is not changed either.
    let Ok(mut fresh) = fresh else { return };
    // Several entries of a plan may refer to rules of the same route.
    let others = recorded.into_iter().flat_map(|original| original.rules);
    for rule in others {
        if fresh
            .rules
            .iter()
            .all(|fresh| (fresh.index, &fresh.name) != (rule.index, &rule.name))
        {
            fresh.rules.push(rule);
        }
    }
    fresh.rules.sort_by_key(|rule| rule.index);
    let Ok(backends) = serde_json::to_string(&fresh) else {
        return;
    };
    let kind = kind_name(route.kind).to_owned();
    let fresh = OriginalRoute {
        kind,
        name: route.name.clone(),
        backends,
        stable_service: Some(stable.clone()),
        canary_service: Some(canary.clone()),
    };
    match all.iter_mut().find(|entry| is_for_route(entry, route)) {
        Some(entry) => *entry = fresh,
        None => all.push(fresh),
    }
}

fn recorded_original(
    all: &[OriginalRoute],
    route: &RouteRef,
    routing: &Routing,
) -> Option<OriginalWeights> {
    let entry = all
        .iter()
        .find(|entry| is_for_route(entry, route) && is_in_plan(entry, routing))?;
    serde_json::from_str(&entry.backends).ok()
}

impl EffectExecutor<'_> {
    pub(super) async fn set_weight(
        &self,
        route: &RouteRef,
        canary: Weight,
    ) -> Result<(), EffectError> {
        let routing = self
            .plan
            .routing()
            .ok_or_else(|| EffectError::Impossible("the plan has no router".to_owned()))?;
        let original = recorded_original(&self.status.original_routes, route, routing);
        if original.is_none() {
            return Err(EffectError::Impossible(format!(
                "the original backends of HTTPRoute {} are not recorded yet",
                route.name
            )));
        }
        let written = self
            .change_route(&route.name, |object| {
                let (stable, canary_service) = (&routing.stable_service, &routing.canary_service);
                serin_traffic::set_weight(
                    object,
                    route.rule.as_deref(),
                    stable,
                    canary_service,
                    canary,
                    original.as_ref(),
                )
            })
            .await?;
        if written {
            self.metrics.record_weight_change();
            tracing::info!(route = %route.name, weight = %canary, "set canary weight");
        }
        Ok(())
    }

    /// Patches a route. Returns false if there was nothing to change.
    async fn change_route(
        &self,
        name: &str,
        patch_for: impl Fn(&Value) -> Result<json_patch::Patch, serin_traffic::RouteError>,
    ) -> Result<bool, EffectError> {
        let resource = self
            .cache
            .route_kind
            .resource()
            .map_err(EffectError::KindAbsent)?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.namespace(), &resource);
        let key = self.key(name);
        let mut cached = match self.cache.routes.get(&key) {
            Some(cached) => cached,
            None => self.read_route(&api, name).await?,
        };
        for attempt in 1..=ATTEMPTS {
            let patch = patch_for(&cached.object).map_err(|problem| {
                EffectError::Impossible(format!("HTTPRoute {name}: {problem}"))
            })?;
            if patch.0.is_empty() {
                return Ok(false);
            }
            self.authorize_write("HTTPRoute", "patch")?;
            match api
                .patch(name, &patch_params(), &Patch::Json::<()>(patch))
                .await
            {
                Ok(answer) => {
                    self.cache.routes.put(CachedRoute::from(answer));
                    return Ok(true);
                }
                // The API server returns Invalid (422) for a failed `test` operation, and Conflict
                // for a race during the write.
                Err(kube::Error::Api(status))
                    if attempt < ATTEMPTS
                        && (api_status::is_invalid(&status)
                            || api_status::is_conflict(&status)) =>
                {
                    let before = cached.identity().resource_version.clone();
                    cached = self.read_route(&api, name).await?;
                    if api_status::is_invalid(&status)
                        && cached.identity().resource_version == before
                    {
                        return Err(EffectError::Refused {
                            what: format!("HTTPRoute {name}"),
                            message: api_status::message(&status),
                        });
                    }
                }
                Err(error) => return Err(self.route_error(name, error)),
            }
        }
        Err(EffectError::Conflict(format!("HTTPRoute {name}")))
    }

    async fn read_route(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
    ) -> Result<std::sync::Arc<CachedRoute>, EffectError> {
        let fresh = match api.get(name).await {
            Ok(fresh) => fresh,
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {
                self.cache.routes.remove(&self.key(name));
                return Err(EffectError::Impossible(format!(
                    "HTTPRoute {name} does not exist"
                )));
            }
            Err(error) => return Err(self.route_error(name, error)),
        };
        Ok(self.cache.routes.put(CachedRoute::from(fresh)))
    }

    /// A 404 that is not about the object means that this version is no longer served.
    fn route_error(&self, name: &str, error: kube::Error) -> EffectError {
        if let kube::Error::Api(status) = &error
            && api_status::is_missing_kind(status)
        {
            self.cache.route_kind.request_recheck();
        }
        EffectError::api(format!("HTTPRoute {name}"))(error)
    }
}

/// Restores all routes. Missing routes are skipped.
///
/// # Errors
/// The first failure, after all routes have been tried.
pub async fn restore_all_routes(
    executor: &EffectExecutor<'_>,
    original_routes: &[OriginalRoute],
) -> Result<(), EffectError> {
    match restore(executor, original_routes.iter()).await {
        // The last discovery may be half a minute old. If the kind is gone, no routes are left to
        // restore.
        Err(EffectError::KindAbsent(why)) => {
            match executor
                .cache
                .route_kind
                .kind()
                .discover(executor.client)
                .await
            {
                Discovery::Absent => {
                    tracing::info!(%why, "the route kind is not served; no routes to restore");
                    Ok(())
                }
                _ => {
                    executor.cache.route_kind.request_recheck();
                    Err(EffectError::KindAbsent(why))
                }
            }
        }
        restored => restored.map(drop),
    }
}

async fn restore(
    executor: &EffectExecutor<'_>,
    original_routes: impl Iterator<Item = &OriginalRoute>,
) -> Result<bool, EffectError> {
    let (mut failure, mut absent) = (None, None);
    let mut changed = false;
    for entry in original_routes {
        let Ok(original) = serde_json::from_str::<OriginalWeights>(&entry.backends) else {
            continue;
        };
        let Some((stable, canary)) = services_of(entry, executor.plan.routing()) else {
            continue;
        };
        let restored = executor
            .change_route(&entry.name, |object| {
                serin_traffic::restore(object, &original, stable, canary)
            })
            .await;
        match restored {
            Ok(written) => changed |= written,
            Err(EffectError::Impossible(why)) => {
                tracing::info!(route = %entry.name, %why, "cannot restore route; skipping");
            }
            Err(EffectError::KindAbsent(why)) => absent = Some(EffectError::KindAbsent(why)),
            Err(error) => failure = Some(error),
        }
    }
    failure.or(absent).map_or(Ok(changed), Err)
}
