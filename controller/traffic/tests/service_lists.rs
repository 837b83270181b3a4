//! Patches of kinds of Traefik, Contour and APISIX by example.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod support;

use serde_json::{Value, json};
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::units::Weight;
use serin_traffic::ProgrammedStatus;

use crate::support::*;

fn object(api_version: &str, kind: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "41", "generation": 3},
        "spec": spec,
    })
}

fn traefik_service(spec: &Value) -> Value {
    object("traefik.io/v1alpha1", "TraefikService", spec)
}

fn http_proxy(services: &Value) -> Value {
    let spec = json!({"routes": [{"conditions": [{"prefix": "/"}], "services": services}]});
    object("projectcontour.io/v1", "HTTPProxy", &spec)
}

fn apisix_route(rules: &Value) -> Value {
    object(
        "apisix.apache.org/v2",
        "ApisixRoute",
        &json!({"http": rules}),
    )
}

#[test]
fn a_traefik_service_is_one_rule() {
    let stable = json!({"name": STABLE, "port": 80, "passHostHeader": true});
    let before = traefik_service(&json!({"weighted": {"services": [stable]}}));
    let original = capture_original(&before).unwrap();
    let split = route_at_weight(&before, 20.0, Some(&original));
    assert_eq!(
        split["spec"]["weighted"]["services"],
        json!([
            {"name": STABLE, "port": 80, "passHostHeader": true, "weight": 80},
            {"name": CANARY, "port": 80, "passHostHeader": true, "weight": 20},
        ])
    );
    assert_eq!(route_at_weight(&split, 0.0, Some(&original)), before);
    let title = &router(&before).rules(&before).unwrap()[0].title;
    assert_eq!(title, "spec.weighted");
}

#[test]
fn services_of_an_ingress_route_are_split_in_every_route_with_the_stable_service() {
    let route = |services: &Value| json!({"kind": "Rule", "match": "PathPrefix(`/`)", "services": services});
    let stable = json!({"name": STABLE, "port": "http", "sticky": {"cookie": {}}});
    let other = json!([{"name": "static", "port": 80}]);
    let nested = json!([{"name": STABLE, "kind": "TraefikService"}]);
    let spec = json!({"routes": [route(&other), route(&json!([stable])), route(&nested)]});
    let before = object("traefik.io/v1alpha1", "IngressRoute", &spec);
    let original = capture_original(&before).unwrap();
    let split = route_at_weight(&before, 25.0, Some(&original));
    assert_eq!(
        split["spec"]["routes"][1]["services"],
        json!([
            {"name": STABLE, "port": "http", "sticky": {"cookie": {}}, "weight": 75},
            {"name": CANARY, "port": "http", "sticky": {"cookie": {}}, "weight": 25},
        ])
    );
    for untouched in [0, 2] {
        assert_eq!(
            split["spec"]["routes"][untouched],
            spec["routes"][untouched]
        );
    }
    assert_eq!(
        router(&before).assignment_unit(&before, None, STABLE),
        AssignmentUnit::Request
    );
    assert_eq!(route_at_weight(&split, 0.0, Some(&original)), before);
}

#[test]
fn a_nested_traefik_service_is_not_the_service() {
    for other in [
        json!({"name": STABLE, "kind": "TraefikService"}),
        json!({"name": STABLE, "namespace": "payments"}),
    ] {
        let route = traefik_service(&json!({"weighted": {"services": [other]}}));
        let error = canary_weight(&route, None).unwrap_err().to_string();
        assert!(
            error.contains("is not a backend of any rule of TraefikService"),
            "{error}"
        );
    }
    let mirror = traefik_service(&json!({"mirroring": {"name": STABLE}}));
    assert!(canary_weight(&mirror, None).is_err());
}

#[test]
fn a_sticky_traefik_service_assigns_clients() {
    let services = json!([{"name": STABLE, "port": 80}]);
    let spec = json!({"weighted": {"services": services, "sticky": {"cookie": {}}}});
    let route = traefik_service(&spec);
    let why = "TraefikService checkout: spec.weighted.sticky is set (type Cookie)";
    assert_eq!(
        router(&route).assignment_unit(&route, None, STABLE),
        AssignmentUnit::Client { why: why.into() }
    );
}

#[test]
fn a_single_service_of_a_proxy_without_a_weight_is_split_and_restored() {
    let before = http_proxy(&json!([{"name": STABLE, "port": 80}]));
    let original = capture_original(&before).unwrap();
    let split = route_at_weight(&before, 5.0, Some(&original));
    assert_eq!(
        split["spec"]["routes"][0]["services"],
        json!([
            {"name": STABLE, "port": 80, "weight": 95},
            {"name": CANARY, "port": 80, "weight": 5},
        ])
    );
    assert_eq!(route_at_weight(&split, 0.0, Some(&original)), before);
}

