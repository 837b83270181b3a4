//! Which unit is assigned to a side: requests, clients or connections.

use serde_json::Value;
use serin_core::assignment_unit::AssignmentUnit;

use crate::router::Router;

/// Values of `appProtocol` whose connections carry many requests: HTTP/2 without TLS (KEP-3726) and
/// gRPC.
const MULTIPLEXED: [&str; 2] = ["kubernetes.io/h2c", "grpc"];

/// Annotation of a Service with which Traefik sets a cookie that keeps a client on one pod.
const STICKY_ANNOTATION: &str = "traefik.ingress.kubernetes.io/service.sticky.cookie";

/// The annotation of a Service that asks for sticky sessions, if it has one.
pub fn sticky_annotation<'a>(
    mut annotations: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<&'a str> {
    let sticky = annotations.find(|(name, value)| *name == STICKY_ANNOTATION && *value == "true");
    sticky.map(|(name, _)| name)
}

/// The fields of a Service that affect which pod a request reaches.
#[derive(Clone, Copy, Debug)]
pub struct ServiceFacts<'a> {
    /// The name of the Service.
    pub name: &'a str,
    /// `spec.sessionAffinity`.
    pub session_affinity: Option<&'a str>,
    /// The annotation that asks for sticky sessions, from [`sticky_annotation`].
    pub sticky_annotation: Option<&'a str>,
    /// `appProtocol` of each port, in the order of `spec.ports`.
    pub app_protocols: &'a [Option<&'a str>],
}

/// A route that splits the traffic.
#[derive(Clone, Copy, Debug)]
pub struct RoutedObject<'a> {
    /// The router of its kind.
    pub router: &'static dyn Router,
    /// The object.
    pub object: &'a Value,
    /// The rule that is split. `None` for every rule with the stable Service.
    pub rule: Option<&'a str>,
}

