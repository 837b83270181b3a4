//! Conformance steps: their type and the steps for ConfigMaps.

use http::Method;
use serde_json::{Value, json};

use super::{error_steps, resource_steps};

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

/// One request and the parts of its response to record.
pub(crate) struct ConformanceStep {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: Value,
    /// Raw body that replaces `body`.
    pub(crate) raw: Option<&'static str>,
    pub(crate) accept: &'static str,
    /// JSON pointers to the fields of the response to record.
    pub(crate) show: &'static [&'static str],
    /// Name under which later steps refer to the object.
    pub(crate) keep: Option<&'static str>,
    /// Name of an earlier object whose resourceVersion to compare.
    pub(crate) compared_with: Option<&'static str>,
}

pub(super) fn step(
    name: &'static str,
    method: Method,
    path: &'static str,
    body: Value,
) -> ConformanceStep {
    let (content_type, show) = (JSON, &[][..]);
    ConformanceStep {
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

pub(super) fn get(name: &'static str, path: &'static str) -> ConformanceStep {
    step(name, Method::GET, path, Value::Null)
}

pub(super) fn post(name: &'static str, path: &'static str, body: Value) -> ConformanceStep {
    step(name, Method::POST, path, body)
}

pub(super) fn put(name: &'static str, path: &'static str, body: Value) -> ConformanceStep {
    step(name, Method::PUT, path, body)
}

pub(super) fn patch(
    name: &'static str,
    path: &'static str,
    content_type: &'static str,
    body: Value,
) -> ConformanceStep {
    ConformanceStep {
        content_type,
        ..step(name, Method::PATCH, path, body)
    }
}

pub(super) fn delete(name: &'static str, path: &'static str, body: Value) -> ConformanceStep {
    step(name, Method::DELETE, path, body)
}

impl ConformanceStep {
    pub(super) fn show(self, show: &'static [&'static str]) -> Self {
        Self { show, ..self }
    }

    pub(super) fn raw(self, text: &'static str) -> Self {
        Self {
            raw: Some(text),
            ..self
        }
    }

    pub(super) fn content_type(self, content_type: &'static str) -> Self {
        Self {
            content_type,
            ..self
        }
    }

    pub(super) fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    pub(super) fn keep_as(self, name: &'static str) -> Self {
        Self {
            keep: Some(name),
            ..self
        }
    }

    pub(super) fn compare_version_with(self, name: &'static str) -> Self {
        Self {
            compared_with: Some(name),
            ..self
        }
    }
}

/// All steps in order.
pub(crate) fn all() -> Vec<ConformanceStep> {
    [
        create_steps(),
        update_steps(),
        patch_steps(),
        apply_steps(),
        list_steps(),
        watch_steps(),
        delete_steps(),
        resource_steps::routes(),
        resource_steps::finalizers(),
        resource_steps::leases(),
        resource_steps::sets(),
        resource_steps::paths(),
        error_steps::all(),
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

fn create_steps() -> Vec<ConformanceStep> {
    vec![
        get("get a missing object", MAP).show(&["/details/kind", "/details/name"]),
        post("create", MAPS, map("a", "1")).keep_as("first").show(&[
            "/kind",
            "/metadata/generation",
            "/data/k",
        ]),
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
            "create as dry run",
            "/api/v1/namespaces/$ns/configmaps?dryRun=All",
            map("dry", "1"),
        )
        .show(&["/metadata/resourceVersion", "/data/k"]),
        get(
            "get after the dry run",
            "/api/v1/namespaces/$ns/configmaps/dry",
        ),
        post("create from a string", MAPS, json!("garbage")),
    ]
}

fn update_steps() -> Vec<ConformanceStep> {
    vec![
        put(
            "update without a change",
            MAP,
            map_with(&json!({"resourceVersion": "$version.first$"}), "1"),
        )
        .compare_version_with("first"),
        put(
            "update",
            MAP,
            map_with(&json!({"resourceVersion": "$version.first$"}), "2"),
        )
        .compare_version_with("first")
        .keep_as("second")
        .show(&["/data/k"]),
        put(
            "update at an old version",
            MAP,
            map_with(&json!({"resourceVersion": "$version.first$"}), "3"),
        ),
        put("update without a version", MAP, map("a", "4")).show(&["/data/k"]),
        put(
            "update with another UID",
            MAP,
            map_with(&json!({"uid": "00000000-0000-4000-8000-000000000000"}), "5"),
        ),
        put("update under another name", MAP, map("b", "5")),
        put(
            "update a missing object",
            "/api/v1/namespaces/$ns/configmaps/none",
            map("none", "5"),
        ),
        put(
            "update as dry run",
            "/api/v1/namespaces/$ns/configmaps/a?dryRun=All",
            map("a", "9"),
        )
        .show(&["/data/k"]),
        get("get after the dry run", MAP)
            .keep_as("third")
            .show(&["/data/k"]),
    ]
}

fn patch_steps() -> Vec<ConformanceStep> {
    let test = |version: &str| {
        json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "replace", "path": "/data/k", "value": "6"},
        ])
    };
    vec![
        patch(
            "merge without a change",
            MAP,
            MERGE,
            json!({"data": {"k": "4"}}),
        )
        .compare_version_with("third"),
        patch(
            "merge at an old version",
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
            .show(&["/data/k"])
            .compare_version_with("third"),
        patch(
            "merge, field removed",
            MAP,
            MERGE,
            json!({"data": {"k": null, "l": "1"}}),
        )
        .show(&["/data"]),
        patch(
            "merge under another name",
            MAP,
            MERGE,
            json!({"metadata": {"name": "b"}}),
        ),
        patch(
            "merge into a missing object",
            "/api/v1/namespaces/$ns/configmaps/none",
            MERGE,
            json!({}),
        ),
        patch(
            "an unknown patch format",
            MAP,
            "application/nonsense",
            json!({}),
        ),
    ]
}

