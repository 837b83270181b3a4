//! Requests that are refused, one for each form of an error answer, and the `scale` subresource.

use http::Method;
use serde_json::{Value, json};

use super::steps::{
    APPLY, JSON_PATCH, MAP, MAPS, MERGE, ROUTE, ROUTE_STATUS, ROUTES, Step, delete, get, map,
    patch, post, put, route, step,
};

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const ROLLOUTS: &str = "/apis/serin.dev/v1alpha1/namespaces/$ns/rollouts";
const ROLLOUT: &str = "/apis/serin.dev/v1alpha1/namespaces/$ns/rollouts/s";
const SCALE: &str = "/apis/serin.dev/v1alpha1/namespaces/$ns/rollouts/s/scale";
/// More than the API server reads.
const TOO_MUCH: usize = 3_200_000;

pub(super) fn all() -> Vec<Step> {
    let beginning = vec![
        post("create a map to refuse", MAPS, map("a", "1")).kept_as("refused-map"),
        post("create a route to refuse", ROUTES, route(&json!({}))).kept_as("refused-route"),
    ];
    [
        beginning,
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

fn unknown_kinds() -> Vec<Step> {
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
            "an unknown group, created in",
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
            "a path below a route that is not there",
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

fn methods() -> Vec<Step> {
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

fn bodies() -> Vec<Step> {
    let large = |mut object: Value| {
        object["metadata"]["annotations"] = json!({"k": "x".repeat(TOO_MUCH)});
        object
    };
    vec![
        post("malformed JSON", MAPS, Value::Null).raw("{bad"),
        post("malformed JSON for a route", ROUTES, Value::Null).raw("{bad"),
        post("nothing", MAPS, Value::Null),
        post("nothing for a route", ROUTES, Value::Null),
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
        patch("apply for nobody", ROUTE, APPLY, route(&json!({}))),
        post("too much", MAPS, large(map("big", "1"))),
        post("too much for a route", ROUTES, large(route(&json!({})))),
        patch(
            "too much for a patch",
            ROUTE,
            MERGE,
            large(json!({"metadata": {}})),
        ),
        delete("a malformed deletion", ROUTE, Value::Null).raw("{bad"),
    ]
}

fn media_types() -> Vec<Step> {
    vec![
        post("create from plain text", MAPS, Value::Null)
            .raw("x")
            .typed("text/plain"),
        post("create a route from plain text", ROUTES, Value::Null)
            .raw("x")
            .typed("text/plain"),
        put("update from plain text", MAP, Value::Null)
            .raw("x")
            .typed("text/plain"),
        patch("patch by plain text", MAP, "text/plain", json!({})),
        patch(
            "patch a route by plain text",
            ROUTE,
            "text/plain",
            json!({}),
        ),
        patch("patch a route strategically", ROUTE, STRATEGIC, json!({})),
        patch(
            "patch a route by JSON",
            ROUTE,
            "application/json",
            json!({}),
        ),
        get("read as HTML", MAP).accepting("text/html"),
        get("read a route as HTML", ROUTE).accepting("text/html"),
        get("list routes as XML", ROUTES).accepting("application/xml"),
    ]
}

fn preconditions() -> Vec<Step> {
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
            "patch another route of that name",
            ROUTE,
            MERGE,
            json!({"metadata": {"uid": other}}),
        ),
        patch(
            "patch another map of that name",
            MAP,
            MERGE,
            json!({"metadata": {"uid": other}}),
        ),
        delete(
            "delete another route of that name",
            ROUTE,
            json!({"preconditions": {"uid": other}}),
        ),
        delete(
            "delete a route at an old version",
            ROUTE,
            json!({"preconditions": {"resourceVersion": "1"}}),
        ),
        delete(
            "delete another map of that name",
            MAP,
            json!({"preconditions": {"uid": other}}),
        ),
        delete(
            "delete a route that is not there",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes/none",
            json!({}),
        ),
        post("create a route that is there", ROUTES, route(&json!({}))),
        post(
            "create a route with a bad name",
            ROUTES,
            with(json!({"name": "Not_A_Name"})),
        ),
    ]
}

fn versions() -> Vec<Step> {
    vec![
        get(
            "list a state to come",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?resourceVersion=9999999999",
        ),
        get(
            "list a malformed state",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?resourceVersion=abc",
        ),
        get(
            "continue a malformed list",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?limit=1&continue=nonsense",
        ),
        get(
            "watch routes from the beginning of time",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?watch=true&timeoutSeconds=1&resourceVersion=1",
        ),
        get(
            "watch routes from nonsense",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?watch=true&timeoutSeconds=1&resourceVersion=abc",
        ),
        get(
            "the other served version of a route",
            "/apis/gateway.networking.k8s.io/v1beta1/namespaces/$ns/httproutes/r",
        )
        .showing(&["/apiVersion", "/kind"]),
    ]
}

/// argo-rollouts #119: an autoscaler reads and writes the scale of a Rollout whose manifest leaves
/// `replicas` out.
fn scaling() -> Vec<Step> {
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
            .kept_as("rollout")
            .showing(&["/spec/replicas", "/metadata/generation"]),
        get("its scale", SCALE).showing(shown),
        put(
            "scale it",
            SCALE,
            scale(
                json!({"name": "s", "namespace": "$ns", "resourceVersion": "$version.rollout$"}),
                three.clone(),
            ),
        )
        .showing(shown),
        put(
            "scale a stale state",
            SCALE,
            scale(
                json!({"name": "s", "namespace": "$ns", "resourceVersion": "$version.rollout$"}),
                json!({"replicas": 4}),
            ),
        ),
        put(
            "scale whatever there is",
            SCALE,
            scale(
                json!({"name": "s", "namespace": "$ns"}),
                json!({"replicas": 5}),
            ),
        )
        .showing(shown),
        patch(
            "scale by patch",
            SCALE,
            MERGE,
            json!({"spec": {"replicas": 2}}),
        )
        .showing(shown),
        patch(
            "scale strategically",
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
        .showing(&["/details/name"]),
        put(
            "scale another name",
            SCALE,
            scale(json!({"name": "other", "namespace": "$ns"}), three.clone()),
        ),
        put("scale by another kind", SCALE, map("s", "1")),
        get(
            "scale what is not there",
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
        .showing(&["/spec/replicas"]),
        patch(
            "scale to zero",
            SCALE,
            MERGE,
            json!({"spec": {"replicas": 0}}),
        )
        .showing(shown),
        get("a Rollout at zero", ROLLOUT).showing(&["/spec/replicas"]),
        patch(
            "scale by leaving it out",
            SCALE,
            MERGE,
            json!({"spec": {"replicas": null}}),
        )
        .showing(shown),
        delete("delete the Rollout", ROLLOUT, json!({})).showing(&["/kind", "/status"]),
    ]
}
