//! Patches of canary Ingresses of ingress-nginx, by example and by property.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod support;

use json_patch::Patch;
use proptest::prelude::*;
use serde_json::{Value, json};
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::units::Weight;
use serin_traffic::ProgrammedStatus;

use crate::support::*;

const PREFIX: &str = "nginx.ingress.kubernetes.io";

/// An Ingress with these annotations of ingress-nginx.
fn ingress(annotations: &[(&str, &str)], service: &str) -> Value {
    let annotations = annotations
        .iter()
        .map(|(key, value)| (format!("{PREFIX}/{key}"), json!(value)));
    let backend = json!({"service": {"name": service, "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "namespace": "shop", "name": "checkout-canary", "resourceVersion": "41",
            "annotations": annotations.collect::<serde_json::Map<_, _>>(),
        },
        "spec": {"rules": [
            {"host": "shop.example", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": backend},
                {"path": "/api", "pathType": "Prefix", "backend": backend},
            ]}},
        ]},
    })
}

fn canary(annotations: &[(&str, &str)]) -> Value {
    let all = [&[("canary", "true")], annotations].concat();
    ingress(&all, CANARY)
}

fn weight_of(route: &Value) -> Option<&str> {
    route["metadata"]["annotations"][format!("{PREFIX}/canary-weight")].as_str()
}

#[test]
fn a_weight_is_an_annotation_and_the_original_comes_back() {
    for written in [None, Some("0"), Some("30")] {
        let annotations: Vec<_> = written
            .map(|weight| ("canary-weight", weight))
            .into_iter()
            .collect();
        let before = canary(&annotations);
        let original = capture_original(&before).unwrap();
        let split = route_at_weight(&before, 20.0, Some(&original));
        assert_eq!(weight_of(&split), Some("20"));
        assert_eq!(
            refresh_original(&split, Some(&original)),
            Ok(original.clone())
        );
        let reset = route_at_weight(&split, 0.0, Some(&original));
        let expected = if written == Some("30") {
            Some("0")
        } else {
            written
        };
        assert_eq!(weight_of(&reset), expected);
        let patch = restore(&split, &original).unwrap();
        assert_eq!(apply_patch(&split, &patch), before);
    }
}

#[test]
fn a_patch_tests_the_version_and_the_canary_annotation() {
    let patch = set_weight(&canary(&[]), None, Weight::percent(5), None).unwrap();
    assert_eq!(
        serde_json::to_value(&patch).unwrap(),
        json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": "41"},
            {"op": "test", "path": "/metadata/annotations/nginx.ingress.kubernetes.io~1canary", "value": "true"},
            {"op": "add", "path": "/metadata/annotations/nginx.ingress.kubernetes.io~1canary-weight", "value": "5"},
        ])
    );
}

#[test]
fn a_weight_that_the_total_cannot_express_is_refused_with_a_total_that_can() {
    let eighth = Weight::from_thousandths(12_500);
    let error = set_weight(&canary(&[]), None, eighth, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a canary weight of 12.5 % cannot be expressed in Ingress shop/checkout-canary: its weights sum \
         to 100; set the annotation nginx.ingress.kubernetes.io/canary-weight-total to \"1000\""
    );
    let fine = route_at_weight(&canary(&[("canary-weight-total", "1000")]), 12.5, None);
    assert_eq!(weight_of(&fine), Some("125"));
}

#[test]
fn numbers_are_read_as_ingress_nginx_reads_them() {
    for (weight, total, percent) in [
        ("50", "20", 50),
        ("50", "200", 25),
        ("many", "100", 0),
        ("500", "100", 100),
        ("20", "many", 20),
    ] {
        let route = canary(&[("canary-weight", weight), ("canary-weight-total", total)]);
        let read = canary_weight(&route, None);
        assert_eq!(read, Ok(Weight::percent(percent)), "{weight} of {total}");
    }
}

