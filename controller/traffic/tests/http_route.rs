//! What happens to an HTTPRoute, case by case.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

use json_patch::Patch;
use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_traffic::{
    Original, RouteProblem, canary_weight, original, refreshed, restore, set_weight,
};

const STABLE: &str = "checkout";
const CANARY: &str = "checkout-canary";

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

fn applied(route: &Value, patch: &Patch) -> Value {
    let mut changed = route.clone();
    json_patch::patch(&mut changed, patch).unwrap();
    changed
}

fn set(route: &Value, percent: f64, known: Option<&Original>) -> Value {
    let weight = Weight::try_from(percent).unwrap();
    let patch = set_weight(route, None, STABLE, CANARY, weight, known).unwrap();
    let changed = applied(route, &patch);
    assert_eq!(canary_weight(&changed, None, STABLE, CANARY), Ok(weight));
    changed
}

fn backends(route: &Value, rule: usize) -> &Value {
    &route["spec"]["rules"][rule]["backendRefs"]
}

fn remembered(route: &Value) -> Original {
    original(route, None, STABLE, CANARY).unwrap()
}

#[test]
fn the_canary_is_stable_under_another_name_with_its_share() {
    let at_five = set(&plain(), 5.0, None);
    assert_eq!(
        backends(&at_five, 0),
        &json!([
            {"name": STABLE, "port": 80, "futureField": {"kept": true}, "weight": 95},
            {"name": CANARY, "port": 80, "futureField": {"kept": true}, "weight": 5},
        ])
    );
}

#[test]
fn finer_than_a_percent_sums_to_a_hundred_thousand() {
    let fine = set(&plain(), 0.125, None);
    assert_eq!(backends(&fine, 0)[0]["weight"], 99_875);
    assert_eq!(backends(&fine, 0)[1]["weight"], 125);
}

#[test]
fn all_of_the_traffic_leaves_stable_in_the_rule_without_any() {
    let full = set(&plain(), 100.0, None);
    assert_eq!(backends(&full, 0)[0]["weight"], 0);
    assert_eq!(backends(&full, 0)[1]["weight"], 100);
}

#[test]
fn nothing_but_the_rules_backends_changes() {
    let before = plain();
    let mut after = set(&before, 20.0, None);
    after["spec"]["rules"][0]["backendRefs"] = backends(&before, 0).clone();
    assert_eq!(after, before);
}

#[test]
fn the_patch_expects_the_object_as_it_was_read() {
    let patch = set_weight(&plain(), None, STABLE, CANARY, Weight::percent(5), None).unwrap();
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
    let mut moved_on = plain();
    moved_on["metadata"]["resourceVersion"] = "42".into();
    assert!(json_patch::patch(&mut moved_on, &patch).is_err());
}

#[test]
fn what_is_already_so_needs_no_patch() {
    let known = remembered(&plain());
    for percent in [0.0, 5.0, 0.125, 100.0] {
        let changed = set(&plain(), percent, Some(&known));
        let weight = Weight::try_from(percent).unwrap();
        let again = set_weight(&changed, None, STABLE, CANARY, weight, Some(&known)).unwrap();
        assert_eq!(again, Patch(vec![]), "at {percent} %");
    }
}

#[test]
fn weight_zero_takes_the_backend_out_and_leaves_the_rule_as_it_was() {
    let before = plain();
    let known = remembered(&before);
    let during = set(&before, 30.0, Some(&known));
    assert_eq!(set(&during, 0.0, Some(&known)), before);
}