// Contour divides the traffic equally if all weights are 0.
#[test]
fn services_of_a_proxy_without_any_weight_are_refused() {
    for services in [
        json!([{"name": STABLE, "port": 80}, {"name": CANARY, "port": 80}]),
        json!([{"name": STABLE, "port": 80, "weight": 0}, {"name": CANARY, "port": 80, "weight": 0}]),
    ] {
        let route = http_proxy(&services);
        let error = "rule #0 of HTTPProxy shop/checkout gives Service `checkout` weight 0";
        assert!(
            canary_weight(&route, None)
                .unwrap_err()
                .to_string()
                .starts_with(error)
        );
        for weight in [Weight::ZERO, Weight::percent(5)] {
            assert!(set_weight(&route, None, weight, None).is_err());
        }
    }
}

#[test]
fn the_only_weight_of_a_proxy_is_never_set_to_zero() {
    let route = http_proxy(&json!([
        {"name": STABLE, "port": 80}, {"name": CANARY, "port": 80, "weight": 100},
    ]));
    let error = set_weight(&route, None, Weight::ZERO, None).unwrap_err();
    assert!(
        error.to_string().contains("no traffic to divide"),
        "{error}"
    );
}

#[test]
fn a_proxy_with_a_mirror_is_refused() {
    let route = http_proxy(&json!([
        {"name": STABLE, "port": 80}, {"name": "shadow", "port": 80, "mirror": true},
    ]));
    let error = canary_weight(&route, None).unwrap_err().to_string();
    assert_eq!(
        error,
        "HTTPProxy shop/checkout is malformed: /spec/routes/0/services/1/mirror is not false, because a \
         route with a mirror cannot be split"
    );
}

#[test]
fn contour_confirms_a_proxy_by_its_condition_valid() {
    let status = |generation: Option<i64>, status: &str| {
        let mut route = http_proxy(&json!([]));
        let mut valid = json!({"type": "Valid", "status": status, "reason": "x", "message": "y"});
        if let Some(generation) = generation {
            valid["observedGeneration"] = generation.into();
        }
        route["status"] = json!({"conditions": [valid]});
        router(&route).programmed_status(&route)
    };
    assert_eq!(status(Some(3), "True"), ProgrammedStatus::Programmed);
    assert_eq!(status(None, "True"), ProgrammedStatus::UnknownGeneration);
    let pending = "Contour reports Valid as not true: x: y";
    assert_eq!(
        status(Some(3), "False"),
        ProgrammedStatus::Pending(pending.into())
    );
    let earlier = "Contour reports Valid for generation 2, not yet for 3";
    assert_eq!(
        status(Some(2), "True"),
        ProgrammedStatus::PreviousGeneration(earlier.into())
    );
    let unreported = http_proxy(&json!([]));
    assert_eq!(
        router(&unreported).programmed_status(&unreported),
        ProgrammedStatus::UnknownGeneration
    );
}

#[test]
fn a_named_rule_of_an_apisix_route_is_split_alone() {
    let backend =
        json!({"serviceName": STABLE, "servicePort": "http", "resolveGranularity": "service"});
    let before = apisix_route(&json!([
        {"name": "web", "backends": [backend]}, {"name": "api", "backends": [backend]},
    ]));
    let patch = set_weight(&before, Some("api"), Weight::percent(20), None).unwrap();
    let split = apply_patch(&before, &patch);
    assert_eq!(split["spec"]["http"][0], before["spec"]["http"][0]);
    assert_eq!(
        split["spec"]["http"][1]["backends"],
        json!([
            {"serviceName": STABLE, "servicePort": "http", "resolveGranularity": "service", "weight": 80},
            {"serviceName": CANARY, "servicePort": "http", "resolveGranularity": "service", "weight": 20},
        ])
    );
    let error = canary_weight(&before, Some("admin"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("its rules are: rule `web`, rule `api`"),
        "{error}"
    );
}

#[test]
fn a_subset_of_an_apisix_route_is_not_the_service() {
    let backend = json!({"serviceName": STABLE, "servicePort": 80, "subset": "v1"});
    let route = apisix_route(&json!([{"name": "web", "backends": [backend]}]));
    let error = canary_weight(&route, None).unwrap_err().to_string();
    assert!(error.contains("its backends are: `checkout/v1`"), "{error}");
}
