//! The split in a route: changed by JSON Patch on what was read, recorded before the first change, restored at the end.

use kube::Api;
use kube::api::{DynamicObject, Patch};
use serde_json::Value;
use serin_core::effect::{Decision, Effect};
use serin_core::plan::{RouteKind, RouteRef, Routing};
use serin_core::state::Stage;
use serin_core::units::Weight;
use serin_crds::api_status;
use serin_crds::status::OriginalRoute;
use serin_traffic::Original;

use super::{EffectError, Hands, patch_params};
use crate::observe::Snapshot;
use crate::world::{Discovery, Fact, Key, RouteFact, World};

/// A conflict is tried once more on a fresh read.
const ATTEMPTS: usize = 2;

const fn kind_name(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::HttpRoute => "HTTPRoute",
    }
}

/// The routes as they must be remembered: before any of `effects` changes them, and with the beginning of a release, so that
/// they need no write of their own. What is `known` of others stays.
pub fn originals(
    known: &[OriginalRoute],
    decision: &Decision,
    routing: Option<&Routing>,
    snapshot: &Snapshot,
    rollout: &Key,
    world: &World,
) -> Vec<OriginalRoute> {
    let mut all = known.to_vec();
    let Some(routing) = routing else { return all };
    let releasing = matches!(decision.state.stage, Stage::Stepping | Stage::Promoting);
    for route in &routing.routes {
        let changes = |effect: &Effect| matches!(effect, Effect::SetWeight { route: changed, .. } if changed == route);
        let is_new = releasing && original_of(&all, route).is_none();
        let Some(fact) = snapshot.routes.get(&route.name) else { continue };
        if is_new || decision.effects.iter().any(changes) {
            remember(&mut all, route, &fact.object, routing);
        }
    }
    all.retain(|entry| is_named(entry, routing) || !is_restored(entry, routing, rollout, world));
    all
}

fn is_named(entry: &OriginalRoute, routing: &Routing) -> bool {
    routing.routes.iter().any(|route| kind_name(route.kind) == entry.kind && route.name == entry.name)
}

/// Whether there is nothing left to put back.
fn is_restored(entry: &OriginalRoute, routing: &Routing, rollout: &Key, world: &World) -> bool {
    // Only if the kind was served before and after is the missing object a deleted one.
    let served = world.route_kind.is_served();
    let fact = world.routes.get(&Key::new(&rollout.namespace, &entry.name));
    let Some(fact) = fact else { return served && world.route_kind.is_served() };
    let Ok(original) = serde_json::from_str::<Original>(&entry.backends) else { return true };
    let patch = serin_traffic::restore(&fact.object, &original, &routing.stable_service, &routing.canary_service);
    patch.is_ok_and(|patch| patch.0.is_empty())
}

/// Gives back the routes that the plan names no longer: nobody would look after the share that they give to the canary.
///
/// # Errors
/// The first failure, after all have been tried.
pub async fn restore_left(hands: &Hands<'_>) -> Result<(), EffectError> {
    let Some(routing) = hands.plan.routing() else { return Ok(()) };
    let left = hands.status.original_routes.iter().filter(|entry| !is_named(entry, routing));
    match restore(hands, routing, left).await {
        // They stay recorded, and are restored once the kind is back.
        Err(EffectError::KindAbsent(_)) => Ok(()),
        restored => restored,
    }
}

fn remember(all: &mut Vec<OriginalRoute>, route: &RouteRef, object: &Value, routing: &Routing) {
    let known = original_of(all, route);
    let (stable, canary) = (&routing.stable_service, &routing.canary_service);
    let fresh = serin_traffic::refreshed(object, route.rule.as_deref(), stable, canary, known.as_ref());
    // A route that cannot be read is not changed either.
    let Ok(mut fresh) = fresh else { return };
    // Several entries of a plan may name rules of one route.
    let others = known.into_iter().flat_map(|known| known.rules);
    for rule in others {
        if fresh.rules.iter().all(|fresh| (fresh.index, &fresh.name) != (rule.index, &rule.name)) {
            fresh.rules.push(rule);
        }
    }
    fresh.rules.sort_by_key(|rule| rule.index);
    let Ok(backends) = serde_json::to_string(&fresh) else { return };
    let kind = kind_name(route.kind).to_owned();
    match all.iter_mut().find(|entry| entry.kind == kind && entry.name == route.name) {
        Some(entry) => entry.backends = backends,
        None => all.push(OriginalRoute { kind, name: route.name.clone(), backends }),
    }
}

fn original_of(all: &[OriginalRoute], route: &RouteRef) -> Option<Original> {
    let entry = all.iter().find(|entry| entry.kind == kind_name(route.kind) && entry.name == route.name)?;
    serde_json::from_str(&entry.backends).ok()
}