#[test]
fn a_canary_that_the_user_listed_stays_without_traffic_and_is_given_back() {
    let before = route(&json!([{"backendRefs": [
        {"name": CANARY, "port": 81, "weight": 10}, {"name": STABLE, "port": 80, "weight": 90}]}]));
    let known = remembered(&before);
    let during = set(&before, 25.0, Some(&known));
    assert_eq!(
        backends(&during, 0),
        &json!([{"name": CANARY, "port": 81, "weight": 25}, {"name": STABLE, "port": 80, "weight": 75}])
    );
    let at_zero = set(&during, 0.0, Some(&known));
    assert_eq!(
        backends(&at_zero, 0),
        &json!([{"name": CANARY, "port": 81, "weight": 0}, {"name": STABLE, "port": 80, "weight": 90}])
    );
    let patch = restore(&at_zero, &known, STABLE, CANARY).unwrap();
    assert_eq!(applied(&at_zero, &patch), before);
}

#[test]
fn other_backends_keep_their_share_of_the_whole() {
    let before = route(&json!([{"backendRefs": [
        {"name": STABLE, "port": 80}, {"name": "legacy", "port": 80}, {"name": "off", "port": 80, "weight": 0}]}]));
    let known = remembered(&before);
    let during = set(&before, 20.0, Some(&known));
    assert_eq!(
        backends(&during, 0),
        &json!([
            {"name": STABLE, "port": 80, "weight": 80},
            {"name": "legacy", "port": 80, "weight": 100},
            {"name": "off", "port": 80, "weight": 0},
            {"name": CANARY, "port": 80, "weight": 20},
        ])
    );
    assert_eq!(
        set(&set(&during, 33.333, Some(&known)), 0.0, Some(&known)),
        before
    );
}

#[test]
fn other_backends_are_not_touched_where_stables_weight_can_be_divided() {
    let before = route(&json!([{"backendRefs": [
        {"name": STABLE, "port": 80, "weight": 100}, {"name": "legacy", "port": 80, "weight": 33}]}]));
    let known = remembered(&before);
    let mut during = set(&before, 20.0, Some(&known));
    assert_eq!(backends(&during, 0)[1], backends(&before, 0)[1]);
    // So its user may even change it meanwhile.
    during["spec"]["rules"][0]["backendRefs"][1]["weight"] = 50.into();
    let at_zero = set(&set(&during, 40.0, Some(&known)), 0.0, Some(&known));
    assert_eq!(backends(&at_zero, 0)[1]["weight"], 50);
    assert_eq!(backends(&at_zero, 0)[0]["weight"], 100);
}

#[test]
fn only_the_named_rule_is_split() {
    let rule = |name: &str| json!({"name": name, "backendRefs": [{"name": STABLE, "port": 80}]});
    let before = route(&json!([rule("main"), rule("admin")]));
    let patch = set_weight(
        &before,
        Some("admin"),
        STABLE,
        CANARY,
        Weight::percent(5),
        None,
    )
    .unwrap();
    let after = applied(&before, &patch);
    assert_eq!(backends(&after, 0), backends(&before, 0));
    assert_eq!(
        canary_weight(&after, Some("admin"), STABLE, CANARY),
        Ok(Weight::percent(5))
    );
    assert_eq!(
        canary_weight(&after, Some("main"), STABLE, CANARY),
        Ok(Weight::ZERO)
    );
}

