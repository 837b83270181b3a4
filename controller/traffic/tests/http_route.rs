//! Patches of HTTPRoutes by example.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod support;

use json_patch::Patch;
use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_traffic::{OriginalWeights, RouteError};

use crate::support::*;

fn route(rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "41", "generation": 3,
                     "annotations": {"team": "payments"}},
        "spec": {"parentRefs": [{"name": "public"}], "hostnames": ["shop.example"], "rules": rules},
        "status": {"parents": []},
    })
}

fn plain() -> Value {
    route(&json!([{
        "name": "main",
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}],
        "backendRefs": [{"name": STABLE, "port": 80, "futureField": {"kept": true}}],
        "timeouts": {"request": "3s"},
    }]))
}

fn backends(route: &Value, rule: usize) -> &Value {
    &route["spec"]["rules"][rule]["backendRefs"]
}

fn capture(route: &Value) -> OriginalWeights {
    capture_original(route).unwrap()
}

#[test]
fn the_canary_backend_is_a_copy_of_stable_with_its_own_weight() {
    let at_five = route_at_weight(&plain(), 5.0, None);
    assert_eq!(
        backends(&at_five, 0),
        &json!([
            {"name": STABLE, "port": 80, "futureField": {"kept": true}, "weight": 95},
            {"name": CANARY, "port": 80, "futureField": {"kept": true}, "weight": 5},
        ])
    );
}

#[test]
fn weights_finer_than_a_percent_sum_to_100_000() {
    let fine = route_at_weight(&plain(), 0.125, None);
    assert_eq!(backends(&fine, 0)[0]["weight"], 99_875);
    assert_eq!(backends(&fine, 0)[1]["weight"], 125);
}

#[test]
fn full_weight_keeps_stable_with_weight_0() {
    let full = route_at_weight(&plain(), 100.0, None);
    assert_eq!(backends(&full, 0)[0]["weight"], 0);
    assert_eq!(backends(&full, 0)[1]["weight"], 100);
}

#[test]
fn only_the_backends_of_the_rule_change() {
    let before = plain();
    let mut after = route_at_weight(&before, 20.0, None);
    after["spec"]["rules"][0]["backendRefs"] = backends(&before, 0).clone();
    assert_eq!(after, before);
}

#[test]
fn the_patch_fails_if_the_object_has_changed() {
    let patch = set_weight(&plain(), None, Weight::percent(5), None).unwrap();
    assert_eq!(
        serde_json::to_value(&patch).unwrap(),
        json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": "41"},
            {"op": "test", "path": "/spec/rules/0/backendRefs/0/name", "value": STABLE},
            {"op": "add", "path": "/spec/rules/0/backendRefs/0/weight", "value": 95},
            {"op": "add", "path": "/spec/rules/0/backendRefs/-",
             "value": {"name": CANARY, "port": 80, "futureField": {"kept": true}, "weight": 5}},
        ])
    );
    let mut changed = plain();
    changed["metadata"]["resourceVersion"] = "42".into();
    assert!(json_patch::patch(&mut changed, &patch).is_err());
}

#[test]
fn the_patch_is_empty_if_the_weight_is_already_set() {
    let original = capture(&plain());
    for percent in [0.0, 5.0, 0.125, 100.0] {
        let changed = route_at_weight(&plain(), percent, Some(&original));
        let weight = Weight::try_from(percent).unwrap();
        let again = set_weight(&changed, None, weight, Some(&original)).unwrap();
        assert_eq!(again, Patch(vec![]), "at {percent} %");
    }
}

#[test]
fn weight_zero_removes_the_canary_and_restores_the_rule() {
    let before = plain();
    let original = capture(&before);
    let split_route = route_at_weight(&before, 30.0, Some(&original));
    assert_eq!(route_at_weight(&split_route, 0.0, Some(&original)), before);
}

