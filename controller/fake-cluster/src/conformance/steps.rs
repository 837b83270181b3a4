//! The requests, in order.

use http::Method;
use serde_json::{Value, json};

use super::refusals;

pub(crate) const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const JSON_PATCH: &str = "application/json-patch+json";
pub(super) const APPLY: &str = "application/apply-patch+yaml";

pub(super) const MAPS: &str = "/api/v1/namespaces/$ns/configmaps";
pub(super) const MAP: &str = "/api/v1/namespaces/$ns/configmaps/a";
pub(super) const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes";
pub(super) const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes/r";
pub(super) const ROUTE_STATUS: &str =
    "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes/r/status";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/$ns/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/$ns/leases/l";
const DRY_SETS: &str = "/apis/apps/v1/namespaces/$ns/replicasets?dryRun=All";

/// One request and what is looked at in its answer.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: Value,
    /// The body as it is, instead.
    pub(crate) raw: Option<&'static str>,
    pub(crate) accept: &'static str,
    /// JSON pointers into the answer.
    pub(crate) show: &'static [&'static str],
    /// The object's name for later steps.
    pub(crate) keep: Option<&'static str>,
    /// Whether the resourceVersion is that of an object kept earlier.
    pub(crate) compared_with: Option<&'static str>,
}

pub(super) fn step(name: &'static str, method: Method, path: &'static str, body: Value) -> Step {
    let (content_type, show) = (JSON, &[][..]);
    Step {
        name,
        method,
        path,
        content_type,
        body,
        raw: None,
        accept: JSON,
        show,
        keep: None,
        compared_with: None,
    }
}

pub(super) fn get(name: &'static str, path: &'static str) -> Step {
    step(name, Method::GET, path, Value::Null)
}

pub(super) fn post(name: &'static str, path: &'static str, body: Value) -> Step {
    step(name, Method::POST, path, body)
}

pub(super) fn put(name: &'static str, path: &'static str, body: Value) -> Step {
    step(name, Method::PUT, path, body)
}

pub(super) fn patch(
    name: &'static str,
    path: &'static str,
    content_type: &'static str,
    body: Value,
) -> Step {
    Step {
        content_type,
        ..step(name, Method::PATCH, path, body)
    }
}

pub(super) fn delete(name: &'static str, path: &'static str, body: Value) -> Step {
    step(name, Method::DELETE, path, body)
}

impl Step {
    pub(super) fn showing(self, show: &'static [&'static str]) -> Self {
        Self { show, ..self }
    }

    pub(super) fn raw(self, text: &'static str) -> Self {
        Self {
            raw: Some(text),
            ..self
        }
    }

    pub(super) fn typed(self, content_type: &'static str) -> Self {
        Self {
            content_type,
            ..self
        }
    }

    pub(super) fn accepting(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    pub(super) fn kept_as(self, name: &'static str) -> Self {
        Self {
            keep: Some(name),
            ..self
        }
    }

    pub(super) fn compared_with(self, name: &'static str) -> Self {
        Self {
            compared_with: Some(name),
            ..self
        }
    }
}

/// Every request, in order.
pub(crate) fn all() -> Vec<Step> {
    [
        creating(),
        updating(),
        patching(),
        applying(),
        listing(),
        watching(),
        deleting(),
        routes(),
        finalizers(),
        leases(),
        sets(),
        paths(),
        refusals::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"k": value}})
}

fn map_with(metadata: &Value, value: &str) -> Value {
    let mut map = map("a", value);
    json_patch::merge(&mut map, &json!({"metadata": metadata}));
    map
}

fn creating() -> Vec<Step> {
    vec![
        get("nothing is there", MAP).showing(&["/details/kind", "/details/name"]),
        post("create", MAPS, map("a", "1"))
            .kept_as("first")
            .showing(&["/kind", "/metadata/generation", "/data/k"]),
        post("create again", MAPS, map("a", "1")),
        post(
            "create with a version",
            MAPS,
            map_with(&json!({"name": "v", "resourceVersion": "5"}), "1"),
        ),
        post(
            "create without a name",
            MAPS,
            map_with(&json!({"name": null}), "1"),
        ),
        post("create with a bad name", MAPS, map("Not_A_Name", "1")),
        post(
            "create in another namespace",
            MAPS,
            map_with(&json!({"namespace": "elsewhere"}), "1"),
        ),
        post(
            "create another kind",
            MAPS,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        ),
        post(
            "create dry",
            "/api/v1/namespaces/$ns/configmaps?dryRun=All",
            map("dry", "1"),
        )
        .showing(&["/metadata/resourceVersion", "/data/k"]),
        get("it was dry", "/api/v1/namespaces/$ns/configmaps/dry"),
        post("create garbage", MAPS, json!("garbage")),
    ]
}

