//! Objects that the tests create.

use serde_json::{Value, json};
use serin_fake_cluster::FakeCluster;

use crate::harness::SHOP;

/// A Rollout without a router.
pub fn unrouted_rollout(name: &str, version: &str, replicas: u32, steps: Value) -> Value {
    let mut rollout = json!({
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "app",
                    "image": format!("shop/{name}:{version}"),
                    "ports": [{"name": "http", "containerPort": 8080}],
                }]},
            },
            "strategy": {"canary": {"scaleDownDelaySeconds": 5, "abortScaleDownDelaySeconds": 5}},
        },
    });
    rollout["spec"]["strategy"]["canary"]["steps"] = steps;
    rollout
}

/// A Rollout with an HTTPRoute of the same name.
pub fn routed_rollout(name: &str, version: &str, replicas: u32, steps: Value) -> Value {
    let mut rollout = unrouted_rollout(name, version, replicas, steps);
    rollout["spec"]["strategy"]["canary"]["trafficRouting"] =
        json!({"gatewayAPI": {"httpRoute": name}});
    rollout
}

/// A routed Rollout with an objective.
pub fn analyzed_rollout(name: &str, version: &str, replicas: u32, steps: Value) -> Value {
    let mut rollout = routed_rollout(name, version, replicas, steps);
    rollout["spec"]["analysis"] = json!({"objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}]});
    rollout
}

/// A route as a user writes it, with two rules. The first does not reference the Rollout.
pub fn http_route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "parentRefs": [{"name": "gateway"}],
            "hostnames": [format!("{name}.example")],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/static"}}], "backendRefs": [{"name": "static", "port": 80}]},
                {"backendRefs": [{"name": name, "port": 80, "filters": [{"type": "ExtensionRef"}]}]},
            ],
        },
    })
}

/// A stable Service that the user created.
pub fn stable_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SHOP},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// The Service of the unrelated rule.
pub fn static_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "static", "namespace": SHOP},
        "spec": {"selector": {"app": "static"}, "ports": [{"port": 80}]},
    })
}

/// Creates the route of a Rollout and the Service of its unrelated rule.
pub fn create_route(cluster: &FakeCluster, name: &str) {
    apply(cluster, static_service());
    apply(cluster, http_route(name));
}

pub fn apply(cluster: &FakeCluster, object: Value) {
    cluster.apply_object(object).unwrap();
}

/// Creates a RolloutCommand.
pub fn create_command(cluster: &FakeCluster, name: &str, rollout: &str, verb: &str) {
    apply(
        cluster,
        json!({
            "apiVersion": "serin.dev/v1alpha1",
            "kind": "RolloutCommand",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {"rolloutRef": {"name": rollout}, "verb": verb, "reason": "requested by a test"},
        }),
    );
}