#[test]
fn an_ingress_without_the_annotation_is_not_split_and_has_no_rules() {
    let main = ingress(&[], STABLE);
    let error = canary_weight(&main, None).unwrap_err().to_string();
    assert!(
        error.contains("has no annotation nginx.ingress.kubernetes.io/canary"),
        "{error}"
    );
    assert_eq!(router(&main).rules(&main).unwrap(), []);
    let original = capture_original(&canary(&[])).unwrap();
    assert_eq!(restore(&main, &original), Ok(Patch(vec![])));
}

#[test]
fn an_ingress_with_another_backend_is_refused() {
    let other = ingress(&[("canary", "true")], STABLE);
    let error = set_weight(&other, None, Weight::percent(5), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the backends of Ingress shop/checkout-canary are `checkout`, and its weight concerns all of \
         them; the only backend of a canary Ingress must be Service `checkout-canary`"
    );
    let mut mixed = canary(&[]);
    mixed["spec"]["defaultBackend"] = json!({"resource": {"kind": "Bucket", "name": "assets"}});
    let error = canary_weight(&mixed, None).unwrap_err().to_string();
    assert!(error.contains("a resource, `checkout-canary`"), "{error}");
}

#[test]
fn a_header_or_cookie_that_reaches_the_canary_is_refused_but_an_abort_still_works() {
    for key in ["canary-by-header", "canary-by-cookie"] {
        let route = canary(&[(key, "beta"), ("canary-weight", "20")]);
        let error = set_weight(&route, None, Weight::percent(30), None).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
        assert!(canary_weight(&route, None).is_err());
        let patch = set_weight(&route, None, Weight::ZERO, None).unwrap();
        assert_eq!(weight_of(&apply_patch(&route, &patch)), Some("0"));
    }
}

#[test]
fn a_cookie_affinity_assigns_clients() {
    let unit = |route: &Value| router(route).assignment_unit(route, None, STABLE);
    assert_eq!(unit(&canary(&[])), AssignmentUnit::Request);
    let why = "Ingress checkout-canary: annotation nginx.ingress.kubernetes.io/affinity is cookie";
    assert_eq!(
        unit(&canary(&[("affinity", "cookie")])),
        AssignmentUnit::Client { why: why.into() }
    );
}

#[test]
fn a_canary_ingress_reports_nothing_about_its_generation() {
    let route = canary(&[]);
    let status = router(&route).programmed_status(&route);
    assert_eq!(status, ProgrammedStatus::UnknownGeneration);
}

proptest! {
    #[test]
    fn any_sequence_of_weights_reads_back_and_can_be_restored(
        written in prop::option::of(0u32..=100), weights in prop::collection::vec(0u32..=100_000, 1..5),
    ) {
        let written = written.map(|weight| (weight * 1_000).to_string());
        let mut annotations = vec![("canary-weight-total", "100000")];
        annotations.extend(written.as_deref().map(|weight| ("canary-weight", weight)));
        let before = canary(&annotations);
        let original = capture_original(&before).unwrap();
        let mut now = before.clone();
        for weight in weights.into_iter().map(Weight::from_thousandths) {
            let patch = set_weight(&now, None, weight, Some(&original)).unwrap();
            now = apply_patch(&now, &patch);
            prop_assert_eq!(canary_weight(&now, None), Ok(weight));
            let again = set_weight(&now, None, weight, Some(&original)).unwrap();
            prop_assert_eq!(again, Patch(vec![]));
            prop_assert_eq!(&now["spec"], &before["spec"]);
        }
        let patch = restore(&now, &original).unwrap();
        prop_assert_eq!(apply_patch(&now, &patch), before);
    }

    #[test]
    fn malformed_ingresses_never_panic(text in r#"[\{\}\[\]":,a-z0-9]{0,60}"#, weight in 0u32..=100) {
        let junk: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let mut route = canary(&[]);
        route["spec"] = junk.clone();
        prop_assert!(set_weight(&route, None, Weight::percent(weight), None).is_err());
        route["metadata"]["annotations"] = junk;
        prop_assert!(set_weight(&route, None, Weight::percent(weight), None).is_err());
    }
}
