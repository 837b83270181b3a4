//! Discovery, version and health endpoints.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::ServedKind;
use super::request::ApiRequest;
use super::store::ObjectStore;

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Responds to a request that is not for objects. `None` if the path is unknown.
pub(crate) fn respond(store: &ObjectStore, request: &ApiRequest, client: &str) -> Option<Value> {
    let parts: Vec<&str> = request
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let aggregated = request.accept.contains("as=APIGroupDiscoveryList");
    match parts.as_slice() {
        ["version"] => Some(json!({"major": "1", "minor": "34", "gitVersion": "v1.34.4"})),
        ["healthz" | "livez" | "readyz"] => Some(json!("ok")),
        ["api"] if aggregated => Some(aggregated_groups(store, true)),
        ["apis"] if aggregated => Some(aggregated_groups(store, false)),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => {
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(store)}))
        }
        ["apis", group] => groups(store)
            .into_iter()
            .find(|known| known["name"] == *group),
        ["api", version] => resources(store, "", version),
        ["apis", group, version] => resources(store, group, version),
        ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"] => Some(json!({
            "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
            "status": {"userInfo": {"username": client, "groups": ["system:authenticated"]}},
        })),
        _ => None,
    }
}

fn kinds_by_group(store: &ObjectStore) -> BTreeMap<&str, BTreeMap<&str, Vec<&ServedKind>>> {
    let mut groups: BTreeMap<&str, BTreeMap<&str, Vec<&ServedKind>>> = BTreeMap::new();
    for kind in &store.kinds {
        groups
            .entry(&kind.group)
            .or_default()
            .entry(&kind.version)
            .or_default()
            .push(kind);
    }
    groups
}

fn groups(store: &ObjectStore) -> Vec<Value> {
    let named = kinds_by_group(store)
        .into_iter()
        .filter(|(group, _)| !group.is_empty());
    named
        .map(|(group, versions)| {
            let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
            let versions: Vec<Value> = versions.keys().map(version).collect();
            json!({
                "kind": "APIGroup", "apiVersion": "v1", "name": group,
                "preferredVersion": versions.last(), "versions": versions,
            })
        })
        .collect()
}

fn resources(store: &ObjectStore, group: &str, version: &str) -> Option<Value> {
    let groups = kinds_by_group(store);
    let kinds = groups.get(group)?.get(version)?;
    let resources = kinds.iter().flat_map(|kind| {
        let entry = |suffix: &str, verbs: &[&str]| {
            json!({
                "name": format!("{}{suffix}", kind.plural), "singularName": kind.kind.to_lowercase(),
                "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs,
            })
        };
        let status = kind.status.then(|| entry("/status", &["get", "patch", "update"]));
        let scale = kind.scale.then(|| entry("/scale", &["get", "patch", "update"]));
        std::iter::once(entry("", &VERBS)).chain(status).chain(scale).collect::<Vec<_>>()
    });
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": resources.collect::<Vec<_>>(),
    }))
}

/// Aggregated discovery: all groups and their resources in one response.
fn aggregated_groups(store: &ObjectStore, core: bool) -> Value {
    let resource = |kind: &&ServedKind| {
        let response_kind =
            json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let subresources = [("status", kind.status), ("scale", kind.scale)]
            .into_iter()
            .filter(|(_, has)| *has);
        let subresources: Vec<Value> = subresources
            .map(|(name, _)| json!({"subresource": name, "responseKind": response_kind, "verbs": ["get", "patch", "update"]}))
            .collect();
        json!({
            "resource": kind.plural, "responseKind": response_kind, "singularResource": kind.kind.to_lowercase(),
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" }, "verbs": VERBS, "subresources": subresources,
        })
    };
    let wanted = kinds_by_group(store)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core);
    let items: Vec<Value> = wanted
        .map(|(group, versions)| {
            let version = |(version, kinds): (&str, Vec<&ServedKind>)| {
                json!({"version": version, "freshness": "Current", "resources": kinds.iter().map(resource).collect::<Vec<_>>()})
            };
            json!({"metadata": {"name": group}, "versions": versions.into_iter().map(version).collect::<Vec<_>>()})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}