fn apply_steps() -> Vec<ConformanceStep> {
    let applied = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": value}});
    let path = "/api/v1/namespaces/$ns/configmaps/x?fieldManager=one";
    vec![
        patch(
            "apply without a field manager",
            "/api/v1/namespaces/$ns/configmaps/x",
            APPLY,
            applied("1"),
        ),
        patch("apply a new object", path, APPLY, applied("1"))
            .show(&["/data/k"])
            .keep_as("applied"),
        patch("apply without a change", path, APPLY, applied("1")).compare_version_with("applied"),
        patch("apply a change", path, APPLY, applied("2"))
            .show(&["/data/k"])
            .compare_version_with("applied"),
        delete(
            "delete the applied object",
            "/api/v1/namespaces/$ns/configmaps/x",
            json!({}),
        )
        .show(&["/kind", "/status"]),
    ]
}

fn list_steps() -> Vec<ConformanceStep> {
    vec![
        post("create b", MAPS, map("b", "1")),
        post("create c", MAPS, map("c", "1")),
        get(
            "list by label",
            "/api/v1/namespaces/$ns/configmaps?labelSelector=app+in+(a,c)",
        )
        .show(&[
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
        .show(&["/items/0/metadata/name", "/items/1"]),
        get(
            "list by a malformed selector",
            "/api/v1/namespaces/$ns/configmaps?labelSelector=a+b+c",
        ),
        get(
            "list with a malformed token",
            "/api/v1/namespaces/$ns/configmaps?limit=1&continue=nonsense",
        ),
        get(
            "list a page",
            "/api/v1/namespaces/$ns/configmaps?limit=2&labelSelector=app",
        )
        .show(&["/items/1/metadata/name", "/items/2"]),
        get(
            "list an empty collection",
            "/apis/discovery.k8s.io/v1/namespaces/$ns/endpointslices",
        )
        .show(&["/kind", "/items"]),
    ]
}

fn watch_steps() -> Vec<ConformanceStep> {
    vec![
        patch(
            "relabel b",
            "/api/v1/namespaces/$ns/configmaps/b",
            MERGE,
            json!({"metadata": {"labels": {"app": "other"}}}),
        ),
        delete("delete c", "/api/v1/namespaces/$ns/configmaps/c", json!({}))
            .show(&["/kind", "/status"]),
        get(
            "watch since the second version",
            "/api/v1/namespaces/$ns/configmaps?watch=true&timeoutSeconds=1&labelSelector=app+in+(a,b,c)&resourceVersion=$version.second$",
        ),
        get(
            "watch from now",
            "/api/v1/namespaces/$ns/configmaps?watch=true&timeoutSeconds=1&labelSelector=app&resourceVersion=0",
        ),
        get(
            "watch from a malformed version",
            "/api/v1/namespaces/$ns/configmaps?watch=true&timeoutSeconds=1&resourceVersion=nonsense",
        ),
    ]
}

fn delete_steps() -> Vec<ConformanceStep> {
    let unless = |field: &str, value: &str| json!({"preconditions": {field: value}});
    vec![
        delete(
            "delete with another UID",
            MAP,
            unless("uid", "00000000-0000-4000-8000-000000000000"),
        ),
        delete(
            "delete at an old version",
            MAP,
            unless("resourceVersion", "$version.first$"),
        ),
        delete("delete as dry run", MAP, json!({"dryRun": ["All"]})),
        get("get after the dry-run deletion", MAP).show(&["/metadata/deletionTimestamp"]),
        delete("delete", MAP, unless("uid", "$uid.first$")).show(&["/kind", "/status"]),
        delete("delete again", MAP, json!({})),
        delete("delete the rest", MAPS, json!({})).show(&["/kind"]),
    ]
}
