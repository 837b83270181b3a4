//! Series of other namespaces, Services, routes and pods never count for a Rollout, whatever their
//! names are. `traefik_names` has the names of Traefik.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use serin_analysis::Arm;
use serin_core::plan::RouteKind;
use serin_metrics_analysis::AnalysisRequest;
use serin_metrics_analysis::prometheus::Labels;
use serin_metrics_analysis::routes::{RouteRule, RouteRules};

use crate::support::{counters_of, labels, request, rule, select};

/// Names that look like those of `shop/checkout`, its Services and its pods, whole or in part, also
/// with characters that have a meaning in regular expressions.
fn near_name() -> impl Strategy<Value = String> {
    let words = [
        "shop", "checkout", "canary", "aaa", "bbb", "x7k2p", "80", "x", "svc",
    ];
    let separator = prop::sample::select(vec!["-", ".", "--"]);
    let words = prop::collection::vec((prop::sample::select(words.to_vec()), separator), 1..5);
    words.prop_map(|words| {
        let joined: String = words
            .into_iter()
            .flat_map(|(word, separator)| [word, separator])
            .collect();
        joined.trim_end_matches(['-', '.']).to_owned()
    })
}

/// Whether the series counts for the Rollout: for one of its sides, or for its error budget.
fn counts(request: &AnalysisRequest, indicator: &str, series: Labels) -> (bool, bool) {
    let counters = counters_of(request, json!({"indicator": indicator})).unwrap();
    let stored = vec![(series, 1.0)];
    let mut counted = (false, false);
    for layout in counters.layouts() {
        let of_sides = select(&stored, &layout.total_of_sides);
        counted.0 |= of_sides
            .iter()
            .any(|(labels, _)| layout.arm(labels).is_some());
        counted.1 |= !select(&stored, &layout.total).is_empty();
    }
    counted
}