#[test]
fn a_canary_listed_by_the_user_stays_with_weight_0_and_is_restored() {
    let before = route(&json!([{"backendRefs": [
        {"name": CANARY, "port": 81, "weight": 10}, {"name": STABLE, "port": 80, "weight": 90}]}]));
    let original = capture(&before);
    let split_route = route_at_weight(&before, 25.0, Some(&original));
    assert_eq!(
        backends(&split_route, 0),
        &json!([{"name": CANARY, "port": 81, "weight": 25}, {"name": STABLE, "port": 80, "weight": 75}])
    );
    let at_zero = route_at_weight(&split_route, 0.0, Some(&original));
    assert_eq!(
        backends(&at_zero, 0),
        &json!([{"name": CANARY, "port": 81, "weight": 0}, {"name": STABLE, "port": 80, "weight": 90}])
    );
    let patch = restore(&at_zero, &original).unwrap();
    assert_eq!(apply_patch(&at_zero, &patch), before);
}

#[test]
fn other_backends_keep_their_share_of_the_traffic() {
    let before = route(&json!([{"backendRefs": [
        {"name": STABLE, "port": 80}, {"name": "legacy", "port": 80}, {"name": "off", "port": 80, "weight": 0}]}]));
    let original = capture(&before);
    let split_route = route_at_weight(&before, 20.0, Some(&original));
    assert_eq!(
        backends(&split_route, 0),
        &json!([
            {"name": STABLE, "port": 80, "weight": 80},
            {"name": "legacy", "port": 80, "weight": 100},
            {"name": "off", "port": 80, "weight": 0},
            {"name": CANARY, "port": 80, "weight": 20},
        ])
    );
    assert_eq!(
        route_at_weight(
            &route_at_weight(&split_route, 33.333, Some(&original)),
            0.0,
            Some(&original)
        ),
        before
    );
}

#[test]
fn other_backends_are_unchanged_if_the_stable_weight_can_be_divided() {
    let before = route(&json!([{"backendRefs": [
        {"name": STABLE, "port": 80, "weight": 100}, {"name": "legacy", "port": 80, "weight": 33}]}]));
    let original = capture(&before);
    let mut split_route = route_at_weight(&before, 20.0, Some(&original));
    assert_eq!(backends(&split_route, 0)[1], backends(&before, 0)[1]);
    // The user may change it split_route the release.
    split_route["spec"]["rules"][0]["backendRefs"][1]["weight"] = 50.into();
    let at_zero = route_at_weight(
        &route_at_weight(&split_route, 40.0, Some(&original)),
        0.0,
        Some(&original),
    );
    assert_eq!(backends(&at_zero, 0)[1]["weight"], 50);
    assert_eq!(backends(&at_zero, 0)[0]["weight"], 100);
}

#[test]
fn only_the_named_rule_is_split() {
    let rule = |name: &str| json!({"name": name, "backendRefs": [{"name": STABLE, "port": 80}]});
    let before = route(&json!([rule("main"), rule("admin")]));
    let patch = set_weight(&before, Some("admin"), Weight::percent(5), None).unwrap();
    let after = apply_patch(&before, &patch);
    assert_eq!(backends(&after, 0), backends(&before, 0));
    assert_eq!(canary_weight(&after, Some("admin")), Ok(Weight::percent(5)));
    assert_eq!(canary_weight(&after, Some("main")), Ok(Weight::ZERO));
}

#[test]
fn without_a_rule_name_exactly_the_rules_with_the_stable_service_are_split() {
    let before = route(&json!([
        {"backendRefs": [{"name": STABLE, "port": 80}]},
        {"backendRefs": [{"name": "search", "port": 80}]},
        {"filters": [{"type": "RequestRedirect"}]},
        {"backendRefs": [{"name": STABLE, "namespace": "elsewhere", "port": 80}]},
        {"backendRefs": [{"name": STABLE, "kind": "ServiceImport", "group": "multicluster.x-k8s.io"}]},
        {"backendRefs": [{"name": STABLE, "namespace": "shop", "kind": "Service", "group": "", "port": 80}]},
    ]));
    let after = route_at_weight(&before, 10.0, None);
    for (rule, length) in [(0, 2), (1, 1), (3, 1), (4, 1), (5, 2)] {
        assert_eq!(
            backends(&after, rule).as_array().unwrap().len(),
            length,
            "rule #{rule}"
        );
    }
    assert_eq!(after["spec"]["rules"][2], before["spec"]["rules"][2]);
}

