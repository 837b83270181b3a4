//! Series of other routes never count for a Rollout, whatever their names are.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use serin_analysis::Arm;
use serin_core::plan::{RouteKind, RouteRef, Routing};
use serin_metrics_analysis::counter_selectors::CounterSelectors;
use serin_metrics_analysis::prometheus::Labels;
use serin_metrics_analysis::routes::RouteRules;
use serin_metrics_analysis::{AnalysisRequest, RolloutName};

use crate::exporters::{counters_of, request, rule, select};

/// Names of few words, so that they collide when joined.
fn name() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "shop",
        "a",
        "canary",
        "gw",
        "ls",
        "ep",
        "svc",
        "web",
        "x0",
        "8bd93a10a1ba373c380d",
    ]);
    prop::collection::vec(word, 1..4).prop_map(|words| words.join("-"))
}

/// One rule of an HTTPRoute with one backend, and the entry point that serves it.
#[derive(Clone, Debug)]
struct Split {
    namespace: String,
    route: String,
    rule: usize,
    gateway: (String, String),
    entry_point: &'static str,
    service: String,
}

fn split() -> impl Strategy<Value = Split> {
    let gateway = (name(), name());
    let entry_point =
        prop::sample::select(vec!["web", "websecure", "web-internal", "my-web-internal"]);
    (name(), name(), 0..3_usize, gateway, entry_point, name()).prop_map(
        |(namespace, route, rule, gateway, entry_point, service)| Split {
            namespace,
            route,
            rule,
            gateway,
            entry_point,
            service,
        },
    )
}

impl Split {
    fn object(&self) -> serde_json::Value {
        let (namespace, name) = &self.gateway;
        let rule = |index: usize| {
            let service = if index == self.rule {
                self.service.as_str()
            } else {
                "unrelated"
            };
            json!({"backendRefs": [{"name": service, "port": 80}]})
        };
        json!({"metadata": {"namespace": self.namespace, "name": self.route},
            "spec": {"parentRefs": [{"namespace": namespace, "name": name}], "rules": (0..3).map(rule).collect::<Vec<_>>()}})
    }

    /// A split with the same words, whose namespace has the given number of them. `None` if its
    /// Service would have another name.
    fn divided_at(&self, words: usize) -> Option<Self> {
        let of_route = format!("{}-{}", self.namespace, self.route);
        let (at, _) = of_route.match_indices('-').nth(words)?;
        let (namespace, route) = of_route.split_at(at);
        let of_service = format!("{}-{}", self.namespace, self.service);
        let service = of_service.strip_prefix(namespace)?.strip_prefix('-')?;
        Some(Self {
            namespace: namespace.into(),
            route: route[1..].into(),
            service: service.into(),
            ..self.clone()
        })
    }

    /// The name in Traefik 3.7.
    fn name(&self) -> String {
        let Self {
            namespace,
            route,
            rule,
            gateway,
            entry_point,
            service,
        } = self;
        let (gateway_namespace, gateway) = gateway;
        format!(
            "httproute-{namespace}-{route}-gw-{gateway_namespace}-{gateway}-ep-{entry_point}-{rule}-8bd93a10a1ba373c380d-svc-\
             {namespace}-{service}-0@kubernetesgateway"
        )
    }

    /// The name before Traefik 3.7.
    fn old_name(&self) -> String {
        format!("{}-{}-80@kubernetesgateway", self.namespace, self.service)
    }
}

/// The selectors of a Rollout whose stable Service is behind a split, in a cluster with another
/// route.
fn traefik(own: &Split, other: &Split) -> CounterSelectors {
    let routing = Routing {
        stable_service: own.service.clone(),
        canary_service: format!("{}-z", own.service),
        routes: vec![RouteRef {
            kind: RouteKind::HttpRoute,
            name: own.route.clone(),
            rule: None,
        }],
        settle: std::time::Duration::ZERO,
        unverified_after: std::time::Duration::ZERO,
    };
    let objects = [own.object(), other.object()];
    let request = AnalysisRequest {
        rollout: RolloutName {
            namespace: own.namespace.clone(),
            name: "x".to_owned(),
        },
        rules: RouteRules::from_routes(&objects, &own.namespace, &routing),
        stable_service: Some(routing.stable_service),
        canary_service: Some(routing.canary_service),
        ..request()
    };
    counters_of(&request, json!({"indicator": "traefik"})).unwrap()
}