impl Hands<'_> {
    pub(super) async fn set_weight(&self, route: &RouteRef, canary: Weight) -> Result<(), EffectError> {
        let routing =
            self.plan.routing().ok_or_else(|| EffectError::Impossible("the plan names no router".to_owned()))?;
        let original = original_of(&self.status.original_routes, route);
        if original.is_none() {
            return Err(EffectError::Impossible(format!("HTTPRoute {} is not yet recorded as it was", route.name)));
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
            self.metrics.weight_changed();
            tracing::info!(route = %route.name, weight = %canary, "the route gives the canary this share");
        }
        Ok(())
    }

    /// Patches a route; false where there was nothing to change.
    async fn change_route(
        &self,
        name: &str,
        patch_for: impl Fn(&Value) -> Result<json_patch::Patch, serin_traffic::RouteProblem>,
    ) -> Result<bool, EffectError> {
        let resource = self.world.route_kind.resource().map_err(EffectError::KindAbsent)?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), self.namespace(), &resource);
        let key = self.key(name);
        let mut fact = match self.world.routes.get(&key) {
            Some(fact) => fact,
            None => self.read_route(&api, name).await?,
        };
        for attempt in 1..=ATTEMPTS {
            let patch = patch_for(&fact.object)
                .map_err(|problem| EffectError::Impossible(format!("HTTPRoute {name}: {problem}")))?;
            if patch.0.is_empty() {
                return Ok(false);
            }
            self.may_write("HTTPRoute", "patch")?;
            match api.patch(name, &patch_params(), &Patch::Json::<()>(patch)).await {
                Ok(answer) => {
                    self.world.routes.put(RouteFact::from(answer));
                    return Ok(true);
                }
                // A failed `test` operation is told as invalid (422), a race within the server as a conflict.
                Err(kube::Error::Api(status))
                    if attempt < ATTEMPTS && (api_status::is_invalid(&status) || api_status::is_conflict(&status)) =>
                {
                    let before = fact.identity().resource_version.clone();
                    fact = self.read_route(&api, name).await?;
                    if api_status::is_invalid(&status) && fact.identity().resource_version == before {
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

    async fn read_route(&self, api: &Api<DynamicObject>, name: &str) -> Result<std::sync::Arc<RouteFact>, EffectError> {
        let fresh = match api.get(name).await {
            Ok(fresh) => fresh,
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {
                self.world.routes.remove(&self.key(name));
                return Err(EffectError::Impossible(format!("HTTPRoute {name} does not exist")));
            }
            Err(error) => return Err(self.route_error(name, error)),
        };
        Ok(self.world.routes.put(RouteFact::from(fresh)))
    }

    /// A 404 that is not about the object means that the version which was served is served no longer.
    fn route_error(&self, name: &str, error: kube::Error) -> EffectError {
        if let kube::Error::Api(status) = &error
            && api_status::is_missing_kind(status)
        {
            self.world.route_kind.request_recheck();
        }
        EffectError::api(format!("HTTPRoute {name}"))(error)
    }
}

/// Gives the routes back as they were; those that no longer exist are left alone.
///
/// # Errors
/// The first failure, after all have been tried.
pub async fn restore_all(hands: &Hands<'_>, originals: &[OriginalRoute]) -> Result<(), EffectError> {
    let Some(routing) = hands.plan.routing() else { return Ok(()) };
    match restore(hands, routing, originals.iter()).await {
        // The last look may be half a minute old. Without the kind there are no routes left to restore.
        Err(EffectError::KindAbsent(why)) => match hands.world.route_kind.kind().discover(hands.client).await {
            Discovery::Absent => {
                tracing::info!(%why, "the routes are gone with their kind: there is nothing to restore");
                Ok(())
            }
            _ => {
                hands.world.route_kind.request_recheck();
                Err(EffectError::KindAbsent(why))
            }
        },
        restored => restored,
    }
}

async fn restore(
    hands: &Hands<'_>,
    routing: &Routing,
    originals: impl Iterator<Item = &OriginalRoute>,
) -> Result<(), EffectError> {
    let (mut failure, mut absent) = (None, None);
    for entry in originals {
        let Ok(original) = serde_json::from_str::<Original>(&entry.backends) else { continue };
        let (stable, canary) = (&routing.stable_service, &routing.canary_service);
        let restored =
            hands.change_route(&entry.name, |object| serin_traffic::restore(object, &original, stable, canary)).await;
        match restored {
            Ok(_) => {}
            Err(EffectError::Impossible(why)) => {
                tracing::info!(route = %entry.name, %why, "the route cannot be restored and is left alone");
            }
            Err(EffectError::KindAbsent(why)) => absent = Some(EffectError::KindAbsent(why)),
            Err(error) => failure = Some(error),
        }
    }
    let failure = failure.or(absent);
    failure.map_or(Ok(()), Err)
}