#[test]
fn a_rule_changed_by_another_client_is_reported_and_corrected() {
    let before = route(&json!([
        {"name": "a", "backendRefs": [{"name": STABLE, "port": 80}]},
        {"name": "b", "backendRefs": [{"name": STABLE, "port": 80}]},
    ]));
    let original = capture(&before);
    let mut edited = route_at_weight(&before, 20.0, Some(&original));
    edited["spec"]["rules"][1]["backendRefs"][1]["weight"] = 80.into();
    let error = canary_weight(&edited, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the rules of HTTPRoute shop/checkout have different canary weights: rule `a`: 20 %, rule `b`: 50 %"
    );
    assert_eq!(
        route_at_weight(&edited, 20.0, Some(&original)),
        route_at_weight(&before, 20.0, Some(&original))
    );
}

#[test]
fn a_canary_backend_changed_by_another_client_is_corrected() {
    let before = plain();
    let original = capture(&before);
    let split_route = route_at_weight(&before, 20.0, Some(&original));
    let mut edited = split_route.clone();
    edited["spec"]["rules"][0]["backendRefs"][1]["port"] = 8080.into();
    assert_eq!(route_at_weight(&edited, 20.0, Some(&original)), split_route);
}

#[test]
fn an_apply_during_a_release_becomes_the_new_original() {
    let original = capture(&plain());
    let split_route = route_at_weight(&plain(), 20.0, Some(&original));
    assert_eq!(
        refresh_original(&split_route, Some(&original)),
        Ok(original.clone())
    );

    let mut reapplied = plain();
    reapplied["spec"]["rules"][0]["backendRefs"] =
        json!([{"name": STABLE, "port": 9090, "weight": 7}]);
    let now_known = refresh_original(&reapplied, Some(&original)).unwrap();
    assert_ne!(now_known, original);
    let split_route = route_at_weight(&reapplied, 20.0, Some(&original));
    assert_eq!(
        route_at_weight(&split_route, 0.0, Some(&now_known)),
        reapplied
    );
}

#[test]
fn changes_outside_the_weights_survive_a_restoration() {
    let before = plain();
    let original = capture(&before);
    let mut split_route = route_at_weight(&before, 20.0, Some(&original));
    split_route["spec"]["rules"][0]["backendRefs"][0]["port"] = 9090.into();
    split_route["spec"]["hostnames"] = json!(["new.example"]);
    let restored = apply_patch(&split_route, &restore(&split_route, &original).unwrap());
    assert_eq!(restored["spec"]["hostnames"], json!(["new.example"]));
    assert_eq!(
        backends(&restored, 0),
        &json!([{"name": STABLE, "port": 9090, "futureField": {"kept": true}}])
    );
}

#[test]
fn the_original_is_stored_as_a_short_text() {
    let original = capture(&plain());
    let text = serde_json::to_string(&original).unwrap();
    assert_eq!(
        text,
        r#"{"rules":[{"index":0,"name":"main","backends":[{"name":"checkout","port":80}]}]}"#
    );
    assert_eq!(
        serde_json::from_str::<OriginalWeights>(&text).unwrap(),
        original
    );
}

