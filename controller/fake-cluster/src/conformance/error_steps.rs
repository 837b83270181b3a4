//! Requests that fail, one for each form of an error response, and the `scale` subresource.

use http::Method;
use serde_json::{Value, json};

use super::resource_steps::route;
use super::steps::{
    APPLY, ConformanceStep, JSON_PATCH, MAP, MAPS, MERGE, ROUTE, ROUTE_STATUS, ROUTES, delete, get,
    map, patch, post, put, step,
};

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const ROLLOUTS: &str = "/apis/serin.dev/v1alpha1/namespaces/$ns/rollouts";
const ROLLOUT: &str = "/apis/serin.dev/v1alpha1/namespaces/$ns/rollouts/s";
const SCALE: &str = "/apis/serin.dev/v1alpha1/namespaces/$ns/rollouts/s/scale";
/// Larger than the request body limit of the API server.
const OVERSIZED: usize = 3_200_000;

pub(super) fn all() -> Vec<ConformanceStep> {
    let setup = vec![
        post(
            "create a ConfigMap for failing requests",
            MAPS,
            map("a", "1"),
        )
        .keep_as("error-map"),
        post(
            "create a route for failing requests",
            ROUTES,
            route(&json!({})),
        )
        .keep_as("error-route"),
    ];
    [
        setup,
        unknown_kinds(),
        methods(),
        bodies(),
        media_types(),
        preconditions(),
        versions(),
        scaling(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn unknown_kinds() -> Vec<ConformanceStep> {
    vec![
        get(
            "an unknown group, listed everywhere",
            "/apis/nothing.example.com/v1/things",
        ),
        get(
            "an unknown group, watched",
            "/apis/nothing.example.com/v1/things?watch=true",
        ),
        post(
            "create in an unknown group",
            "/apis/nothing.example.com/v1/namespaces/$ns/things",
            json!({}),
        ),
        get(
            "the resources of an unknown group",
            "/apis/nothing.example.com/v1",
        ),
        get("an unknown group itself", "/apis/nothing.example.com"),
        get(
            "an unknown version of a built-in group",
            "/apis/apps/v9/namespaces/$ns/replicasets",
        ),
        get(
            "an unknown version of the core group",
            "/api/v9/namespaces/$ns/pods",
        ),
        get("an unknown core kind", "/api/v1/namespaces/$ns/things"),
        get(
            "an unknown version of a custom group",
            "/apis/gateway.networking.k8s.io/v9/namespaces/$ns/httproutes",
        ),
        get(
            "the resources of an unknown version",
            "/apis/gateway.networking.k8s.io/v9",
        ),
        get(
            "an unknown kind of a custom group",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/things",
        ),
        get(
            "an object of an unknown kind",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/things/x",
        ),
        get(
            "an unknown kind of a custom group, watched",
            "/apis/gateway.networking.k8s.io/v1/things?watch=true",
        ),
        get(
            "the status of a missing route",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes/none/status",
        ),
        get(
            "the scale of a kind without one",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes/r/scale",
        ),
        get(
            "the status of a kind without one",
            "/api/v1/namespaces/$ns/configmaps/a/status",
        ),
        get(
            "the scale of a built-in kind without one",
            "/api/v1/namespaces/$ns/configmaps/a/scale",
        ),
        get("an unknown path", "/nothing"),
    ]
}

fn methods() -> Vec<ConformanceStep> {
    vec![
        post("create on a name", MAP, map("a", "1")),
        post("create on the name of a route", ROUTE, route(&json!({}))),
        put("update a collection", MAPS, map("a", "1")),
        put("update a collection of routes", ROUTES, route(&json!({}))),
        patch("patch a collection", MAPS, MERGE, json!({})),
        patch("patch a collection of routes", ROUTES, MERGE, json!({})),
        delete("delete a status", ROUTE_STATUS, json!({})),
        post("create a status", ROUTE_STATUS, route(&json!({}))),
        post(
            "create in every namespace",
            "/api/v1/configmaps",
            map("z", "1"),
        ),
        post(
            "create a route in every namespace",
            "/apis/gateway.networking.k8s.io/v1/httproutes",
            route(&json!({})),
        ),
    ]
}

fn bodies() -> Vec<ConformanceStep> {
    let large = |mut object: Value| {
        object["metadata"]["annotations"] = json!({"k": "x".repeat(OVERSIZED)});
        object
    };
    vec![
        post("malformed JSON", MAPS, Value::Null).raw("{bad"),
        post("malformed JSON for a route", ROUTES, Value::Null).raw("{bad"),
        post("an empty body", MAPS, Value::Null),
        post("an empty body for a route", ROUTES, Value::Null),
        post("a list", MAPS, json!([])),
        post("a list for a route", ROUTES, json!([])),
        post(
            "a route without its kind",
            ROUTES,
            json!({"metadata": {"name": "nk"}}),
        ),
        post(
            "a route of another version",
            ROUTES,
            route(&json!({"apiVersion": "gateway.networking.k8s.io/v1beta1"})),
        ),
        patch("a malformed merge patch", MAP, MERGE, Value::Null).raw("{bad"),
        patch(
            "a malformed merge patch of a route",
            ROUTE,
            MERGE,
            Value::Null,
        )
        .raw("{bad"),
        patch("a malformed JSON patch", MAP, JSON_PATCH, Value::Null).raw("{bad"),
        patch(
            "apply without a field manager",
            ROUTE,
            APPLY,
            route(&json!({})),
        ),
        post("an oversized body", MAPS, large(map("big", "1"))),
        post(
            "an oversized body for a route",
            ROUTES,
            large(route(&json!({}))),
        ),
        patch(
            "an oversized patch",
            ROUTE,
            MERGE,
            large(json!({"metadata": {}})),
        ),
        delete("a malformed deletion", ROUTE, Value::Null).raw("{bad"),
    ]
}

fn media_types() -> Vec<ConformanceStep> {
    vec![
        post("create from plain text", MAPS, Value::Null)
            .raw("x")
            .content_type("text/plain"),
        post("create a route from plain text", ROUTES, Value::Null)
            .raw("x")
            .content_type("text/plain"),
        put("update from plain text", MAP, Value::Null)
            .raw("x")
            .content_type("text/plain"),
        patch("patch by plain text", MAP, "text/plain", json!({})),
        patch(
            "patch a route by plain text",
            ROUTE,
            "text/plain",
            json!({}),
        ),
        patch(
            "patch a route by strategic merge",
            ROUTE,
            STRATEGIC,
            json!({}),
        ),
        patch(
            "patch a route by JSON",
            ROUTE,
            "application/json",
            json!({}),
        ),
        get("read as HTML", MAP).accept("text/html"),
        get("read a route as HTML", ROUTE).accept("text/html"),
        get("list routes as XML", ROUTES).accept("application/xml"),
    ]
}

fn preconditions() -> Vec<ConformanceStep> {
    let other = "00000000-0000-4000-8000-000000000000";
    let with = |metadata: Value| route(&json!({"metadata": metadata}));
    vec![
        put(
            "update at a malformed version",
            ROUTE,
            with(json!({"resourceVersion": "abc"})),
        ),
        patch(
            "patch at an old version",
            ROUTE,
            MERGE,
            json!({"metadata": {"resourceVersion": "1"}}),
        ),
        patch(
            "patch a route with another UID",
            ROUTE,
            MERGE,
            json!({"metadata": {"uid": other}}),
        ),
        patch(
            "patch a map with another UID",
            MAP,
            MERGE,
            json!({"metadata": {"uid": other}}),
        ),
        delete(
            "delete a route with another UID",
            ROUTE,
            json!({"preconditions": {"uid": other}}),
        ),
        delete(
            "delete a route at an old version",
            ROUTE,
            json!({"preconditions": {"resourceVersion": "1"}}),
        ),
        delete(
            "delete a map with another UID",
            MAP,
            json!({"preconditions": {"uid": other}}),
        ),
        delete(
            "delete a missing route",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes/none",
            json!({}),
        ),
        post("create an existing route", ROUTES, route(&json!({}))),
        post(
            "create a route with a bad name",
            ROUTES,
            with(json!({"name": "Not_A_Name"})),
        ),
    ]
}

fn versions() -> Vec<ConformanceStep> {
    vec![
        get(
            "list a future version",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?resourceVersion=9999999999",
        ),
        get(
            "list a malformed version",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?resourceVersion=abc",
        ),
        get(
            "continue a malformed list",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?limit=1&continue=nonsense",
        ),
        get(
            "watch routes from a compacted version",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?watch=true&timeoutSeconds=1&resourceVersion=1",
        ),
        get(
            "watch routes from a malformed version",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?watch=true&timeoutSeconds=1&resourceVersion=abc",
        ),
        get(
            "the other served version of a route",
            "/apis/gateway.networking.k8s.io/v1beta1/namespaces/$ns/httproutes/r",
        )
        .show(&["/apiVersion", "/kind"]),
    ]
}

/// argo-rollouts #119: an autoscaler reads and writes the scale of a Rollout whose manifest omits
/// `replicas`.
#[expect(clippy::too_many_lines, reason = "a list of data")]
fn scaling() -> Vec<ConformanceStep> {
    let labels = json!({"app": "s"});
    let rollout = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "s"},
        "spec": {
            "selector": {"matchLabels": labels}, "strategy": {"canary": {}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "shop/s:1"}]}},
        },
    });
    let scale = |metadata: Value, spec: Value| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": spec});
    let shown: &[&str] = &["/kind", "/apiVersion", "/metadata/name", "/spec", "/status"];
    let three = json!({"replicas": 3});
    vec![
        post("create a Rollout without replicas", ROLLOUTS, rollout)
            .keep_as("rollout")
            .show(&["/spec/replicas", "/metadata/generation"]),
        get("read the scale", SCALE).show(shown),
        put(
            "update the scale",
            SCALE,
            scale(
                json!({"name": "s", "namespace": "$ns", "resourceVersion": "$version.rollout$"}),
                three.clone(),
            ),
        )
        .show(shown),
        put(
            "update the scale at an old version",
            SCALE,
            scale(
                json!({"name": "s", "namespace": "$ns", "resourceVersion": "$version.rollout$"}),
                json!({"replicas": 4}),
            ),
        ),
        put(
            "update the scale without a version",
            SCALE,
            scale(
                json!({"name": "s", "namespace": "$ns"}),
                json!({"replicas": 5}),
            ),
        )
        .show(shown),
        patch(
            "scale by patch",
            SCALE,
            MERGE,
            json!({"spec": {"replicas": 2}}),
        )
        .show(shown),
        patch(
            "scale by strategic merge patch",
            SCALE,
            STRATEGIC,
            json!({"spec": {"replicas": 2}}),
        ),
        patch(
            "scale below zero",
            SCALE,
            MERGE,
            json!({"spec": {"replicas": -1}}),
        )
        .show(&["/details/name"]),
        put(
            "update the scale under another name",
            SCALE,
            scale(json!({"name": "other", "namespace": "$ns"}), three.clone()),
        ),
        put("update the scale with another kind", SCALE, map("s", "1")),
        get(
            "read the scale of a missing Rollout",
            "/apis/serin.dev/v1alpha1/namespaces/$ns/rollouts/none/scale",
        ),
        step("delete a scale", Method::DELETE, SCALE, json!({})),
        post("create a scale", SCALE, json!({})),
        patch(
            "remove replicas",
            ROLLOUT,
            MERGE,
            json!({"spec": {"replicas": null}}),
        )
        .show(&["/spec/replicas"]),
        patch(
            "scale to zero",
            SCALE,
            MERGE,
            json!({"spec": {"replicas": 0}}),
        )
        .show(shown),
        get("a Rollout at zero", ROLLOUT).show(&["/spec/replicas"]),
        patch(
            "patch the scale to null replicas",
            SCALE,
            MERGE,
            json!({"spec": {"replicas": null}}),
        )
        .show(shown),
        delete("delete the Rollout", ROLLOUT, json!({})).show(&["/kind", "/status"]),
    ]
}
