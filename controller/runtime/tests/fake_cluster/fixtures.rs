//! Objects that the tests create.

use serde_json::{Value, json};
use serin_core::plan::RouteKind;
use serin_fake_cluster::FakeCluster;
use serin_traffic::Router;

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

/// A Deployment with the template of [`unrouted_rollout`].
pub fn deployment(name: &str, version: &str, replicas: u32) -> Value {
    let rollout = unrouted_rollout(name, version, replicas, json!([]));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "replicas": replicas,
            "selector": rollout["spec"]["selector"],
            "template": rollout["spec"]["template"],
        },
    })
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

/// A Rollout with a route of this kind, of the same name.
pub fn rollout_of_kind(
    router: &dyn Router,
    name: &str,
    version: &str,
    replicas: u32,
    steps: Value,
) -> Value {
    let mut rollout = unrouted_rollout(name, version, replicas, steps);
    let named = json!([{"name": name}]);
    rollout["spec"]["strategy"]["canary"]["trafficRouting"] = match router.route_kind() {
        RouteKind::HttpRoute => json!({"gatewayAPI": {"httpRoutes": named}}),
        RouteKind::GrpcRoute => json!({"gatewayAPI": {"grpcRoutes": named}}),
        RouteKind::TlsRoute => json!({"gatewayAPI": {"tlsRoutes": named}}),
        RouteKind::TcpRoute => json!({"gatewayAPI": {"tcpRoutes": named}}),
        RouteKind::VirtualService => json!({"istio": {"virtualServices": named}}),
        RouteKind::Ingress => json!({"nginx": {"canaryIngress": name}}),
        RouteKind::TraefikService => json!({"traefik": {"traefikServices": named}}),
        RouteKind::IngressRoute => json!({"traefik": {"ingressRoutes": named}}),
        RouteKind::HttpProxy => json!({"contour": {"httpProxies": named}}),
        RouteKind::ApisixRoute => json!({"apisix": {"apisixRoutes": named}}),
    };
    rollout
}

/// A route of this kind as a user writes it, with two rules. The first does not reference the
/// Rollout.
pub fn route_of_kind(router: &dyn Router, name: &str) -> Value {
    let spec = match router.route_kind() {
        RouteKind::HttpRoute => return http_route(name),
        RouteKind::GrpcRoute | RouteKind::TlsRoute | RouteKind::TcpRoute => json!({
            "parentRefs": [{"name": "gateway"}],
            "rules": [
                {"backendRefs": [{"name": "static", "port": 80}]},
                {"backendRefs": [{"name": name, "port": 80}]},
            ],
        }),
        RouteKind::VirtualService => json!({
            "hosts": [format!("{name}.example")],
            "http": [
                {"name": "static", "route": [{"destination": {"host": "static"}}]},
                {"route": [{"destination": {"host": format!("{name}.{SHOP}.svc.cluster.local")}}]},
            ],
        }),
        RouteKind::Ingress => canary_ingress_spec(name),
        RouteKind::TraefikService => {
            json!({"weighted": {"services": [{"name": name, "port": 80}]}})
        }
        RouteKind::IngressRoute => json!({
            "routes": [
                {"kind": "Rule", "match": "PathPrefix(`/static`)", "services": [{"name": "static", "port": 80}]},
                {"kind": "Rule", "match": "PathPrefix(`/`)", "services": [{"name": name, "port": 80}]},
            ],
        }),
        RouteKind::HttpProxy => json!({
            "virtualhost": {"fqdn": format!("{name}.example")},
            "routes": [
                {"conditions": [{"prefix": "/static"}], "services": [{"name": "static", "port": 80}]},
                {"services": [{"name": name, "port": 80}]},
            ],
        }),
        RouteKind::ApisixRoute => json!({
            "http": [
                {"name": "static", "match": {"paths": ["/static/*"]},
                 "backends": [{"serviceName": "static", "servicePort": 80}]},
                {"name": "api", "match": {"paths": ["/*"]},
                 "backends": [{"serviceName": name, "servicePort": 80}]},
            ],
        }),
    };
    let mut metadata = json!({"name": name, "namespace": SHOP});
    if router.route_kind() == RouteKind::Ingress {
        metadata["annotations"] = json!({"nginx.ingress.kubernetes.io/canary": "true"});
    }
    json!({
        "apiVersion": format!("{}/{}", router.group(), router.versions()[0]),
        "kind": router.kind(),
        "metadata": metadata,
        "spec": spec,
    })
}

/// The Ingress of the canary Service. The main Ingress is a different object, which is not changed.
fn canary_ingress_spec(name: &str) -> Value {
    let service = json!({"name": format!("{name}-canary"), "port": {"number": 80}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": service}});
    json!({"rules": [{"host": format!("{name}.example"), "http": {"paths": [path]}}]})
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