fn updating() -> Vec<Step> {
    vec![
        put(
            "update to the same",
            MAP,
            map_with(&json!({"resourceVersion": "$version.first$"}), "1"),
        )
        .compared_with("first"),
        put(
            "update",
            MAP,
            map_with(&json!({"resourceVersion": "$version.first$"}), "2"),
        )
        .compared_with("first")
        .kept_as("second")
        .showing(&["/data/k"]),
        put(
            "update a stale state",
            MAP,
            map_with(&json!({"resourceVersion": "$version.first$"}), "3"),
        ),
        put("update whatever there is", MAP, map("a", "4")).showing(&["/data/k"]),
        put(
            "update another one's",
            MAP,
            map_with(&json!({"uid": "00000000-0000-4000-8000-000000000000"}), "5"),
        ),
        put("update under another name", MAP, map("b", "5")),
        put(
            "update what is not there",
            "/api/v1/namespaces/$ns/configmaps/none",
            map("none", "5"),
        ),
        put(
            "update dry",
            "/api/v1/namespaces/$ns/configmaps/a?dryRun=All",
            map("a", "9"),
        )
        .showing(&["/data/k"]),
        get("it was dry", MAP)
            .kept_as("third")
            .showing(&["/data/k"]),
    ]
}

fn patching() -> Vec<Step> {
    let test = |version: &str| {
        json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "replace", "path": "/data/k", "value": "6"},
        ])
    };
    vec![
        patch("merge nothing new", MAP, MERGE, json!({"data": {"k": "4"}})).compared_with("third"),
        patch(
            "merge into a stale state",
            MAP,
            MERGE,
            json!({"metadata": {"resourceVersion": "$version.first$"}, "data": {"k": "5"}}),
        ),
        patch("json patch, test fails", MAP, JSON_PATCH, test("1")),
        patch(
            "json patch, no such path",
            MAP,
            JSON_PATCH,
            json!([{"op": "replace", "path": "/data/none/x", "value": "6"}]),
        ),
        patch(
            "json patch, malformed",
            MAP,
            JSON_PATCH,
            json!({"op": "test"}),
        ),
        patch("json patch", MAP, JSON_PATCH, test("$version.third$"))
            .showing(&["/data/k"])
            .compared_with("third"),
        patch(
            "merge, field removed",
            MAP,
            MERGE,
            json!({"data": {"k": null, "l": "1"}}),
        )
        .showing(&["/data"]),
        patch(
            "merge under another name",
            MAP,
            MERGE,
            json!({"metadata": {"name": "b"}}),
        ),
        patch(
            "merge what is not there",
            "/api/v1/namespaces/$ns/configmaps/none",
            MERGE,
            json!({}),
        ),
        patch(
            "an unknown kind of patch",
            MAP,
            "application/nonsense",
            json!({}),
        ),
    ]
}

fn applying() -> Vec<Step> {
    let applied = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": value}});
    let path = "/api/v1/namespaces/$ns/configmaps/x?fieldManager=one";
    vec![
        patch(
            "apply, nobody",
            "/api/v1/namespaces/$ns/configmaps/x",
            APPLY,
            applied("1"),
        ),
        patch("apply, new", path, APPLY, applied("1"))
            .showing(&["/data/k"])
            .kept_as("applied"),
        patch("apply, the same", path, APPLY, applied("1")).compared_with("applied"),
        patch("apply, changed", path, APPLY, applied("2"))
            .showing(&["/data/k"])
            .compared_with("applied"),
        delete(
            "delete what was applied",
            "/api/v1/namespaces/$ns/configmaps/x",
            json!({}),
        )
        .showing(&["/kind", "/status"]),
    ]
}

