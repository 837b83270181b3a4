//! Traffic weights in routes: changed by JSON Patch, and restored at the end.

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use serde_json::Value;
use serin_core::managed_route::ManagedRoute;
use serin_core::plan::RouteRef;
use serin_core::units::Weight;
use serin_crds::api_status;
use serin_crds::status::{ORIGINAL_ROUTES_BYTES, OriginalRoute};
use serin_traffic::{OriginalWeights, Services, router_of};

use super::original_routes::{is_held_by_another, is_in_plan, recorded_original, services_of};
use super::{EffectError, EffectExecutor, patch_params};
use crate::cluster_cache::{CachedObject, CachedRoute, Discovery, RouteCache};

/// A conflict is retried once after a new read.
const ATTEMPTS: usize = 2;

/// A route in messages, with its rule.
pub fn route_label(route: &RouteRef) -> String {
    let (kind, name) = (router_of(route.kind).kind(), &route.name);
    match &route.rule {
        Some(rule) => format!("{kind} {name} (rule {rule})"),
        None => format!("{kind} {name}"),
    }
}

/// The weight and the rules for chosen requests in a line.
fn describe(canary: Weight, managed: &[ManagedRoute]) -> String {
    let names = managed.iter().map(|one| format!(" {}", one.name));
    format!("{canary}{}", names.collect::<String>())
}

/// The JSON Patch for a route, or why it cannot be made.
type RoutePatch = Result<json_patch::Patch, serin_traffic::RouteError>;

/// Restores the routes that the plan no longer uses, or uses with other Services. Nothing else
/// would update the weight that they give to the canary. Returns whether any route was changed.
///
/// # Errors
/// The first failure, after all routes have been tried.
pub async fn restore_orphaned_routes(executor: &EffectExecutor<'_>) -> Result<bool, EffectError> {
    let routing = executor.plan.routing();
    let is_orphaned =
        |entry: &&OriginalRoute| routing.is_none_or(|routing| !is_in_plan(entry, routing));
    let (mut changed, mut failure) = (false, None);
    let originals = executor.status.original_routes.iter();
    for entry in originals.filter(is_orphaned) {
        match restore(executor, entry).await {
            Ok(written) => changed |= written,
            // It stays recorded, and is restored when the kind is served again.
            Err(EffectError::KindAbsent(_)) => {}
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(changed), Err)
}

impl EffectExecutor<'_> {
    pub(super) async fn set_weight(
        &self,
        route: &RouteRef,
        canary: Weight,
        managed: &[ManagedRoute],
    ) -> Result<(), EffectError> {
        let routing = self
            .plan
            .routing()
            .ok_or_else(|| EffectError::Impossible("the plan has no router".to_owned()))?;
        let services = Services {
            stable: routing.stable_service(),
            canary: routing.canary_service(),
        };
        let router = router_of(route.kind);
        self.check_held(routing.stable_service())?;
        let label = route_label(route);
        let original = recorded_original(&self.status.original_routes, route, routing);
        if original.is_none() {
            return Err(EffectError::Impossible(format!(
                "the original backends of {label} are not recorded, so its weights are not \
                 changed. The backends of all routes must fit into {} KiB of the status: use fewer \
                 backends in the rules that Serin manages, or name the rule",
                ORIGINAL_ROUTES_BYTES >> 10
            )));
        }
        let rule = route.rule.as_deref();
        let pace = |object: &Value| {
            let now = router.canary_weight(object, rule, services);
            // With no candidates, it finds out whether there are any rules for chosen requests.
            let has_others = || router.managed_routes(object, rule, services, &[]).is_none();
            let lowers = managed.is_empty()
                && now.is_ok_and(|now| canary < now || (canary == now && has_others()));
            self.pace(&label, &describe(canary, managed), lowers)
        };
        let patch_for = |object: &Value| {
            let original = original.as_ref();
            router.set_weight(object, rule, services, canary, managed, original)
        };
        let of_kind = self.cache.routes.of_kind(route.kind);
        // An older CRD would drop the names by which the rules are found again.
        let params = PatchParams {
            field_validation: (!managed.is_empty()).then_some(ValidationDirective::Strict),
            ..patch_params()
        };
        let written = self
            .change_route(of_kind, &route.name, params, patch_for, pace)
            .await?;
        if written {
            self.metrics.record_weight_change();
            let traffic = describe(canary, managed);
            tracing::info!(route = %route.name, weight = %traffic, "set canary weight");
        }
        Ok(())
    }

    /// Patches a route after `before_write` has permitted it. Returns false if there was nothing to
    /// change.
    async fn change_route(
        &self,
        routes: &RouteCache,
        name: &str,
        params: PatchParams,
        patch_for: impl Fn(&Value) -> RoutePatch,
        before_write: impl Fn(&Value) -> Result<(), EffectError>,
    ) -> Result<bool, EffectError> {
        let kind = routes.router.kind();
        let resource = routes.state.resource().map_err(EffectError::KindAbsent)?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.namespace(), &resource);
        let key = self.key(name);
        let mut cached = match routes.objects.get(&key) {
            Some(cached) => cached,
            None => self.read_route(routes, &api, name).await?,
        };
        for attempt in 1..=ATTEMPTS {
            let patch = patch_for(&cached.object)
                .map_err(|problem| EffectError::Impossible(format!("{kind} {name}: {problem}")))?;
            if patch.0.is_empty() {
                return Ok(false);
            }
            if attempt == 1 {
                before_write(&cached.object)?;
            }
            self.authorize_write(kind, "patch")?;
            match api.patch(name, &params, &Patch::Json::<()>(patch)).await {
                Ok(answer) => {
                    routes.objects.put(CachedRoute::from(answer));
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
                    cached = self.read_route(routes, &api, name).await?;
                    if api_status::is_invalid(&status)
                        && cached.identity().resource_version == before
                    {
                        return Err(EffectError::Refused {
                            what: format!("{kind} {name}"),
                            message: api_status::message(&status),
                            by_policy: true,
                        });
                    }
                }
                Err(error) => return Err(route_error(routes, name, error)),
            }
        }
        Err(EffectError::Conflict(format!("{kind} {name}")))
    }

    async fn read_route(
        &self,
        routes: &RouteCache,
        api: &Api<DynamicObject>,
        name: &str,
    ) -> Result<std::sync::Arc<CachedRoute>, EffectError> {
        let fresh = match api.get(name).await {
            Ok(fresh) => fresh,
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {
                routes.objects.remove(&self.key(name));
                let kind = routes.router.kind();
                return Err(EffectError::Impossible(format!(
                    "{kind} {name} does not exist"
                )));
            }
            Err(error) => return Err(route_error(routes, name, error)),
        };
        Ok(routes.objects.put(CachedRoute::from(fresh)))
    }
}

