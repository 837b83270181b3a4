//! Everything that belongs to a Rollout, as it was read.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;
use serin_crds::api_status;
use serin_crds::names::{GROUP, ROLLOUT_LABEL};

use crate::connect::{Connection, ask, causes, try_ask};
use crate::exit::{Exit, Failure};

/// What was read, or why it could not be.
pub type Seen<T> = Result<T, String>;

/// One look at a Rollout and all that belongs to it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The Rollout itself.
    pub rollout: DynamicObject,
    /// Its ReplicaSets.
    pub replica_sets: Seen<Vec<ReplicaSet>>,
    /// Its pods.
    pub pods: Seen<Vec<Pod>>,
    /// Its routes, by name.
    pub routes: Vec<RoutePicture>,
}

/// A route of a Rollout.
#[derive(Clone, Debug)]
pub struct RoutePicture {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The object.
    pub object: Seen<DynamicObject>,
}

/// The Rollout kind, untyped: an object that a newer controller wrote must still be readable.
pub fn rollout_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(GROUP, "v1alpha1", "Rollout"),
        "rollouts",
    )
}

/// The versions of HTTPRoute that a cluster may serve, the preferred one first.
const HTTP_ROUTE_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The HTTPRoute kind in one version, untyped.
fn http_route_resource(version: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", version, "HTTPRoute");
    ApiResource::from_gvk_with_plural(&kind, "httproutes")
}

/// The routes of a namespace, in the version in which this one was read.
pub fn routes_like(
    client: Client,
    namespace: &str,
    read: &Seen<DynamicObject>,
) -> Api<DynamicObject> {
    let types = read.as_ref().ok().and_then(|route| route.types.as_ref());
    let version = types
        .and_then(|types| types.api_version.rsplit('/').next())
        .unwrap_or(HTTP_ROUTE_VERSIONS[0]);
    Api::namespaced_with(client, namespace, &http_route_resource(version))
}

/// Reads a route in the first version that the cluster serves.
async fn read_route(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<DynamicObject, kube::Error> {
    let [preferred, older] = HTTP_ROUTE_VERSIONS.map(|version| {
        Api::<DynamicObject>::namespaced_with(
            client.clone(),
            namespace,
            &http_route_resource(version),
        )
    });
    match preferred.get(name).await {
        Err(kube::Error::Api(status)) if api_status::is_missing_kind(&status) => {
            older.get(name).await
        }
        answer => answer,
    }
}

/// The Rollouts of a namespace.
pub fn rollouts(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &rollout_resource())
}

/// Selects what belongs to the Rollout of that name.
pub fn belongs_to(name: &str) -> String {
    format!("{ROLLOUT_LABEL}={name}")
}

/// The names of the HTTPRoutes that a Rollout's spec speaks of, each once.
pub fn route_names(rollout: &DynamicObject) -> Vec<String> {
    let gateway = &rollout.data["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"];
    let several = gateway["httpRoutes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|route| &route["name"]);
    let mut names: Vec<String> = std::iter::once(&gateway["httpRoute"])
        .chain(several)
        .filter_map(Value::as_str)
        .map(ToOwned::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Reads a Rollout.
///
/// # Errors
/// There is none of that name (with the names that were perhaps meant), or the API server could not
/// be asked.
pub async fn read_rollout(connection: &Connection, name: &str) -> Result<DynamicObject, Failure> {
    let api = rollouts(connection.client.clone(), &connection.namespace);
    match try_ask(api.get(name)).await {
        Some(Err(kube::Error::Api(status))) if api_status::is_missing_object(&status) => {
            Err(no_such_rollout(connection, name).await)
        }
        Some(Err(error)) => Err(crate::connect::api_failure("read the Rollout", &error)),
        Some(Ok(rollout)) => Ok(rollout),
        None => Err(crate::connect::no_answer("read the Rollout")),
    }
}

/// Reads a Rollout and all that belongs to it. What may not be read is told as such and hides
/// nothing else.
///
/// # Errors
/// The Rollout itself could not be read.
pub async fn read(connection: &Connection, name: &str) -> Result<Picture, Failure> {
    let rollout = read_rollout(connection, name).await?;
    let Connection { client, namespace } = connection;
    let mine = ListParams::default().labels(&belongs_to(name));
    let replica_sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let names = route_names(&rollout);
    let (replica_sets, pods, route_objects) = futures::join!(
        seen(replica_sets.list(&mine)),
        seen(pods.list(&mine)),
        futures::future::join_all(
            names
                .iter()
                .map(|name| seen(read_route(client, namespace, name)))
        ),
    );
    let routes = names
        .into_iter()
        .zip(route_objects)
        .map(|(name, object)| RoutePicture {
            kind: "HTTPRoute",
            name,
            object,
        })
        .collect();
    Ok(Picture {
        rollout,
        replica_sets: replica_sets.map(|list| list.items),
        pods: pods.map(|list| list.items),
        routes,
    })
}

async fn seen<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Seen<T> {
    match try_ask(request).await {
        Some(answer) => answer.map_err(|error| unread(&error)),
        None => Err("no answer from the API server".to_owned()),
    }
}

/// An error, for the place where the objects would stand.
pub fn unread(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if api_status::is_missing_kind(status) => {
            "this cluster does not serve the kind".to_owned()
        }
        kube::Error::Api(status) => api_status::message(status),
        other => causes(other),
    }
}

/// The failure where there is no Rollout of that name, with what was perhaps meant.
async fn no_such_rollout(connection: &Connection, name: &str) -> Failure {
    let Connection { client, namespace } = connection;
    let mut failure = Failure::new(
        Exit::Usage,
        format!("there is no Rollout {name} in namespace {namespace}"),
    );
    let here = ask(
        "list Rollouts",
        rollouts(client.clone(), namespace).list_metadata(&ListParams::default()),
    )
    .await;
    let names: Vec<String> = here
        .map(names_of)
        .unwrap_or_default()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    let near = near_names(name, &names);
    if !near.is_empty() {
        failure = failure.hint(format!("Did you mean {}?", near.join(" or ")));
    }
    let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), &rollout_resource());
    let same_name = ListParams::default().fields(&format!("metadata.name={name}"));
    // Whoever may not list other namespaces gets no hint about them.
    if let Ok(elsewhere) = ask("list Rollouts", everywhere.list_metadata(&same_name)).await {
        for (namespace, _) in names_of(elsewhere).iter().take(3) {
            failure = failure.hint(format!(
                "There is one in namespace {namespace}: add -n {namespace}"
            ));
        }
    }
    failure
}

fn names_of(
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

/// The names that are most like the one that was typed, nearest first, at most three.
fn near_names(typed: &str, names: &[String]) -> Vec<String> {
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
    fn near_names_are_suggested_and_strangers_are_not() {
        let there = names(&["checkout", "checkout-eu", "payments"]);
        assert_eq!(
            near_names("chekcout", &there),
            names(&["checkout", "checkout-eu"])
        );
        assert_eq!(near_names("eu", &there), names(&["checkout-eu"]));
        assert!(near_names("zzz", &there).is_empty());
    }
}