fn listing() -> Vec<Step> {
    vec![
        post("create b", MAPS, map("b", "1")),
        post("create c", MAPS, map("c", "1")),
        get(
            "list by label",
            "/api/v1/namespaces/$ns/configmaps?labelSelector=app+in+(a,c)",
        )
        .showing(&[
            "/kind",
            "/items/0/metadata/name",
            "/items/0/kind",
            "/items/1/metadata/name",
            "/items/2",
        ]),
        get(
            "list by name",
            "/api/v1/namespaces/$ns/configmaps?fieldSelector=metadata.name%3Db",
        )
        .showing(&["/items/0/metadata/name", "/items/1"]),
        get(
            "list by nonsense",
            "/api/v1/namespaces/$ns/configmaps?labelSelector=a+b+c",
        ),
        get(
            "list by an odd page",
            "/api/v1/namespaces/$ns/configmaps?limit=1&continue=nonsense",
        ),
        get(
            "list a page",
            "/api/v1/namespaces/$ns/configmaps?limit=2&labelSelector=app",
        )
        .showing(&["/items/1/metadata/name", "/items/2"]),
        get(
            "list nothing",
            "/apis/discovery.k8s.io/v1/namespaces/$ns/endpointslices",
        )
        .showing(&["/kind", "/items"]),
    ]
}

fn watching() -> Vec<Step> {
    vec![
        patch(
            "b becomes something else",
            "/api/v1/namespaces/$ns/configmaps/b",
            MERGE,
            json!({"metadata": {"labels": {"app": "other"}}}),
        ),
        delete("delete c", "/api/v1/namespaces/$ns/configmaps/c", json!({}))
            .showing(&["/kind", "/status"]),
        get(
            "watch since the second state",
            "/api/v1/namespaces/$ns/configmaps?watch=true&timeoutSeconds=1&labelSelector=app+in+(a,b,c)&resourceVersion=$version.second$",
        ),
        get(
            "watch from now",
            "/api/v1/namespaces/$ns/configmaps?watch=true&timeoutSeconds=1&labelSelector=app&resourceVersion=0",
        ),
        get(
            "watch from nonsense",
            "/api/v1/namespaces/$ns/configmaps?watch=true&timeoutSeconds=1&resourceVersion=nonsense",
        ),
    ]
}

fn deleting() -> Vec<Step> {
    let unless = |field: &str, value: &str| json!({"preconditions": {field: value}});
    vec![
        delete(
            "delete another one",
            MAP,
            unless("uid", "00000000-0000-4000-8000-000000000000"),
        ),
        delete(
            "delete a stale state",
            MAP,
            unless("resourceVersion", "$version.first$"),
        ),
        delete("delete dry", MAP, json!({"dryRun": ["All"]})),
        get("it was dry", MAP).showing(&["/metadata/deletionTimestamp"]),
        delete("delete", MAP, unless("uid", "$uid.first$")).showing(&["/kind", "/status"]),
        delete("delete again", MAP, json!({})),
        delete("delete the rest", MAPS, json!({})).showing(&["/kind"]),
    ]
}

pub(super) fn route(replaced: &Value) -> Value {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"rules": [{"backendRefs": [{"name": "checkout", "port": 80}]}]},
    });
    json_patch::merge(&mut route, replaced);
    route
}

fn routes() -> Vec<Step> {
    let status = json!({"status": {"parents": []}});
    let backends = "/spec/rules/0/backendRefs/0";
    vec![
        post("create a route with a status", ROUTES, route(&status)).kept_as("route").showing(&[
            "/metadata/generation",
            "/status",
            "/spec/rules/0/backendRefs/0",
            "/spec/rules/0/matches",
        ]),
        patch("label a route", ROUTE, MERGE, json!({"metadata": {"labels": {"a": "b"}}}))
            .showing(&["/metadata/generation"])
            .compared_with("route"),
        patch("write its status on the wrong path", ROUTE, MERGE, status.clone()).showing(&["/metadata/generation", "/status"]),
        patch("write its status", ROUTE_STATUS, MERGE, json!({"status": {"parents": []}, "spec": {"hostnames": ["x.example"]}}))
            .showing(&["/metadata/generation", "/status", "/spec/hostnames"]),
        patch("change its spec", ROUTE, JSON_PATCH, json!([
            {"op": "test", "path": format!("{backends}/name"), "value": "checkout"},
            {"op": "replace", "path": format!("{backends}/weight"), "value": 95},
            {"op": "add", "path": "/spec/rules/0/backendRefs/-", "value": {"name": "canary", "port": 80, "weight": 5}},
        ]))
        .showing(&["/metadata/generation", "/spec/rules/0/backendRefs", "/status"]),
        patch("change nothing of its spec", ROUTE, MERGE, json!({"spec": {}})).showing(&["/metadata/generation"]),
        put("update it without a version", ROUTE, route(&json!({}))),
        put("update a stale one", ROUTE, route(&json!({"metadata": {"resourceVersion": "$version.route$"}}))),
        put("update a stale one's status", ROUTE_STATUS, route(&json!({"metadata": {"resourceVersion": "$version.route$"}}))),
        put("update its status without a version", ROUTE_STATUS, route(&status)),
    ]
}