/// A 404 that is not about the object means that this version is no longer served.
fn route_error(routes: &RouteCache, name: &str, error: kube::Error) -> EffectError {
    if let kube::Error::Api(status) = &error
        && api_status::is_missing_kind(status)
    {
        routes.state.request_recheck();
    }
    EffectError::api(format!("{} {name}", routes.router.kind()))(error)
}

/// Restores all routes. Missing routes are skipped.
///
/// # Errors
/// The first failure, after all routes have been tried.
pub async fn restore_all_routes(
    executor: &EffectExecutor<'_>,
    original_routes: &[OriginalRoute],
) -> Result<(), EffectError> {
    let mut failure = None;
    for entry in original_routes {
        let Err(error) = restore(executor, entry).await else {
            continue;
        };
        let routes = executor.cache.routes.of_name(&entry.kind);
        if let (EffectError::KindAbsent(why), Some(routes)) = (&error, routes) {
            // The last discovery may be half a minute old. If the kind is gone, no routes are left
            // to restore.
            if routes.state.kind().discover(executor.client).await == Discovery::Absent {
                tracing::info!(%why, "the route kind is not served; no routes to restore");
                continue;
            }
            routes.state.request_recheck();
        }
        // What may succeed later comes first, so that it is not given up with the rest.
        if failure.is_none() || !error.is_refused_by_policy() {
            failure = Some(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Restores one route. Returns whether it was changed.
async fn restore(
    executor: &EffectExecutor<'_>,
    entry: &OriginalRoute,
) -> Result<bool, EffectError> {
    let Ok(original) = serde_json::from_str::<OriginalWeights>(&entry.backends) else {
        return Ok(false);
    };
    let (services, routes) = (
        services_of(entry, executor.plan.routing()),
        executor.cache.routes.of_name(&entry.kind),
    );
    let (Some((stable, canary)), Some(routes)) = (services, routes) else {
        return Ok(false);
    };
    let rollout = executor.key(executor.name());
    if is_held_by_another(entry, stable, &rollout, executor.cache) {
        return Ok(false);
    }
    let restore = executor.change_route(
        routes,
        &entry.name,
        patch_params(),
        |object| {
            let services = Services { stable, canary };
            routes.router.restore(object, &original, services)
        },
        |_| Ok(()),
    );
    match executor.within_time(restore).await {
        Err(EffectError::Impossible(why)) => {
            tracing::info!(route = %entry.name, %why, "cannot restore route; skipping");
            Ok(false)
        }
        restored => restored,
    }
}
