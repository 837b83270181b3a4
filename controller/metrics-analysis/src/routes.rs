//! HTTPRoute rules that send requests to the two Services of a Rollout.
//!
//! The counters of a router name the backend and, at best, the route. Which of them belong to a
//! Rollout depends on all routes of the cluster: another rule may reach the same Service, and
//! different names can be equal once they are joined with dashes.

use serde_json::Value;
use serin_core::plan::{RouteRef, Routing};

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

/// One rule of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteRule {
    /// Namespace of the route.
    pub namespace: String,
    /// Name of the route.
    pub route: String,
    /// Index of the rule in the route. `None` if unknown.
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
    /// The HTTPRoutes of all namespaces.
    #[default]
    AllNamespaces,
    /// The HTTPRoutes of the Rollout's namespace. Those of other namespaces are unknown.
    OwnNamespace,
    /// A plan, without any HTTPRoute. Their parents and all other routes are unknown.
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
    /// Selects the rules that are relevant for a Rollout from the HTTPRoutes of all namespaces.
    pub fn from_routes<'a>(
        routes: impl IntoIterator<Item = &'a Value>,
        namespace: &str,
        routing: &Routing,
    ) -> Self {
        let rules = routes.into_iter().flat_map(parse_rules);
        let (mut split, mut others): (Vec<_>, Vec<_>) =
            rules.partition(|rule| is_split(rule, namespace, routing));
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

    /// Creates the rules from a plan, if the HTTPRoutes cannot be read.
    pub fn from_plan(namespace: &str, routing: &Routing) -> Self {
        let rule = |RouteRef { name, rule, .. }: &RouteRef| RouteRule {
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
    /// The name of the rule in messages.
    pub(crate) fn title(&self) -> String {
        let rule = match (&self.name, self.index) {
            (Some(name), _) => format!("rule {name} of "),
            (None, Some(index)) => format!("rule {index} of "),
            (None, None) => String::new(),
        };
        format!("{rule}HTTPRoute {}/{}", self.namespace, self.route)
    }
}

/// The ends of the names that the Services behind a route have in metrics: a cheap test whether
/// [`RouteRules::from_routes`] needs the route. It does if one of them is in [`service_names`].
pub fn backend_names(route: &Value) -> Vec<String> {
    let backends = parse_rules(route)
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

fn is_split(rule: &RouteRule, namespace: &str, routing: &Routing) -> bool {
    let is_named = |route: &RouteRef| {
        route.name == rule.route && (route.rule.is_none() || route.rule == rule.name)
    };
    let is_stable = |backend: &RouteBackend| {
        backend.namespace == rule.namespace && backend.service == *routing.stable_service()
    };
    rule.namespace == namespace
        && routing.routes.iter().any(is_named)
        && rule.backends.iter().any(is_stable)
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

fn parse_rules(route: &Value) -> Vec<RouteRule> {
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
    let backend = |backend: &Value| RouteBackend {
        namespace: string_field(backend, "namespace")
            .unwrap_or(namespace)
            .to_owned(),
        service: string_field(backend, "name").unwrap_or_default().to_owned(),
        port: backend.get("port").and_then(Value::as_u64),
    };
    let rule = |(index, rule): (usize, &Value)| RouteRule {
        namespace: namespace.to_owned(),
        route: name.to_owned(),
        index: Some(index),
        name: string_field(rule, "name").map(ToOwned::to_owned),
        parents: parents.clone(),
        backends: array_at(rule, "/backendRefs").iter().map(backend).collect(),
    };
    array_at(route, "/spec/rules")
        .iter()
        .enumerate()
        .map(rule)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use serin_core::plan::{ArmBinding, RouteKind};

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
        let found = RouteRules::from_routes([&shop], "web", &routing(Some("api")));
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
            RouteRules::from_routes([&shop], "web", &routing(None))
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
        let found = RouteRules::from_routes([&other, &unrelated], "web", &routing(None));
        assert_eq!((found.split.len(), found.others.len()), (0, 1));
        assert_eq!(backend_names(&other), ["web-shop-canary"]);
        assert!(service_names("web", &routing(None)).contains(&"web-shop-canary".to_owned()));
    }
}