/// The unit that is assigned to a side.
///
/// `routes` are the routes that split the traffic. `None` if replica counts split it. `services` are those of stable and of the
/// canary, as far as they exist, and `stable` is the name of the stable Service. An affinity of
/// clients outlasts their connections, so it comes first.
pub fn assignment_unit(
    routes: Option<&[RoutedObject<'_>]>,
    stable: Option<&str>,
    services: &[ServiceFacts<'_>],
) -> AssignmentUnit {
    let affine = services
        .iter()
        .find(|service| service.session_affinity == Some("ClientIP"));
    if let Some(service) = affine {
        let why = format!("Service {}: spec.sessionAffinity is ClientIP", service.name);
        return AssignmentUnit::Client { why };
    }
    let sticky = services.iter().find_map(|service| {
        let annotation = service.sticky_annotation?;
        Some(format!(
            "Service {}: annotation {annotation} is true",
            service.name
        ))
    });
    if let Some(why) = sticky {
        return AssignmentUnit::Client { why };
    }
    let Some(routes) = routes else {
        let multiplexed = services.iter().find_map(multiplexed_port);
        let why = multiplexed.unwrap_or_else(|| {
            "Replica counts divide the traffic, and a Service balances connections".to_owned()
        });
        return AssignmentUnit::Connection { why };
    };
    let Some(stable) = stable else {
        return AssignmentUnit::Request;
    };
    let units = routes.iter().map(|route| {
        route
            .router
            .assignment_unit(route.object, route.rule, stable)
    });
    let mut others = units.filter(|unit| *unit != AssignmentUnit::Request);
    others.next().unwrap_or_default()
}

fn multiplexed_port(service: &ServiceFacts<'_>) -> Option<String> {
    let mut protocols = service.app_protocols.iter().enumerate();
    protocols.find_map(|(index, protocol)| {
        let protocol = protocol.filter(|protocol| MULTIPLEXED.contains(protocol))?;
        Some(format!(
            "Service {}: spec.ports[{index}].appProtocol is {protocol}, and replica counts divide the traffic",
            service.name
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serin_core::plan::RouteKind;

    use super::*;
    use crate::router::router_of;

    fn service<'a>(
        name: &'a str,
        session_affinity: &'a str,
        app_protocols: &'a [Option<&'a str>],
    ) -> ServiceFacts<'a> {
        ServiceFacts {
            name,
            session_affinity: Some(session_affinity),
            sticky_annotation: None,
            app_protocols,
        }
    }

    /// A route whose rule `web` has the stable Service, and `api` another one.
    fn route(web: &Value, api: &Value) -> Value {
        let rule = |name: &str, backend: &str, persistence: &Value| {
            json!({
                "name": name, "backendRefs": [{"name": backend, "port": 80}],
                "sessionPersistence": persistence,
            })
        };
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "shop", "namespace": "shop"},
            "spec": {"rules": [rule("api", "api", api), rule("web", "shop", web)]},
        })
    }

    fn by_route(route: &Value, rule: Option<&str>) -> AssignmentUnit {
        let services = [service("shop", "None", &[Some("kubernetes.io/h2c")])];
        let route = routed(route, rule);
        assignment_unit(Some(&[route]), Some("shop"), &services)
    }

    fn routed<'a>(object: &'a Value, rule: Option<&'a str>) -> RoutedObject<'a> {
        RoutedObject {
            router: router_of(RouteKind::HttpRoute),
            object,
            rule,
        }
    }

    fn client(why: &str) -> AssignmentUnit {
        AssignmentUnit::Client { why: why.into() }
    }

    fn connection(why: &str) -> AssignmentUnit {
        AssignmentUnit::Connection { why: why.into() }
    }

    #[test]
    fn weights_of_a_route_assign_requests_even_over_http2() {
        let route = route(&Value::Null, &Value::Null);
        assert_eq!(by_route(&route, None), AssignmentUnit::Request);
    }

    #[test]
    fn the_affinity_of_either_service_assigns_clients_with_and_without_a_router() {
        let route = route(&Value::Null, &Value::Null);
        for routes in [Some(&[routed(&route, None)][..]), None] {
            for (stable, canary, name) in [("ClientIP", "None", "a"), ("None", "ClientIP", "b")] {
                let services = [
                    service("a", stable, &[Some("grpc")]),
                    service("b", canary, &[]),
                ];
                assert_eq!(
                    assignment_unit(routes, Some("shop"), &services),
                    client(&format!("Service {name}: spec.sessionAffinity is ClientIP"))
                );
            }
        }
    }

    #[test]
    fn a_sticky_cookie_of_the_ingress_controller_assigns_clients() {
        let name = STICKY_ANNOTATION;
        assert_eq!(sticky_annotation([(name, "false")].into_iter()), None);
        let sticky_annotation = sticky_annotation([("a", "true"), (name, "true")].into_iter());
        assert_eq!(sticky_annotation, Some(name));
        let services = [ServiceFacts {
            sticky_annotation,
            ..service("shop", "None", &[])
        }];
        assert_eq!(
            assignment_unit(None, Some("shop"), &services),
            client(&format!("Service shop: annotation {name} is true"))
        );
    }

    #[test]
    fn session_persistence_of_a_managed_rule_assigns_clients() {
        let cookie = json!({"sessionName": "shop"});
        let header = json!({"type": "Header"});
        let expected = |type_| {
            client(&format!(
                "HTTPRoute shop: spec.rules[1].sessionPersistence is set (type {type_})"
            ))
        };
        let none = Value::Null;
        assert_eq!(by_route(&route(&cookie, &none), None), expected("Cookie"));
        assert_eq!(
            by_route(&route(&header, &none), Some("web")),
            expected("Header")
        );
    }

    #[test]
    fn session_persistence_of_a_rule_that_is_not_split_does_not_matter() {
        let cookie = json!({"type": "Cookie"});
        let none = Value::Null;
        assert_eq!(
            by_route(&route(&none, &cookie), None),
            AssignmentUnit::Request
        );
        assert_eq!(
            by_route(&route(&cookie, &none), Some("api")),
            AssignmentUnit::Request
        );
    }

    #[test]
    fn replica_counts_assign_connections() {
        let expected = "Replica counts divide the traffic, and a Service balances connections";
        assert_eq!(assignment_unit(None, None, &[]), connection(expected));
        let http = [service("shop", "None", &[None, Some("http")])];
        assert_eq!(
            assignment_unit(None, Some("shop"), &http),
            connection(expected)
        );
    }

    #[test]
    fn a_multiplexed_protocol_without_a_router_names_its_port() {
        for protocol in MULTIPLEXED {
            let ports = [None, Some(protocol)];
            let services = [service("shop", "None", &ports)];
            let why = format!(
                "Service shop: spec.ports[1].appProtocol is {protocol}, and replica counts divide the \
                 traffic"
            );
            assert_eq!(
                assignment_unit(None, Some("shop"), &services),
                connection(&why)
            );
        }
    }

    #[test]
    fn rules_for_connections_assign_connections() {
        let object = route(&Value::Null, &Value::Null);
        for kind in [RouteKind::TcpRoute, RouteKind::TlsRoute] {
            let router = router_of(kind);
            let connections = RoutedObject {
                router,
                ..routed(&object, None)
            };
            let why = format!("{} shop: spec.rules[1] divides connections", router.kind());
            let unit = assignment_unit(Some(&[connections]), Some("shop"), &[]);
            assert_eq!(unit, connection(&why));
        }
    }

    #[test]
    fn malformed_routes_assign_requests() {
        for malformed in [
            json!(null),
            json!({"spec": {"rules": 1}}),
            json!({"kind": "Other"}),
        ] {
            assert_eq!(by_route(&malformed, None), AssignmentUnit::Request);
        }
    }
}
