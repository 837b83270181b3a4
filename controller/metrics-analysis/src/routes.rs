//! Rules of routes that send requests to the two Services of a Rollout.
//!
//! The counters of a router name the backend and, at best, the route. Which of them belong to a
//! Rollout depends on all routes of the cluster: another rule may reach the same Service, and
//! different names can be equal once they are joined with dashes.

use std::collections::BTreeSet;

use serde_json::Value;
use serin_core::plan::{RouteKind, RouteRef, Routing};
use serin_traffic::{is_added_rule, router_of};

use crate::traefik;

/// Parent of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteParent {
    /// Whether the parent is a ListenerSet instead of a Gateway.
    pub is_listener_set: bool,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A Service that receives requests from a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteBackend {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub service: String,
    /// Port.
    pub port: Option<u64>,
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteRule {
    /// Kind of the route.
    pub kind: RouteKind,
    /// Namespace of the route.
    pub namespace: String,
    /// Name of the route.
    pub route: String,
    /// Index of the rule in its list. `None` if unknown.
    pub index: Option<usize>,
    /// Name of the rule.
    pub name: Option<String>,
    /// Parents of the route. Empty if unknown.
    pub parents: Vec<RouteParent>,
    /// Services that receive requests from the rule.
    pub backends: Vec<RouteBackend>,
}

/// Where the rules of a Rollout come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteScope {
    /// The routes of all namespaces.
    #[default]
    AllNamespaces,
    /// The routes of the Rollout's namespace. Those of other namespaces are unknown.
    OwnNamespace,
    /// A plan, without any route. Their parents and all other routes are unknown.
    Plan,
}

/// The rules that are relevant for one Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRules {
    /// Rules whose traffic the Rollout splits.
    pub split: Vec<RouteRule>,
    /// All other rules that send requests to one of the two Services, or to a backend that can have
    /// the same name in metrics.
    pub others: Vec<RouteRule>,
    /// The routes that were compared.
    pub scope: RouteScope,
}

impl RouteRules {
    /// Selects the rules that are relevant for a Rollout from the routes of all namespaces.
    pub fn from_routes<'a>(
        routes: impl IntoIterator<Item = (RouteKind, &'a Value)>,
        namespace: &str,
        routing: &Routing,
    ) -> Self {
        let (mut split, mut others) = (Vec::new(), Vec::new());
        for (kind, route) in routes {
            let indices = split_indices(kind, route, namespace, routing);
            for (position, rule) in parse_rules(kind, route).into_iter().enumerate() {
                let side = if indices.contains(&position) {
                    &mut split
                } else {
                    &mut others
                };
                side.push(rule);
            }
        }
        let services = [routing.stable_service(), routing.canary_service()].map(String::as_str);
        let reaches = |backend: &RouteBackend| {
            backend.namespace == namespace && services.contains(&backend.service.as_str())
        };
        others.retain(|other| {
            other.backends.iter().any(reaches)
                || traefik::may_share_name(&split, namespace, services, other)
        });
        split.sort();
        others.sort();
        Self {
            split,
            others,
            scope: RouteScope::AllNamespaces,
        }
    }

    /// Creates the rules from a plan, if the routes cannot be read.
    pub fn from_plan(namespace: &str, routing: &Routing) -> Self {
        let rule = |RouteRef { kind, name, rule }: &RouteRef| RouteRule {
            kind: *kind,
            namespace: namespace.to_owned(),
            route: name.clone(),
            index: None,
            name: rule.clone(),
            parents: Vec::new(),
            backends: Vec::new(),
        };
        Self {
            split: routing.routes.iter().map(rule).collect(),
            others: Vec::new(),
            scope: RouteScope::Plan,
        }
    }
}

impl RouteRule {
    /// Whether the other rule was added to the same route for chosen requests.
    pub(crate) fn has_added(&self, other: &Self) -> bool {
        (self.kind, &self.namespace, &self.route) == (other.kind, &other.namespace, &other.route)
            && other.name.as_deref().is_some_and(is_added_rule)
    }

