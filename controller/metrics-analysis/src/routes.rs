//! The rules of HTTPRoutes that send requests to a Rollout's two Services.
//!
//! A router's counters name the backend and, at best, the route. Which of them count for a Rollout
//! depends on all routes of the cluster: another rule can reach the same Service, and names that
//! are joined by dashes can be equal.

use serde_json::Value;
use serin_core::plan::{RouteRef, Routing};

use crate::matcher::joined;

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteParent {
    /// Whether it is a ListenerSet; if not, a Gateway.
    pub is_listener_set: bool,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A Service that a rule sends requests to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteBackend {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Its port.
    pub port: Option<u64>,
}

/// One rule of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteRule {
    /// The namespace of the route.
    pub namespace: String,
    /// The name of the route.
    pub route: String,
    /// The position of the rule in the route; `None` if it is not known.
    pub index: Option<usize>,
    /// The name of the rule.
    pub name: Option<String>,
    /// What the route is attached to; empty if it is not known.
    pub parents: Vec<RouteParent>,
    /// The Services that the rule sends requests to.
    pub backends: Vec<RouteBackend>,
}

/// The rules that matter to one Rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteRules {
    /// The rules that the Rollout splits.
    pub split: Vec<RouteRule>,
    /// All other rules of the cluster with a backend whose name, joined by dashes, is that of one
    /// of the two Services.
    pub others: Vec<RouteRule>,
}

impl RouteRules {
    /// Reads the rules that matter to a Rollout from the HTTPRoutes of a cluster.
    pub fn of<'a>(
        routes: impl IntoIterator<Item = &'a Value>,
        namespace: &str,
        routing: &Routing,
    ) -> Self {
        let names = [&routing.stable_service, &routing.canary_service]
            .map(|service| joined(&[namespace, service]));
        let mut rules = Self::default();
        for rule in routes.into_iter().flat_map(rules_of) {
            let concerns = |backend: &RouteBackend| {
                names.contains(&joined(&[&backend.namespace, &backend.service]))
            };
            if is_split(&rule, namespace, routing) {
                rules.split.push(rule);
            } else if rule.backends.iter().any(concerns) {
                rules.others.push(rule);
            }
        }
        rules.split.sort();
        rules.others.sort();
        rules
    }

    /// The rules that a plan names, if the HTTPRoutes themselves cannot be read.
    pub fn planned(namespace: &str, routing: &Routing) -> Self {
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
        }
    }
}

impl RouteRule {
    /// The rule as messages name it.
    pub(crate) fn title(&self) -> String {
        let rule = match (&self.name, self.index) {
            (Some(name), _) => format!("rule {name} of "),
            (None, Some(index)) => format!("rule {index} of "),
            (None, None) => String::new(),
        };
        format!("{rule}HTTPRoute {}/{}", self.namespace, self.route)
    }
}

/// The Services behind a route, as their joined names: a cheap test for whether [`RouteRules::of`]
/// needs the route at all.
pub fn backend_names(route: &Value) -> Vec<String> {
    let backends = rules_of(route).into_iter().flat_map(|rule| rule.backends);
    let mut names: Vec<String> = backends
        .map(|backend| joined(&[&backend.namespace, &backend.service]))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The same for the two Services of a Rollout.
pub fn service_names(namespace: &str, routing: &Routing) -> [String; 2] {
    [&routing.stable_service, &routing.canary_service].map(|service| joined(&[namespace, service]))
}

fn is_split(rule: &RouteRule, namespace: &str, routing: &Routing) -> bool {
    let is_named = |route: &RouteRef| {
        route.name == rule.route && (route.rule.is_none() || route.rule == rule.name)
    };
    let is_stable = |backend: &RouteBackend| {
        backend.namespace == rule.namespace && backend.service == routing.stable_service
    };
    rule.namespace == namespace
        && routing.routes.iter().any(is_named)
        && rule.backends.iter().any(is_stable)
}

fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn rules_of(route: &Value) -> Vec<RouteRule> {
    let of_route = |field: &str| {
        route
            .get("metadata")
            .and_then(|metadata| text(metadata, field))
            .unwrap_or_default()
    };
    let (namespace, name) = (of_route("namespace"), of_route("name"));
    let parent = |parent: &Value| RouteParent {
        is_listener_set: text(parent, "kind") == Some("ListenerSet"),
        namespace: text(parent, "namespace").unwrap_or(namespace).to_owned(),
        name: text(parent, "name").unwrap_or_default().to_owned(),
    };
    let mut parents: Vec<RouteParent> =
        list(route, "/spec/parentRefs").iter().map(parent).collect();
    parents.sort();
    parents.dedup();
    let backend = |backend: &Value| RouteBackend {
        namespace: text(backend, "namespace").unwrap_or(namespace).to_owned(),
        service: text(backend, "name").unwrap_or_default().to_owned(),
        port: backend.get("port").and_then(Value::as_u64),
    };
    let rule = |(index, rule): (usize, &Value)| RouteRule {
        namespace: namespace.to_owned(),
        route: name.to_owned(),
        index: Some(index),
        name: text(rule, "name").map(ToOwned::to_owned),
        parents: parents.clone(),
        backends: list(rule, "/backendRefs").iter().map(backend).collect(),
    };
    list(route, "/spec/rules")
        .iter()
        .enumerate()
        .map(rule)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use serin_core::plan::RouteKind;

    use super::*;

    fn routing(rule: Option<&str>) -> Routing {
        let rule = rule.map(ToOwned::to_owned);
        Routing {
            stable_service: "shop".to_owned(),
            canary_service: "shop-canary".to_owned(),
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
    fn the_named_rule_is_split_and_the_others_are_not() {
        // gatewayapi plugin #226: two rules name the same Services, only one is managed.
        let rules = json!([{"name": "probe", "backendRefs": [{"name": "shop", "port": 80}]},
            {"name": "api", "backendRefs": [{"name": "shop", "port": 80}, {"name": "shop-canary", "port": 80}]}]);
        let shop = route("web", "shop", &rules);
        let found = RouteRules::of([&shop], "web", &routing(Some("api")));
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
            RouteRules::of([&shop], "web", &routing(None)).split.len(),
            2
        );
    }

    #[test]
    fn a_backend_whose_joined_name_is_the_same_is_another_rule_that_matters() {
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
        let found = RouteRules::of([&other, &unrelated], "web", &routing(None));
        assert_eq!((found.split.len(), found.others.len()), (0, 1));
        assert_eq!(backend_names(&other), ["web-shop-canary"]);
        assert!(service_names("web", &routing(None)).contains(&"web-shop-canary".to_owned()));
    }
}