fn finalizers() -> Vec<Step> {
    vec![
        patch(
            "hold it",
            ROUTE,
            MERGE,
            json!({"metadata": {"finalizers": ["serin.dev/test"]}}),
        )
        .showing(&["/metadata/generation"]),
        delete("delete what is held", ROUTE, json!({}))
            .kept_as("held")
            .showing(&["/kind", "/metadata/generation", "/metadata/finalizers"]),
        delete("delete it again", ROUTE, json!({}))
            .showing(&["/kind", "/metadata/generation"])
            .compared_with("held"),
        patch(
            "hold it more",
            ROUTE,
            MERGE,
            json!({"metadata": {"finalizers": ["serin.dev/test", "serin.dev/more"]}}),
        ),
        patch(
            "change what is going",
            ROUTE,
            MERGE,
            json!({"spec": {"hostnames": ["y.example"]}}),
        )
        .showing(&["/metadata/generation", "/spec/hostnames"]),
        patch(
            "let it go",
            ROUTE,
            MERGE,
            json!({"metadata": {"finalizers": null}}),
        )
        .showing(&["/kind", "/metadata/finalizers"]),
        get("it is gone", ROUTE),
        get(
            "what a watcher saw of it",
            "/apis/gateway.networking.k8s.io/v1/namespaces/$ns/httproutes?watch=true&timeoutSeconds=1&resourceVersion=$version.held$",
        ),
    ]
}

fn leases() -> Vec<Step> {
    let lease = |metadata: Value, holder: &str| {
        let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": holder}});
        json_patch::merge(&mut lease, &json!({"metadata": metadata}));
        lease
    };
    vec![
        post("create a lease", LEASES, lease(json!({}), "one"))
            .kept_as("lease")
            .showing(&["/metadata/generation"]),
        put("take it blindly", LEASE, lease(json!({}), "two")),
        put(
            "take it",
            LEASE,
            lease(json!({"resourceVersion": "$version.lease$"}), "two"),
        )
        .showing(&["/spec/holderIdentity"]),
        put(
            "take it too late",
            LEASE,
            lease(json!({"resourceVersion": "$version.lease$"}), "three"),
        ),
        delete("delete the lease", LEASE, json!({})).showing(&["/kind", "/status"]),
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

fn sets() -> Vec<Step> {
    let container = |cpu: &str| json!({"name": "app", "image": "shop/x:1", "resources": {"requests": {"cpu": cpu}}});
    vec![
        post(
            "what would be stored",
            DRY_SETS,
            set("x", &container("1000m")),
        )
        .showing(&[
            "/metadata/generation",
            "/metadata/resourceVersion",
            "/spec/template",
            "/status",
        ]),
        post("written otherwise", DRY_SETS, set("x", &container("1")))
            .showing(&["/spec/template/spec/containers/0/resources"]),
        post(
            "a selector that selects others",
            DRY_SETS,
            set("y", &container("1")),
        )
        .showing(&["/details/causes/0/field"]),
        post("no image", DRY_SETS, set("x", &json!({"name": "app"})))
            .showing(&["/details/causes/0/field"]),
        post("no container", DRY_SETS, set("x", &Value::Null))
            .showing(&["/details/causes/0/field"]),
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
        .showing(&["/spec/template/spec/containers/0"]),
    ]
}

fn paths() -> Vec<Step> {
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
        post("a method that makes no sense", LEASE, json!({})),
        get(
            "the resources of a group",
            "/apis/gateway.networking.k8s.io/v1",
        )
        .showing(&["/kind", "/groupVersion"]),
        get("a group", "/apis/gateway.networking.k8s.io").showing(&["/kind", "/name"]),
        get("health", "/readyz"),
    ]
}
