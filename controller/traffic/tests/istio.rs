//! Patches of VirtualServices by example.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod support;

use serde_json::{Value, json};
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::layer4_rule::Layer4Rule;
use serin_core::units::Weight;
use serin_traffic::ProgrammedStatus;

use crate::support::*;

fn virtual_service(spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "41", "generation": 3},
        "spec": spec,
    })
}

fn destination(host: &str) -> Value {
    json!({"destination": {"host": host, "port": {"number": 80}}, "headers": {"request": {}}})
}

fn with_weight(host: &str, weight: u64) -> Value {
    let mut destination = destination(host);
    destination["weight"] = weight.into();
    destination
}

#[test]
fn a_single_destination_without_a_weight_is_all_of_the_traffic() {
    let before =
        virtual_service(&json!({"http": [{"name": "api", "route": [destination(STABLE)]}]}));
    let original = capture_original(&before).unwrap();
    let split = route_at_weight(&before, 20.0, Some(&original));
    assert_eq!(
        split["spec"]["http"][0]["route"],
        json!([with_weight(STABLE, 80), with_weight(CANARY, 20)])
    );
    assert_eq!(route_at_weight(&split, 0.0, Some(&original)), before);
}

#[test]
fn the_host_of_the_canary_has_the_form_of_stables() {
    for domain in ["", ".shop", ".shop.svc", ".shop.svc.cluster.local"] {
        let host = |service: &str| format!("{service}{domain}");
        let before = virtual_service(&json!({"http": [{"route": [destination(&host(STABLE))]}]}));
        let split = route_at_weight(&before, 5.0, None);
        assert_eq!(
            split["spec"]["http"][0]["route"],
            json!([
                with_weight(&host(STABLE), 95),
                with_weight(&host(CANARY), 5)
            ])
        );
    }
}

#[test]
fn hosts_elsewhere_and_subsets_are_not_the_service() {
    let mut subset = destination(STABLE);
    subset["destination"]["subset"] = "v1".into();
    for other in [
        destination("checkout.payments"),
        destination("checkout.payments.svc.cluster.local"),
        destination("checkout.example.com"),
        subset,
    ] {
        let route = virtual_service(&json!({"http": [{"route": [other]}]}));
        let error = canary_weight(&route, None).unwrap_err().to_string();
        assert!(
            error.starts_with("Service `checkout` is not a backend of any rule of VirtualService"),
            "{error}"
        );
    }
}

#[test]
fn the_total_of_the_user_is_kept_if_the_weight_of_stable_can_be_divided() {
    let before = virtual_service(&json!({"http": [{"route": [
        with_weight(STABLE, 80), with_weight("legacy", 20)]}]}));
    let original = capture_original(&before).unwrap();
    let weights = |percent| {
        let split = route_at_weight(&before, percent, Some(&original));
        let route = split["spec"]["http"][0]["route"]
            .as_array()
            .unwrap()
            .clone();
        let weights = route
            .iter()
            .map(|destination| destination["weight"].as_u64().unwrap());
        weights.collect::<Vec<_>>()
    };
    assert_eq!(weights(25.0), [60, 20, 20]);
    // 8 of 160 and 152 of 160.
    assert_eq!(weights(5.0), [76, 20, 4]);
    assert_eq!(weights(33.0), [268, 100, 132]);
}

#[test]
fn several_destinations_without_a_weight_receive_nothing() {
    let before = virtual_service(&json!({"http": [{"route": [
        destination(STABLE), with_weight("legacy", 100)]}]}));
    let error = set_weight(&before, None, Weight::percent(5), None).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("gives Service `checkout` weight 0"),
        "{error}"
    );
}

#[test]
fn rules_without_a_name_are_named_by_what_they_match() {
    let tls = |port: u16, hosts: &[&str]| json!({"match": [{"port": port, "sniHosts": hosts}], "route": [destination(STABLE)]});
    let tcp = |port: u16| json!({"match": [{"port": port}], "route": [destination(STABLE)]});
    let before = virtual_service(&json!({
        "http": [{"name": "api", "route": [destination(STABLE)]}, {"route": [destination(STABLE)]}],
        "tls": [tls(443, &["b.example", "a.example"]), tls(8443, &["b.example"])],
        "tcp": [tcp(3306), tcp(443)],
    }));
    let split_rules = |rule: Option<&str>| {
        let patch = set_weight(&before, rule, Weight::percent(10), None).unwrap();
        let after = apply_patch(&before, &patch);
        let mut split = Vec::new();
        for list in ["http", "tls", "tcp"] {
            for (index, rule) in after["spec"][list].as_array().unwrap().iter().enumerate() {
                if rule["route"].as_array().unwrap().len() == 2 {
                    split.push(format!("{list}{index}"));
                }
            }
        }
        split
    };
    for (rule, expected) in [
        ("api", "http0"),
        ("tls/443/", "tls0"),
        ("tls//b.example", "tls1"),
        ("tls/443/a.example,b.example", "tls0"),
        ("tcp/3306/", "tcp0"),
        ("tcp/443/", "tcp1"),
    ] {
        assert_eq!(split_rules(Some(rule)), [expected], "{rule}");
        assert_eq!(rule.parse::<Layer4Rule>().is_ok(), rule != "api");
    }
    assert_eq!(
        split_rules(None),
        ["http0", "http1", "tls0", "tls1", "tcp0", "tcp1"]
    );
    let error = canary_weight(&before, Some("tcp/1/"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "rule `tcp/1/` not found in VirtualService shop/checkout; its rules are: rule `api`, rule #1, \
         tls rule #0, tls rule #1, tcp rule #0, tcp rule #1"
    );
}

#[test]
fn rules_at_the_same_index_of_two_lists_are_restored_separately() {
    let rule = |weight: u64| json!({"match": [{"port": 80}], "route": [with_weight(STABLE, weight), with_weight("other", 10)]});
    let before = virtual_service(&json!({"tls": [rule(30)], "tcp": [rule(70)]}));
    let original = capture_original(&before).unwrap();
    let text = serde_json::to_string(&original).unwrap();
    assert_eq!(
        serde_json::from_str::<serin_traffic::OriginalWeights>(&text).unwrap(),
        original
    );
    let split = route_at_weight(&before, 33.0, Some(&original));
    let patch = restore(&split, &original).unwrap();
    assert_eq!(apply_patch(&split, &patch), before);
}

#[test]
fn rules_for_tls_and_tcp_assign_connections_and_rules_for_http_requests() {
    let rule = json!([{"match": [{"port": 80}], "route": [destination(STABLE)]}]);
    let unit = |list: &str| {
        let route = virtual_service(&json!({list: rule}));
        router(&route).assignment_unit(&route, None, STABLE)
    };
    assert_eq!(unit("http"), AssignmentUnit::Request);
    for list in ["tls", "tcp"] {
        let why = format!("VirtualService checkout: spec.{list}[0] divides connections");
        assert_eq!(unit(list), AssignmentUnit::Connection { why });
    }
}

#[test]
fn istio_does_not_report_that_a_virtual_service_is_in_effect() {
    let route = virtual_service(&json!({}));
    assert_eq!(
        router(&route).programmed_status(&route),
        ProgrammedStatus::UnknownGeneration
    );
}