fn service(name: String) -> Labels {
    Labels::from([("service".to_owned(), name)])
}

fn with(labels: &[(&str, &str)]) -> Labels {
    labels
        .iter()
        .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_other_route_counts_in_traefik(own in split(), other in split(), at in 0..6_usize) {
        let other = own.divided_at(at).unwrap_or(other);
        prop_assume!((&own.namespace, &own.route) != (&other.namespace, &other.route));
        let counters = traefik(&own, &other);
        for name in [own.name(), own.old_name()] {
            let labels = service(name.clone());
            let is_shared = name == other.name() || name == other.old_name();
            let expected = (!is_shared).then_some(Arm::Stable);
            prop_assert!(counters.arm(&labels) == expected || counters.ambiguity(&labels).is_some(), "{}", name);
            prop_assert!(!is_shared || counters.arm(&labels).is_none(), "{}", name);
        }
        for name in [other.name(), other.old_name()] {
            prop_assert_eq!(counters.arm(&service(name.clone())), None, "{} of {:?}", name, other);
        }
    }

    #[test]
    fn no_other_rule_counts_in_traefik(own in split(), rule in 0..3_usize) {
        prop_assume!(rule != own.rule);
        let other = Split { route: format!("{}-y", own.route), ..own.clone() };
        let counters = traefik(&own, &other);
        let of_rule = Split { rule, ..own.clone() };
        prop_assert_eq!(counters.arm(&service(of_rule.name())), None);
        prop_assert_eq!(counters.arm(&service(own.name())), Some(Arm::Stable));
        // Traefik before 3.7 only names the Service, which both routes reach.
        prop_assert!(counters.ambiguity(&service(own.old_name())).is_some());
    }

    #[test]
    fn no_other_pod_counts(set in "[a-z]{1,62}-[a-z0-9]{9}", other in "[a-z]{1,62}-[a-z0-9]{1,9}(-[a-z0-9]{1,5})?", suffix in "[a-z0-9]{5}") {
        prop_assume!(set != other);
        let generated = |set: &str| {
            let base = format!("{set}-");
            format!("{}{suffix}", &base[..base.len().min(58)])
        };
        let (own, foreign) = (generated(&set), generated(&other));
        let request = AnalysisRequest {
            canary_replica_set: set.clone(),
            stable_replica_set: Some("stable-abcdefghi".to_owned()),
            pod_sides: BTreeMap::from([(own.clone(), Arm::Canary)]),
            ..request()
        };
        for (objective, label) in [
            (json!({"indicator": "pod"}), "pod"),
            (json!({"counters": {"total": "a", "errors": "b", "variants": {"podLabel": "kubernetes_pod"}}}), "kubernetes_pod"),
        ] {
            let counters = counters_of(&request, objective).unwrap();
            prop_assert_eq!(counters.arm(&with(&[(label, &own)])), Some(Arm::Canary));
            prop_assert!(own == foreign || counters.arm(&with(&[(label, &foreign)])).is_none());
            let stored = vec![(with(&[("__name__", "http_server_request_duration_seconds_count"), ("namespace", "shop"),
                ("pod", &own), ("http_response_status_code", "200")]), 1.0)];
            prop_assert!(label != "pod" || select(&stored, &counters.total_of_sides).len() == 1);
            prop_assert!(label != "pod" || set.starts_with("checkout-") || select(&stored, &counters.total).is_empty());
        }
    }

    #[test]
    fn no_other_service_counts_in_a_mesh(namespace in name(), service in name(), route in name()) {
        prop_assume!(namespace != "shop" || !["checkout", "checkout-canary"].contains(&service.as_str()) || route != "checkout");
        let istio = with(&[("__name__", "istio_requests_total"), ("reporter", "source"),
            ("destination_service_namespace", &namespace), ("destination_service_name", &service)]);
        let linkerd = with(&[("__name__", "outbound_http_route_backend_response_statuses_total"), ("route_kind", "HTTPRoute"),
            ("route_namespace", &namespace), ("route_name", &route), ("backend_namespace", &namespace), ("backend_name", &service)]);
        for (indicator, labels) in [("istio", istio), ("linkerd", linkerd)] {
            let counters = counters_of(&request(), json!({"indicator": indicator})).unwrap();
            let stored = vec![(labels, 1.0)];
            let is_own = namespace == "shop" && ["checkout", "checkout-canary"].contains(&service.as_str());
            let is_counted = !select(&stored, &counters.total_of_sides).is_empty();
            prop_assert!(!is_counted || is_own);
        }
    }

    #[test]
    fn no_other_upstream_counts_in_nginx(service in name(), port in "[a-z]{1,7}|[0-9]{1,5}|[a-z]{1,4}-[a-z]{1,4}") {
        let counters = counters_of(&request(), json!({"indicator": "nginx"})).unwrap();
        let labels = with(&[("canary", &format!("shop-{service}-{port}"))]);
        prop_assert!(service == "checkout-canary" || counters.arm(&labels).is_none());
        // A dash more is in the port's name or in another Service's: neither counts.
        let own = with(&[("canary", &format!("shop-checkout-canary-{port}"))]);
        prop_assert!(counters.arm(&own) == Some(Arm::Canary) || (port.contains('-') && counters.ambiguity(&own).is_some()));
        let longer = with(&[("canary", &format!("shop-checkout-canary-{service}-{port}"))]);
        prop_assert!(counters.arm(&longer).is_none() && counters.ambiguity(&longer).is_some());
    }
}