    /// The name of the rule in messages.
    pub(crate) fn title(&self) -> String {
        let rule = match (&self.name, self.index) {
            (Some(name), _) => format!("rule {name} of "),
            (None, Some(index)) => format!("rule {index} of "),
            (None, None) => String::new(),
        };
        let kind = router_of(self.kind).kind();
        format!("{rule}{kind} {}/{}", self.namespace, self.route)
    }
}

/// The ends of the names that the Services behind a route have in metrics: a cheap test whether
/// [`RouteRules::from_routes`] needs the route. It does if one of them is in [`service_names`].
pub fn backend_names(kind: RouteKind, route: &Value) -> Vec<String> {
    let backends = parse_rules(kind, route)
        .into_iter()
        .flat_map(|rule| rule.backends);
    let mut names: Vec<String> = backends
        .map(|backend| traefik::name_end(&backend.namespace, &backend.service))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The ends of the names that the two Services of a Rollout have in metrics.
pub fn service_names(namespace: &str, routing: &Routing) -> [String; 2] {
    [routing.stable_service(), routing.canary_service()]
        .map(|service| traefik::name_end(namespace, service))
}

/// The positions of the rules that a Rollout splits, among all rules of a route.
fn split_indices(
    kind: RouteKind,
    route: &Value,
    namespace: &str,
    routing: &Routing,
) -> BTreeSet<usize> {
    let metadata = &route["metadata"];
    let named = routing.routes.iter().filter(|named| {
        named.kind == kind && metadata["name"] == named.name && metadata["namespace"] == namespace
    });
    let router = router_of(kind);
    let stable = routing.stable_service();
    let titles: BTreeSet<String> = named
        .filter_map(|named| {
            let rules = router.managed_rules(route, named.rule.as_deref(), stable);
            rules.ok()
        })
        .flatten()
        .map(|rule| rule.title)
        .collect();
    let rules = router.rules(route).unwrap_or_default();
    let positions = rules.iter().enumerate();
    positions
        .filter(|(_, rule)| titles.contains(&rule.title))
        .map(|(position, _)| position)
        .collect()
}

fn string_field<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

fn array_at<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// All rules of a route. None if it is malformed: the API server lets no such route pass.
fn parse_rules(kind: RouteKind, route: &Value) -> Vec<RouteRule> {
    let of_route = |field: &str| {
        route
            .get("metadata")
            .and_then(|metadata| string_field(metadata, field))
            .unwrap_or_default()
    };
    let (namespace, name) = (of_route("namespace"), of_route("name"));
    let parent = |parent: &Value| RouteParent {
        is_listener_set: string_field(parent, "kind") == Some("ListenerSet"),
        namespace: string_field(parent, "namespace")
            .unwrap_or(namespace)
            .to_owned(),
        name: string_field(parent, "name").unwrap_or_default().to_owned(),
    };
    let mut parents: Vec<RouteParent> = array_at(route, "/spec/parentRefs")
        .iter()
        .map(parent)
        .collect();
    parents.sort();
    parents.dedup();
    let backend = |backend: serin_traffic::RouteBackend| RouteBackend {
        namespace: backend.namespace,
        service: backend.service,
        port: backend.port,
    };
    let rules = router_of(kind).rules(route).unwrap_or_default();
    let rule = |rule: serin_traffic::RouteRule| RouteRule {
        kind,
        namespace: namespace.to_owned(),
        route: name.to_owned(),
        index: Some(rule.index),
        name: rule.name,
        parents: parents.clone(),
        backends: rule.backends.into_iter().map(backend).collect(),
    };
    rules.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use serin_core::plan::ArmBinding;

    use super::*;

    fn routing(rule: Option<&str>) -> Routing {
        let rule = rule.map(ToOwned::to_owned);
        Routing {
            binding: ArmBinding::services("shop", "shop-canary"),
            routes: vec![RouteRef {
                kind: RouteKind::HttpRoute,
                name: "shop".to_owned(),
                rule,
            }],
            settle: Duration::ZERO,
            unverified_after: Duration::ZERO,
        }
    }

    fn http(route: &Value) -> (RouteKind, &Value) {
        (RouteKind::HttpRoute, route)
    }

    fn route(namespace: &str, name: &str, rules: &Value) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name},
            "spec": {"parentRefs": [{"name": "public", "namespace": "infra"}], "rules": rules}})
    }

    #[test]
    fn only_the_named_rule_is_split() {
        // gatewayapi plugin #226: two rules name the same Services, only one is managed.
        let rules = json!([{"name": "probe", "backendRefs": [{"name": "shop", "port": 80}]},
            {"name": "api", "backendRefs": [{"name": "shop", "port": 80}, {"name": "shop-canary", "port": 80}]}]);
        let shop = route("web", "shop", &rules);
        let found = RouteRules::from_routes([http(&shop)], "web", &routing(Some("api")));
        assert_eq!(
            found
                .split
                .iter()
                .map(|rule| rule.index)
                .collect::<Vec<_>>(),
            [Some(1)]
        );
        assert_eq!(
            found
                .others
                .iter()
                .map(RouteRule::title)
                .collect::<Vec<_>>(),
            ["rule probe of HTTPRoute web/shop"]
        );
        assert_eq!(
            RouteRules::from_routes([http(&shop)], "web", &routing(None))
                .split
                .len(),
            2
        );
    }

    #[test]
    fn a_backend_with_the_same_joined_name_is_relevant() {
        // traefik #10139: namespace and Service joined by a dash.
        let other = route(
            "web-shop",
            "x",
            &json!([{"backendRefs": [{"name": "canary", "port": 80}]}]),
        );
        let unrelated = route(
            "web-shop",
            "y",
            &json!([{"backendRefs": [{"name": "cart", "port": 80}]}]),
        );
        let found =
            RouteRules::from_routes([http(&other), http(&unrelated)], "web", &routing(None));
        assert_eq!((found.split.len(), found.others.len()), (0, 1));
        assert_eq!(
            backend_names(RouteKind::HttpRoute, &other),
            ["web-shop-canary"]
        );
        assert!(service_names("web", &routing(None)).contains(&"web-shop-canary".to_owned()));
    }

    #[test]
    fn a_route_of_another_kind_is_not_split_by_its_name() {
        let rules = json!([{"backendRefs": [{"name": "shop", "port": 80}]}]);
        let shop = route("web", "shop", &rules);
        let of_kind = |kind| RouteRules::from_routes([(kind, &shop)], "web", &routing(None));
        assert_eq!(of_kind(RouteKind::HttpRoute).split.len(), 1);
        let grpc = of_kind(RouteKind::GrpcRoute);
        assert_eq!((grpc.split.len(), grpc.others.len()), (0, 1));
        assert_eq!(grpc.others[0].title(), "rule 0 of GRPCRoute web/shop");
    }

    #[test]
    fn the_destinations_of_a_virtual_service_are_backends() {
        let shop = json!({
            "metadata": {"namespace": "web", "name": "shop"},
            "spec": {
                "http": [{"name": "api", "route": [{"destination": {"host": "shop.web.svc"}}]}],
                "tcp": [{"route": [{"destination": {"host": "shop", "port": {"number": 9000}}}]}],
            },
        });
        let mut routing = routing(Some("api"));
        routing.routes[0].kind = RouteKind::VirtualService;
        let found = RouteRules::from_routes([(RouteKind::VirtualService, &shop)], "web", &routing);
        assert_eq!((found.split.len(), found.others.len()), (1, 1));
        assert_eq!(found.split[0].name.as_deref(), Some("api"));
        assert_eq!(found.others[0].backends[0].port, Some(9000));
        assert_eq!(
            backend_names(RouteKind::VirtualService, &shop),
            ["web-shop"]
        );
    }
}
