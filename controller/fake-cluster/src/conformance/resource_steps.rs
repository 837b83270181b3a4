//! Conformance steps for routes, finalizers, Leases, ReplicaSets and unknown paths.

use serde_json::{Value, json};

use super::steps::{
    ConformanceStep, JSON_PATCH, MERGE, ROUTE, ROUTE_STATUS, ROUTES, delete, get, patch, post, put,
};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/$ns/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/$ns/leases/l";
const DRY_SETS: &str = "/apis/apps/v1/namespaces/$ns/replicasets?dryRun=All";

pub(super) fn route(replaced: &Value) -> Value {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"rules": [{"backendRefs": [{"name": "checkout", "port": 80}]}]},
    });
    json_patch::merge(&mut route, replaced);
    route
}

pub(super) fn routes() -> Vec<ConformanceStep> {
    let status = json!({"status": {"parents": []}});
    let backends = "/spec/rules/0/backendRefs/0";
    vec![
        post("create a route with a status", ROUTES, route(&status)).keep_as("route").show(&[
            "/metadata/generation",
            "/status",
            "/spec/rules/0/backendRefs/0",
            "/spec/rules/0/matches",
        ]),
        patch("label a route", ROUTE, MERGE, json!({"metadata": {"labels": {"a": "b"}}}))
            .show(&["/metadata/generation"])
            .compare_version_with("route"),
        patch("write its status without the subresource", ROUTE, MERGE, status.clone()).show(&["/metadata/generation", "/status"]),
        patch("write its status", ROUTE_STATUS, MERGE, json!({"status": {"parents": []}, "spec": {"hostnames": ["x.example"]}}))
            .show(&["/metadata/generation", "/status", "/spec/hostnames"]),
        patch("change its spec", ROUTE, JSON_PATCH, json!([
            {"op": "test", "path": format!("{backends}/name"), "value": "checkout"},
            {"op": "replace", "path": format!("{backends}/weight"), "value": 95},
            {"op": "add", "path": "/spec/rules/0/backendRefs/-", "value": {"name": "canary", "port": 80, "weight": 5}},
        ]))
        .show(&["/metadata/generation", "/spec/rules/0/backendRefs", "/status"]),
        patch("patch its spec without a change", ROUTE, MERGE, json!({"spec": {}})).show(&["/metadata/generation"]),
        put("update it without a version", ROUTE, route(&json!({}))),
        put("update it at an old version", ROUTE, route(&json!({"metadata": {"resourceVersion": "$version.route$"}}))),
        put("update its status at an old version", ROUTE_STATUS, route(&json!({"metadata": {"resourceVersion": "$version.route$"}}))),
        put("update its status without a version", ROUTE_STATUS, route(&status)),
    ]
}

pub(super) fn finalizers() -> Vec<ConformanceStep> {
    vec![
        patch(
            "add a finalizer",
            ROUTE,
            MERGE,
            json!({"metadata": {"finalizers": ["serin.dev/test"]}}),
        )
        .show(&["/metadata/generation"]),
        delete("delete with a finalizer", ROUTE, json!({}))
            .keep_as("held")
            .show(&["/kind", "/metadata/generation", "/metadata/finalizers"]),
        delete("delete it again", ROUTE, json!({}))
            .show(&["/kind", "/metadata/generation"])
            .compare_version_with("held"),
        patch(
            "add a finalizer during deletion",
            ROUTE,
            MERGE,
            json!({"metadata": {"finalizers": ["serin.dev/test", "serin.dev/more"]}}),
        ),
        patch(
            "change during deletion",
            ROUTE,
            MERGE,
            json!({"spec": {"hostnames": ["y.example"]}}),
        )
        .show(&["/metadata/generation", "/spec/hostnames"]),
        patch(
            "remove the finalizers",
            ROUTE,
            MERGE,
            json!({"metadata": {"finalizers": null}}),
        )
        .show(&["/kind", "/metadata/finalizers"]),
        get("get after the removal", ROUTE),
        get(
            "watch its deletion",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?watch=true&timeoutSeconds=1&resourceVersion=$version.held$",
        ),
    ]
}

pub(super) fn leases() -> Vec<ConformanceStep> {
    let lease = |metadata: Value, holder: &str| {
        let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": holder}});
        json_patch::merge(&mut lease, &json!({"metadata": metadata}));
        lease
    };
    vec![
        post("create a lease", LEASES, lease(json!({}), "one"))
            .keep_as("lease")
            .show(&["/metadata/generation"]),
        put(
            "take the lease without a version",
            LEASE,
            lease(json!({}), "two"),
        ),
        put(
            "take the lease",
            LEASE,
            lease(json!({"resourceVersion": "$version.lease$"}), "two"),
        )
        .show(&["/spec/holderIdentity"]),
        put(
            "take the lease at an old version",
            LEASE,
            lease(json!({"resourceVersion": "$version.lease$"}), "three"),
        ),
        delete("delete the lease", LEASE, json!({})).show(&["/kind", "/status"]),
    ]
}

fn set(selector: &str, container: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"generateName": "probe-"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": selector}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [container]}},
        },
    })
}

pub(super) fn sets() -> Vec<ConformanceStep> {
    let container = |cpu: &str| json!({"name": "app", "image": "shop/x:1", "resources": {"requests": {"cpu": cpu}}});
    vec![
        post(
            "dry-run a ReplicaSet",
            DRY_SETS,
            set("x", &container("1000m")),
        )
        .show(&[
            "/metadata/generation",
            "/metadata/resourceVersion",
            "/spec/template",
            "/status",
        ]),
        post(
            "another form of the same quantity",
            DRY_SETS,
            set("x", &container("1")),
        )
        .show(&["/spec/template/spec/containers/0/resources"]),
        post(
            "a selector that does not match",
            DRY_SETS,
            set("y", &container("1")),
        )
        .show(&["/details/causes/0/field"]),
        post("no image", DRY_SETS, set("x", &json!({"name": "app"})))
            .show(&["/details/causes/0/field"]),
        post("no container", DRY_SETS, set("x", &Value::Null)).show(&["/details/causes/0/field"]),
        post(
            "a probe",
            DRY_SETS,
            set(
                "x",
                &json!({
                    "name": "app", "image": "shop/x", "ports": [{"containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
                }),
            ),
        )
        .show(&["/spec/template/spec/containers/0"]),
    ]
}

pub(super) fn paths() -> Vec<ConformanceStep> {
    vec![
        get(
            "an unknown group",
            "/apis/nothing.example.com/v1/namespaces/$ns/things",
        ),
        get("an unknown kind", "/apis/apps/v1/namespaces/$ns/things"),
        get(
            "an unknown path below an object",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes/r/things",
        ),
        post("an unsupported method", LEASE, json!({})),
        get(
            "the resources of a group",
            "/apis/gateway.networking.k8s.io/v1",
        )
        .show(&["/kind", "/groupVersion"]),
        get("a group", "/apis/gateway.networking.k8s.io").show(&["/kind", "/name"]),
        get("health", "/readyz"),
    ]
}