const SERVICES: [&str; 2] = ["checkout", "checkout-canary"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_other_service_counts_in_istio(namespace in near_name(), service in near_name()) {
        let series = labels(&[("__name__", "istio_requests_total"), ("reporter", "source"),
            ("destination_service_namespace", &namespace), ("destination_service_name", &service)]);
        let is_own = namespace == "shop" && SERVICES.contains(&service.as_str());
        prop_assert_eq!(counts(&request(), "istio", series), (is_own, is_own));
    }

    #[test]
    fn no_other_cluster_counts_in_envoy_gateway(kind in "service|backend|serviceimport", namespace in near_name(),
        service in near_name(), port in "[0-9]{1,5}(/http)?") {
        let cluster = format!("{kind}/{namespace}/{service}/{port}");
        let series = labels(&[("__name__", "envoy_cluster_upstream_rq_xx"), ("envoy_cluster_name", &cluster),
            ("envoy_response_code_class", "2")]);
        let is_own = kind == "service" && namespace == "shop" && SERVICES.contains(&service.as_str());
        prop_assert_eq!(counts(&request(), "envoy-gateway", series), (is_own, is_own));
    }

    #[test]
    fn no_other_cluster_counts_in_contour(namespace in near_name(), service in near_name(), port in "[0-9]{1,5}") {
        let cluster = format!("{namespace}_{service}_{port}");
        let series = labels(&[("__name__", "envoy_cluster_upstream_rq_xx"), ("envoy_cluster_name", &cluster),
            ("envoy_response_code_class", "2")]);
        let is_own = namespace == "shop" && SERVICES.contains(&service.as_str());
        prop_assert_eq!(counts(&request(), "contour", series), (is_own, is_own));
    }

    #[test]
    fn no_other_route_or_service_counts_in_linkerd(
        [route_namespace, route, namespace, service] in [near_name(), near_name(), near_name(), near_name()],
        own in 0..16_u8,
    ) {
        // Some of the names are the Rollout's own.
        let name = |bit: u8, own_name: &str, other: String| if own & bit == 0 { other } else { own_name.to_owned() };
        let (route_namespace, route) = (name(1, "shop", route_namespace), name(2, "checkout", route));
        let (namespace, service) = (name(4, "shop", namespace), name(8, "checkout-canary", service));
        let series = labels(&[("__name__", "outbound_http_route_backend_response_statuses_total"), ("route_kind", "HTTPRoute"),
            ("route_namespace", &route_namespace), ("route_name", &route), ("backend_namespace", &namespace), ("backend_name", &service)]);
        let is_own = route_namespace == "shop" && route == "checkout" && namespace == "shop" && SERVICES.contains(&service.as_str());
        prop_assert_eq!(counts(&request(), "linkerd", series), (is_own, is_own));
    }

    #[test]
    fn no_other_upstream_counts_in_nginx(
        [namespace, service, upstream] in [near_name(), near_name(), near_name()],
        port in "[a-z]{1,7}|[0-9]{1,5}|[a-z]{1,4}-[a-z]{1,4}",
        own in 0..8_u8,
    ) {
        let namespace = if own & 1 == 0 { namespace } else { "shop".to_owned() };
        let service = if own & 2 == 0 { service } else { "checkout".to_owned() };
        let upstream = if own & 4 == 0 { upstream } else { "shop-checkout-canary".to_owned() };
        let canary = format!("{upstream}-{port}");
        // The other dashes may separate the Service and the port.
        let is_own = namespace == "shop" && service == "checkout"
            && canary.strip_prefix("shop-checkout-canary-").is_some_and(|port| !port.contains(['-', '.']));
        let series = labels(&[("__name__", "nginx_ingress_controller_requests"), ("namespace", &namespace),
            ("service", &service), ("canary", &canary)]);
        prop_assert_eq!(counts(&request(), "nginx", series), (is_own, is_own));
        let stable = labels(&[("__name__", "nginx_ingress_controller_requests"), ("namespace", &namespace), ("service", &service)]);
        let is_own = namespace == "shop" && service == "checkout";
        prop_assert_eq!(counts(&request(), "nginx", stable), (is_own, is_own));
    }

    #[test]
    fn an_additional_dash_in_an_upstream_of_nginx_is_ambiguous(service in "[a-z]{1,5}", port in "[a-z]{1,4}|[0-9]{1,5}") {
        let counters = counters_of(&request(), json!({"indicator": "nginx"})).unwrap();
        let longer = labels(&[("canary", &format!("shop-checkout-canary-{service}-{port}"))]);
        prop_assert!(counters.arm(&longer).is_none() && counters.ambiguity(&longer).is_some());
    }

    #[test]
    fn no_pod_of_another_namespace_or_name_counts(namespace in near_name(), pod in near_name(), own in 0..4_u8) {
        let namespace = if own & 1 == 0 { namespace } else { "shop".to_owned() };
        let pod = if own & 2 == 0 { pod } else { "checkout-bbb-x7k2p".to_owned() };
        let series = labels(&[("__name__", "http_server_request_duration_seconds_count"), ("namespace", &namespace),
            ("pod", &pod), ("http_response_status_code", "200")]);
        let words: Vec<&str> = pod.split('-').collect();
        let is_pod = |revisions: &[&str]| matches!(words[..], ["checkout", revision, suffix]
            if revisions.contains(&revision) && suffix.len() == 5 && suffix.bytes().all(|b| b.is_ascii_alphanumeric()));
        let is_side = namespace == "shop" && is_pod(&["aaa", "bbb"]);
        let (side, service) = counts(&request(), "pod", series);
        prop_assert_eq!(side, is_side);
        // The budget covers the pods of earlier revisions.
        prop_assert!(!service || (namespace == "shop" && words.len() == 3 && words[0] == "checkout" && words[1].len() == 3), "{}", pod);
    }

    #[test]
    fn no_pod_of_another_replica_set_counts(set in "[a-z]{1,62}-[a-z0-9]{9}", other in "[a-z]{1,62}-[a-z0-9]{1,9}(-[a-z0-9]{1,5})?", suffix in "[a-z0-9]{5}") {
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
            prop_assert_eq!(counters.arm(&labels(&[(label, &own)])), Some(Arm::Canary));
            prop_assert!(own == foreign || counters.arm(&labels(&[(label, &foreign)])).is_none());
            let stored = vec![(labels(&[("__name__", "http_server_request_duration_seconds_count"), ("namespace", "shop"),
                ("pod", &own), ("http_response_status_code", "200")]), 1.0)];
            prop_assert!(label != "pod" || select(&stored, &counters.total_of_sides).len() == 1);
            prop_assert!(label != "pod" || set.starts_with("checkout-") || select(&stored, &counters.total).is_empty());
        }
    }

    #[test]
    fn the_budget_covers_every_revision_of_a_rollout(rollout in "[a-z]{1,62}", suffix in "[a-z0-9]{5}",
        [canary, stable, earlier] in ["[bcdfghjklmnpqrstvwxz2456789]{9}", "[bcdfghjklmnpqrstvwxz2456789]{9}", "[bcdfghjklmnpqrstvwxz2456789]{9}"]) {
        let mut request = request();
        request.rollout.name.clone_from(&rollout);
        request.canary_replica_set = format!("{rollout}-{canary}");
        request.stable_replica_set = Some(format!("{rollout}-{stable}"));
        let base = format!("{rollout}-{earlier}-");
        let pod = format!("{}{suffix}", &base[..base.len().min(58)]);
        let series = labels(&[("__name__", "http_server_request_duration_seconds_count"), ("namespace", "shop"),
            ("pod", &pod), ("http_response_status_code", "200")]);
        prop_assert!(counts(&request, "pod", series).1, "{}", pod);
    }
}