/// The counters of `shop/checkout`, and the side that a name of Traefik's counts for.
fn side(rules: RouteRules, name: &str) -> (Option<Arm>, Option<String>) {
    let counters = counters_of(
        &AnalysisRequest { rules, ..request() },
        json!({"indicator": "traefik"}),
    )
    .unwrap();
    let labels = service(name.to_owned());
    (
        counters.arm(&labels),
        counters.ambiguity(&labels).map(ToOwned::to_owned),
    )
}

#[test]
fn a_service_named_like_the_rest_of_a_name_does_not_count() {
    // A tenant behind the same gateway who names a Service x-svc-shop-checkout-canary.
    let name = "httproute-evil-r-gw-gateway-system-local-ep-web-0-8bd93a10a1ba373c380d-svc-evil-x-svc-shop-checkout-canary-1@kubernetesgateway";
    assert_eq!(side(request().rules, name), (None, None));
}

#[test]
fn names_that_are_equal_when_joined_are_ambiguous() {
    // traefik #10139, #10105: shop + checkout-canary and shop-checkout + canary are one name.
    let others = vec![rule("shop-checkout", "r", 0, &["canary"])];
    let rules = RouteRules {
        others,
        ..request().rules
    };
    let (arm, reason) = side(rules.clone(), "shop-checkout-canary-80@kubernetesgateway");
    assert_eq!(arm, None);
    let reason = reason.unwrap();
    assert!(
        reason.contains("HTTPRoute shop-checkout/r") && reason.contains("upgrade Traefik to 3.7"),
        "{reason}"
    );
    let own = "httproute-shop-checkout-gw-gateway-system-local-ep-web-0-8bd93a10a1ba373c380d-svc-shop-checkout-canary-1@kubernetesgateway";
    assert_eq!(
        side(rules, own),
        (Some(Arm::Canary), None),
        "the name contains the route and is unambiguous"
    );
    // Since 3.7 as well, if the route also has the same joined name.
    let others = vec![rule("shop-checkout", "canary", 0, &["canary"])];
    let split = vec![rule(
        "shop",
        "checkout-canary",
        0,
        &["checkout", "checkout-canary"],
    )];
    let own = own.replace("shop-checkout-gw", "shop-checkout-canary-gw");
    let (arm, reason) = side(RouteRules { split, others }, &own);
    let reason = reason.unwrap();
    assert!(
        arm.is_none()
            && reason.contains("HTTPRoute shop/checkout-canary")
            && reason.contains("rename"),
        "{reason}"
    );
}

#[test]
fn a_mesh_that_cannot_distinguish_another_rule_is_rejected() {
    // gatewayapi plugin #226, with counters that do not name the route.
    let others = vec![rule("shop", "probe", 0, &["checkout"])];
    let request = AnalysisRequest {
        rules: RouteRules {
            others,
            ..request().rules
        },
        ..request()
    };
    let message = counters_of(&request, json!({"indicator": "istio"}))
        .unwrap_err()
        .message;
    assert!(
        message.contains("rule 0 of HTTPRoute shop/probe") && message.contains("its own Service"),
        "{message}"
    );
    assert!(
        counters_of(&request, json!({"indicator": "linkerd"})).is_ok(),
        "it names the route"
    );
}
