//! A Rollout and the objects that belong to it, as read from the API server.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serin_core::plan::RouteKind;
use serin_crds::api_status;
use serin_crds::names::{GROUP, ROLLOUT_LABEL};
use serin_crds::traffic_routing::TrafficRoutingSpec;
use serin_traffic::{Router, router_of};

use crate::connect::{Connection, error_chain, send, try_send};
use crate::exit::{CliError, Exit};

/// A value that was read, or the reason why reading failed.
pub type ReadResult<T> = Result<T, String>;

/// A Rollout and the objects that belong to it.
#[derive(Clone, Debug)]
pub struct RolloutResources {
    /// The Rollout.
    pub rollout: DynamicObject,
    /// Its ReplicaSets.
    pub replica_sets: ReadResult<Vec<ReplicaSet>>,
    /// Its pods.
    pub pods: ReadResult<Vec<Pod>>,
    /// Its routes, by name.
    pub routes: Vec<RouteResource>,
}

/// A route of a Rollout.
#[derive(Clone, Debug)]
pub struct RouteResource {
    /// The router of its kind.
    pub router: &'static dyn Router,
    /// Its name.
    pub name: String,
    /// The object.
    pub object: ReadResult<DynamicObject>,
}

/// The Rollout kind, untyped: the plugin must be able to read objects of a newer controller.
pub fn rollout_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GROUP, "v1alpha1", "Rollout"),
        "rollouts",
    )
}

/// A kind of route in one version, untyped.
fn route_resource(router: &dyn Router, version: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(router.group(), version, router.kind());
    ApiResource::from_gvk_with_plural(&kind, router.plural())
}

/// The routes of a namespace, in the kind and the version of the given route.
pub fn routes_api(client: Client, namespace: &str, route: &RouteResource) -> Api<DynamicObject> {
    let object = route.object.as_ref().ok();
    let types = object.and_then(|object| object.types.as_ref());
    let version = types
        .and_then(|types| types.api_version.rsplit('/').next())
        .unwrap_or(route.router.versions()[0]);
    Api::namespaced_with(client, namespace, &route_resource(route.router, version))
}

/// Reads a route in the first version that the cluster serves.
async fn read_route(
    client: &Client,
    namespace: &str,
    router: &dyn Router,
    name: &str,
) -> Result<DynamicObject, kube::Error> {
    let get = async |version: &str| {
        let resource = route_resource(router, version);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        api.get(name).await
    };
    let [preferred, older @ ..] = router.versions() else {
        return get("v1").await;
    };
    let mut answer = get(preferred).await;
    for version in older {
        match &answer {
            Err(kube::Error::Api(status)) if api_status::is_missing_kind(status) => {
                answer = get(version).await;
            }
            _ => break,
        }
    }
    answer
}

/// The Rollouts of a namespace.
pub fn rollouts(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &rollout_resource())
}

/// Label selector for the objects of the Rollout `name`.
pub fn owned_by_selector(name: &str) -> String {
    format!("{ROLLOUT_LABEL}={name}")
}

/// The routes in a Rollout's spec, each once. None if this version does not know the fields of its
/// router.
fn named_routes(rollout: &DynamicObject) -> Vec<(&'static dyn Router, String)> {
    let strategy = &rollout.data["spec"]["strategy"];
    let of = |name: &str| &strategy[name]["trafficRouting"];
    let spec = if of("canary").is_null() {
        of("blueGreen")
    } else {
        of("canary")
    };
    let spec = TrafficRoutingSpec::deserialize(spec).unwrap_or_default();
    let routes = spec.named_routes().into_iter().map(|named| named.route);
    let names: BTreeSet<(RouteKind, String)> =
        routes.map(|route| (route.kind, route.name)).collect();
    names
        .into_iter()
        .map(|(kind, name)| (router_of(kind), name))
        .collect()
}

/// Reads a Rollout.
///
/// # Errors
/// Fails if the Rollout does not exist (with similar names as hints) or the request fails.
pub async fn read_rollout(connection: &Connection, name: &str) -> Result<DynamicObject, CliError> {
    let api = rollouts(connection.client.clone(), &connection.namespace);
    match try_send(api.get(name)).await {
        Some(Err(kube::Error::Api(status))) if api_status::is_missing_object(&status) => {
            Err(rollout_not_found(connection, name).await)
        }
        Some(Err(error)) => Err(crate::connect::api_error("read the Rollout", &error)),
        Some(Ok(rollout)) => Ok(rollout),
        None => Err(crate::connect::timeout_error("read the Rollout")),
    }
}