#[test]
fn the_budget_does_not_cover_pods_of_other_workloads() {
    let request = AnalysisRequest {
        canary_replica_set: "checkout-7bxk2dmqz".to_owned(),
        stable_replica_set: Some("checkout-2cdx9tttt".to_owned()),
        ..request()
    };
    let is_covered = |pod: &str| {
        let name = "http_server_request_duration_seconds_count";
        let pod = [
            ("__name__", name),
            ("namespace", "shop"),
            ("pod", pod),
            ("http_response_status_code", "200"),
        ];
        counts(&request, "pod", labels(&pod)).1
    };
    assert!(is_covered("checkout-9fgh2mnpq-x7k2p"));
    // Pods of a DaemonSet or a Job, of a StatefulSet, and of another Rollout.
    for other in [
        "checkout-agent-x7k2p",
        "checkout-collector-x7k2p",
        "checkout-12345",
        "checkout-worker-9fgh2mnpq-x7k2p",
        "checkout-9fgh2mnpqx7k2p",
    ] {
        assert!(!is_covered(other), "{other}");
    }
}

/// The message if a rule of another route reaches the stable Service.
fn message_of_shared_service(indicator: Value) -> Option<String> {
    // gatewayapi plugin #226, with counters that do not name the route.
    let others = vec![rule("shop", "probe", 0, &["checkout"])];
    let request = AnalysisRequest {
        rules: RouteRules {
            others,
            ..request().rules
        },
        ..request()
    };
    counters_of(&request, indicator)
        .err()
        .map(|error| error.message)
}

#[test]
fn a_mesh_that_cannot_distinguish_another_rule_is_rejected() {
    for indicator in ["istio", "envoy-gateway", "contour"] {
        let message = message_of_shared_service(json!({"indicator": indicator})).unwrap();
        assert!(
            message.contains("rule 0 of HTTPRoute shop/probe")
                && message.contains("its own Service"),
            "{message}"
        );
    }
    let of_linkerd = message_of_shared_service(json!({"indicator": "linkerd"}));
    assert_eq!(of_linkerd, None, "it names the route");
}

#[test]
fn counters_that_name_the_route_are_rejected_if_a_route_of_another_kind_is_split() {
    let of_kind = |kind| AnalysisRequest {
        rules: RouteRules {
            split: vec![RouteRule {
                kind,
                ..rule("shop", "checkout", 0, &["checkout"])
            }],
            ..request().rules
        },
        ..request()
    };
    for kind in RouteKind::ALL {
        for (indicator, names_route) in [
            ("traefik", true),
            ("linkerd", true),
            ("istio", false),
            ("envoy-gateway", false),
            ("contour", false),
            ("pod", false),
        ] {
            let counters = counters_of(&of_kind(kind), json!({"indicator": indicator}));
            let is_rejected = names_route && kind != RouteKind::HttpRoute;
            assert_eq!(counters.is_err(), is_rejected, "{indicator} with {kind:?}");
            if let Err(error) = counters {
                assert!(
                    error.message.contains("use the indicator pod"),
                    "{}",
                    error.message
                );
            }
        }
    }
}