#[test]
fn errors_contain_the_route_the_rule_and_the_fix() {
    let error_message = |route: &Value, rule: Option<&str>| {
        set_weight(route, rule, Weight::percent(5), None)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error_message(&plain(), Some("mian")),
        "rule `mian` not found in HTTPRoute shop/checkout; its rules are: rule `main`"
    );
    let elsewhere = route(&json!([{"name": "main", "backendRefs": [{"name": "cart"}]}]));
    assert_eq!(
        error_message(&elsewhere, Some("main")),
        "Service `checkout` is not a backend of rule `main` of HTTPRoute shop/checkout; its backends are: `cart`; \
         add a backend `checkout` or name the right Service as stableService"
    );
    assert!(
        error_message(&elsewhere, None)
            .starts_with("Service `checkout` is not a backend of any rule of HTTPRoute")
    );
    assert!(error_message(&route(&json!([])), None).contains("its backends are: none"));
    let twice = route(
        &json!([{"backendRefs": [{"name": STABLE, "port": 80}, {"name": STABLE, "port": 81}]}]),
    );
    assert_eq!(
        error_message(&twice, None),
        "rule #0 of HTTPRoute shop/checkout lists Service `checkout` more than once; list it once"
    );
    let off = route(&json!([{"backendRefs": [{"name": STABLE, "weight": 0}]}]));
    assert!(error_message(&off, None).contains("gives Service `checkout` weight 0"));
    let crowded =
        route(&json!([{"backendRefs": [{"name": STABLE}, {"name": "big", "weight": 1_000_000}]}]));
    assert!(
        error_message(&crowded, None)
            .starts_with("a canary weight of 5 % cannot be expressed in rule #0")
    );
    let negative = route(&json!([{"backendRefs": [{"name": STABLE, "weight": -1}]}]));
    assert_eq!(
        error_message(&negative, None),
        "HTTPRoute shop/checkout is malformed: /spec/rules/0/backendRefs/0/weight is not a whole number from 0 to 1000000"
    );
}

#[test]
fn traffic_is_never_removed_from_the_only_side_that_has_traffic() {
    let before = route(
        &json!([{"backendRefs": [{"name": STABLE, "weight": 0}, {"name": CANARY, "weight": 100}]}]),
    );
    let refused = set_weight(&before, None, Weight::ZERO, None);
    assert!(matches!(
        refused,
        Err(RouteError::StableHasNoTraffic { .. })
    ));
}

// traefik #9158: users list both backends from the start, as for other controllers.
#[test]
fn a_canary_listed_by_the_user_with_weight_0_is_split_and_restored() {
    for stable in [
        json!({"name": STABLE, "port": 80, "weight": 100}),
        json!({"name": STABLE, "port": 80}),
    ] {
        // The user may choose another port.
        let canary = json!({"name": CANARY, "port": 8080, "weight": 0});
        let before = route(&json!([
            {"name": "api", "backendRefs": [canary, stable]},
            {"backendRefs": [stable, {"name": "retired", "port": 80, "weight": 0}]},
        ]));
        let original = capture(&before);
        assert_eq!(canary_weight(&before, None), Ok(Weight::ZERO));
        assert!(
            set_weight(&before, None, Weight::ZERO, Some(&original))
                .unwrap()
                .0
                .is_empty()
        );
        let half = route_at_weight(&before, 50.0, Some(&original));
        assert_eq!(
            backends(&half, 0)[0],
            json!({"name": CANARY, "port": 8080, "weight": 50})
        );
        assert_eq!(
            backends(&half, 1)[1],
            json!({"name": "retired", "port": 80, "weight": 0})
        );
        let full = route_at_weight(&half, 100.0, Some(&original));
        assert_eq!(route_at_weight(&full, 0.0, Some(&original)), before);
        assert_eq!(
            apply_patch(&full, &restore(&full, &original).unwrap()),
            before
        );
    }
}

#[test]
fn a_rule_without_traffic_does_not_block_the_other_rules() {
    let idle = json!({"backendRefs": [{"name": STABLE, "port": 80, "weight": 0}, {"name": "maintenance", "port": 80}]});
    let before = route(&json!([idle, {"backendRefs": [{"name": STABLE, "port": 80}]}]));
    let original = capture(&before);
    let half = route_at_weight(&before, 50.0, Some(&original));
    assert_eq!(half["spec"]["rules"][0], idle, "the rule is unchanged");
    assert_eq!(backends(&half, 1)[1]["weight"], 50);
    let full = route_at_weight(&half, 100.0, Some(&original));
    assert_eq!(route_at_weight(&full, 0.0, Some(&original)), before);
}