/// Reads a Rollout and its objects. An object that cannot be read is recorded as an error and does
/// not hide the others.
///
/// # Errors
/// Fails if the Rollout itself cannot be read.
pub async fn read_resources(
    connection: &Connection,
    name: &str,
) -> Result<RolloutResources, CliError> {
    let rollout = read_rollout(connection, name).await?;
    let Connection { client, namespace } = connection;
    let mine = ListParams::default().labels(&owned_by_selector(name));
    let replica_sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let names = named_routes(&rollout);
    let (replica_sets, pods, route_objects) =
        futures::join!(
            read_or_reason(replica_sets.list(&mine)),
            read_or_reason(pods.list(&mine)),
            futures::future::join_all(names.iter().map(|(router, name)| read_or_reason(
                read_route(client, namespace, *router, name)
            ))),
        );
    let routes = names
        .into_iter()
        .zip(route_objects)
        .map(|((router, name), object)| RouteResource {
            router,
            name,
            object,
        })
        .collect();
    Ok(RolloutResources {
        rollout,
        replica_sets: replica_sets.map(|list| list.items),
        pods: pods.map(|list| list.items),
        routes,
    })
}

async fn read_or_reason<T: Serialize + DeserializeOwned>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> ReadResult<T> {
    match try_send(request).await {
        Some(answer) => answer.map_err(|error| describe_read_error(&error)),
        None => Err("no answer from the API server".to_owned()),
    }
}

/// Describes why an object could not be read.
pub fn describe_read_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if api_status::is_missing_kind(status) => {
            "this cluster does not serve the kind".to_owned()
        }
        kube::Error::Api(status) => api_status::message(status),
        other => error_chain(other),
    }
}

/// The error for a Rollout that does not exist, with similar names and other namespaces as hints.
async fn rollout_not_found(connection: &Connection, name: &str) -> CliError {
    let Connection { client, namespace } = connection;
    let mut failure = CliError::new(
        Exit::Usage,
        format!("Rollout {name} not found in namespace {namespace}"),
    );
    let here = send(
        "list Rollouts",
        rollouts(client.clone(), namespace).list_metadata(&ListParams::default()),
    )
    .await;
    let names: Vec<String> = here
        .map(namespaced_names)
        .unwrap_or_default()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    let near = similar_names(name, &names);
    if !near.is_empty() {
        failure = failure.hint(format!("Did you mean {}?", near.join(" or ")));
    }
    let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), &rollout_resource());
    let same_name = ListParams::default().fields(&format!("metadata.name={name}"));
    // Without permission to list other namespaces there is no hint about them.
    if let Ok(elsewhere) = send("list Rollouts", everywhere.list_metadata(&same_name)).await {
        for (namespace, _) in namespaced_names(elsewhere).iter().take(3) {
            failure = failure.hint(format!(
                "It exists in namespace {namespace}: use -n {namespace}"
            ));
        }
    }
    failure
}

fn namespaced_names(
    list: kube::core::ObjectList<kube::core::PartialObjectMeta<DynamicObject>>,
) -> Vec<(String, String)> {
    list.items
        .into_iter()
        .map(|item| {
            (
                item.metadata.namespace.unwrap_or_default(),
                item.metadata.name.unwrap_or_default(),
            )
        })
        .collect()
}

/// Up to three names that are similar to `typed`, nearest first.
fn similar_names(typed: &str, names: &[String]) -> Vec<String> {
    let mut near: Vec<(f64, &String)> = names
        .iter()
        .map(|name| {
            let contained = name.contains(typed) || typed.contains(name.as_str());
            (
                strsim::jaro_winkler(typed, name).max(if contained { 0.9 } else { 0.0 }),
                name,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.8)
        .collect();
    near.sort_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(right.1)));
    near.into_iter()
        .take(3)
        .map(|(_, name)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_similar_names_are_suggested() {
        let there = names(&["checkout", "checkout-eu", "payments"]);
        assert_eq!(
            similar_names("chekcout", &there),
            names(&["checkout", "checkout-eu"])
        );
        assert_eq!(similar_names("eu", &there), names(&["checkout-eu"]));
        assert!(similar_names("zzz", &there).is_empty());
    }
}