#[test]
fn without_a_name_every_rule_with_the_stable_service_is_split_and_no_other() {
    let before = route(&json!([
        {"backendRefs": [{"name": STABLE, "port": 80}]},
        {"backendRefs": [{"name": "search", "port": 80}]},
        {"filters": [{"type": "RequestRedirect"}]},
        {"backendRefs": [{"name": STABLE, "namespace": "elsewhere", "port": 80}]},
        {"backendRefs": [{"name": STABLE, "kind": "ServiceImport", "group": "multicluster.x-k8s.io"}]},
        {"backendRefs": [{"name": STABLE, "namespace": "shop", "kind": "Service", "group": "", "port": 80}]},
    ]));
    let after = set(&before, 10.0, None);
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
fn a_rule_that_somebody_changed_is_told_and_put_back() {
    let before = route(&json!([
        {"name": "a", "backendRefs": [{"name": STABLE, "port": 80}]},
        {"name": "b", "backendRefs": [{"name": STABLE, "port": 80}]},
    ]));
    let known = remembered(&before);
    let mut edited = set(&before, 20.0, Some(&known));
    edited["spec"]["rules"][1]["backendRefs"][1]["weight"] = 80.into();
    let told = canary_weight(&edited, None, STABLE, CANARY).unwrap_err();
    assert_eq!(
        told.to_string(),
        "the rules of HTTPRoute shop/checkout disagree on the canary's share: rule `a`: 20 %, rule `b`: 50 %"
    );
    assert_eq!(
        set(&edited, 20.0, Some(&known)),
        set(&before, 20.0, Some(&known))
    );
}

#[test]
fn a_canary_backend_that_somebody_bent_is_made_like_stable_again() {
    let before = plain();
    let known = remembered(&before);
    let during = set(&before, 20.0, Some(&known));
    let mut edited = during.clone();
    edited["spec"]["rules"][0]["backendRefs"][1]["port"] = 8080.into();
    assert_eq!(set(&edited, 20.0, Some(&known)), during);
}

#[test]
fn an_apply_in_the_middle_of_a_release_is_the_new_original() {
    let known = remembered(&plain());
    let during = set(&plain(), 20.0, Some(&known));
    assert_eq!(
        refreshed(&during, None, STABLE, CANARY, Some(&known)),
        Ok(known.clone())
    );

    let mut reapplied = plain();
    reapplied["spec"]["rules"][0]["backendRefs"] =
        json!([{"name": STABLE, "port": 9090, "weight": 7}]);
    let now_known = refreshed(&reapplied, None, STABLE, CANARY, Some(&known)).unwrap();
    assert_ne!(now_known, known);
    let during = set(&reapplied, 20.0, Some(&known));
    assert_eq!(set(&during, 0.0, Some(&now_known)), reapplied);
}

#[test]
fn what_users_change_beside_the_weights_survives_a_restoration() {
    let before = plain();
    let known = remembered(&before);
    let mut during = set(&before, 20.0, Some(&known));
    during["spec"]["rules"][0]["backendRefs"][0]["port"] = 9090.into();
    during["spec"]["hostnames"] = json!(["new.example"]);
    let restored = applied(&during, &restore(&during, &known, STABLE, CANARY).unwrap());
    assert_eq!(restored["spec"]["hostnames"], json!(["new.example"]));
    assert_eq!(
        backends(&restored, 0),
        &json!([{"name": STABLE, "port": 9090, "futureField": {"kept": true}}])
    );
}

#[test]
fn what_is_remembered_fits_into_a_short_text() {
    let known = remembered(&plain());
    let text = serde_json::to_string(&known).unwrap();
    assert_eq!(
        text,
        r#"{"rules":[{"index":0,"name":"main","backends":[{"name":"checkout","port":80}]}]}"#
    );
    assert_eq!(serde_json::from_str::<Original>(&text).unwrap(), known);
}

#[test]
fn problems_name_the_route_the_rule_and_the_fix() {
    let told = |route: &Value, rule: Option<&str>| {
        set_weight(route, rule, STABLE, CANARY, Weight::percent(5), None)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        told(&plain(), Some("mian")),
        "rule `mian` not found in HTTPRoute shop/checkout; its rules are: rule `main`"
    );
    let elsewhere = route(&json!([{"name": "main", "backendRefs": [{"name": "cart"}]}]));
    assert_eq!(
        told(&elsewhere, Some("main")),
        "Service `checkout` is not a backend of rule `main` of HTTPRoute shop/checkout; the backends there are: `cart`; \
         add a backendRef to `checkout` or name the right Service as stableService"
    );
    assert!(
        told(&elsewhere, None)
            .starts_with("Service `checkout` is not a backend of any rule of HTTPRoute")
    );
    assert!(told(&route(&json!([])), None).contains("the backends there are: none"));
    let twice = route(
        &json!([{"backendRefs": [{"name": STABLE, "port": 80}, {"name": STABLE, "port": 81}]}]),
    );
    assert_eq!(
        told(&twice, None),
        "rule #0 of HTTPRoute shop/checkout lists Service `checkout` more than once; list it once"
    );
    let off = route(&json!([{"backendRefs": [{"name": STABLE, "weight": 0}]}]));
    assert!(told(&off, None).contains("gives Service `checkout` weight 0"));
    let crowded =
        route(&json!([{"backendRefs": [{"name": STABLE}, {"name": "big", "weight": 1_000_000}]}]));
    assert!(
        told(&crowded, None).starts_with("a canary weight of 5 % cannot be written in rule #0")
    );
    let negative = route(&json!([{"backendRefs": [{"name": STABLE, "weight": -1}]}]));
    assert_eq!(
        told(&negative, None),
        "HTTPRoute shop/checkout is malformed: /spec/rules/0/backendRefs/0/weight is not a whole number from 0 to 1000000"
    );
    let mut grpc = plain();
    grpc["kind"] = "TLSRoute".into();
    assert!(told(&grpc, None).starts_with("TLSRoute is not a kind of route"));
}

#[test]
fn traffic_is_never_taken_off_the_only_side_that_has_any() {
    let before = route(
        &json!([{"backendRefs": [{"name": STABLE, "weight": 0}, {"name": CANARY, "weight": 100}]}]),
    );
    let refused = set_weight(&before, None, STABLE, CANARY, Weight::ZERO, None);
    assert!(matches!(
        refused,
        Err(RouteProblem::StableHasNoTraffic { .. })
    ));
}

// traefik #9158: users list both backends from the start, as for other controllers.
#[test]
fn a_canary_that_the_user_lists_with_weight_0_is_split_and_put_back() {
    for stable in [
        json!({"name": STABLE, "port": 80, "weight": 100}),
        json!({"name": STABLE, "port": 80}),
    ] {
        // Its port is its user's affair.
        let canary = json!({"name": CANARY, "port": 8080, "weight": 0});
        let before = route(&json!([
            {"name": "api", "backendRefs": [canary, stable]},
            {"backendRefs": [stable, {"name": "retired", "port": 80, "weight": 0}]},
        ]));
        let known = remembered(&before);
        assert_eq!(
            canary_weight(&before, None, STABLE, CANARY),
            Ok(Weight::ZERO)
        );
        assert!(
            set_weight(&before, None, STABLE, CANARY, Weight::ZERO, Some(&known))
                .unwrap()
                .0
                .is_empty()
        );
        let half = set(&before, 50.0, Some(&known));
        assert_eq!(
            backends(&half, 0)[0],
            json!({"name": CANARY, "port": 8080, "weight": 50})
        );
        assert_eq!(
            backends(&half, 1)[1],
            json!({"name": "retired", "port": 80, "weight": 0})
        );
        let full = set(&half, 100.0, Some(&known));
        assert_eq!(set(&full, 0.0, Some(&known)), before);
        assert_eq!(
            applied(&full, &restore(&full, &known, STABLE, CANARY).unwrap()),
            before
        );
    }
}

#[test]
fn a_rule_whose_traffic_the_user_has_taken_off_the_service_holds_the_others_up_no_more() {
    let idle = json!({"backendRefs": [{"name": STABLE, "port": 80, "weight": 0}, {"name": "maintenance", "port": 80}]});
    let before = route(&json!([idle, {"backendRefs": [{"name": STABLE, "port": 80}]}]));
    let known = remembered(&before);
    let half = set(&before, 50.0, Some(&known));
    assert_eq!(half["spec"]["rules"][0], idle, "it is as its user wrote it");
    assert_eq!(backends(&half, 1)[1]["weight"], 50);
    let full = set(&half, 100.0, Some(&known));
    assert_eq!(set(&full, 0.0, Some(&known)), before);
}
