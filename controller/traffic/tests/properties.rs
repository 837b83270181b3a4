//! Properties of all HTTPRoutes, originals and sequences of weights.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

use json_patch::Patch;
use proptest::prelude::*;
use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_traffic::{canary_weight, capture_original, restore, set_weight};

const STABLE: &str = "checkout";
const CANARY: &str = "checkout-canary";

fn backend(name: &'static str, max_weight: u64) -> impl Strategy<Value = Value> {
    (
        prop::option::of(1..=max_weight),
        prop::option::of(1u16..),
        any::<bool>(),
    )
        .prop_map(move |(weight, port, filtered)| {
            let mut backend = json!({"name": name});
            if let Some(weight) = weight {
                backend["weight"] = weight.into();
            }
            if let Some(port) = port {
                backend["port"] = port.into();
            }
            if filtered {
                backend["filters"] = json!([{"type": "ResponseHeaderModifier"}]);
            }
            backend
        })
}

/// A rule with weights that are small enough for a split in thousandths of a percent.
fn rule() -> impl Strategy<Value = Value> {
    let others = prop::collection::vec(
        prop_oneof![backend("legacy", 10), backend("other", 10)],
        0..3,
    );
    let listed = prop::option::weighted(0.3, backend(CANARY, 10));
    let stable = prop::option::weighted(0.8, backend(STABLE, 10));
    (
        stable,
        listed,
        others,
        prop::option::of("[a-z]{1,5}"),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(stable, canary, mut backends, name, place)| {
            for ours in [stable, canary].into_iter().flatten() {
                backends.insert(place.index(backends.len() + 1), ours);
            }
            let mut rule = json!({"matches": [{"path": {"value": "/"}}], "backendRefs": backends});
            if let Some(name) = name {
                rule["name"] = name.into();
            }
            rule
        })
}

fn route() -> impl Strategy<Value = Value> {
    prop::collection::vec(rule(), 1..4).prop_map(|mut rules| {
        // Rule names must be unique in a route.
        for (index, rule) in rules.iter_mut().enumerate() {
            if let Some(name) = rule
                .get("name")
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
            {
                rule["name"] = format!("{name}-{index}").into();
            }
        }
        json!({
            "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "7"},
            "spec": {"unknown": [1, 2, 3], "rules": rules},
        })
    })
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![
        3 => (0u32..=100).prop_map(Weight::percent),
        1 => (0u32..=100_000).prop_map(Weight::from_thousandths),
    ]
}

fn has_stable(route: &Value) -> bool {
    canary_weight(route, None, STABLE, CANARY).is_ok()
        || capture_original(route, None, STABLE, CANARY).is_ok()
}

fn apply(route: &mut Value, patch: &Patch) {
    json_patch::patch(route, patch).unwrap();
}

/// The share of every other backend in its rule, by name.
fn shares(route: &Value, canary_counts: bool) -> Vec<Vec<(String, f64)>> {
    let of_rule = |rule: &Value| {
        let backends = rule["backendRefs"].as_array().unwrap();
        let counts = |b: &&Value| canary_counts || b["name"] != CANARY;
        let number = |b: &Value| b.get("weight").map_or(1.0, |w| w.as_f64().unwrap());
        let total: f64 = backends.iter().filter(counts).map(number).sum();
        let others = backends
            .iter()
            .filter(|b| b["name"] != STABLE && b["name"] != CANARY);
        others
            .map(|b| (b["name"].to_string(), number(b) / total))
            .collect()
    };
    route["spec"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(of_rule)
        .collect()
}

fn without_backends(route: &Value) -> Value {
    let mut rest = route.clone();
    for rule in rest["spec"]["rules"].as_array_mut().unwrap() {
        rule["backendRefs"] = Value::Null;
    }
    rest
}

proptest! {
    #[test]
    fn any_sequence_of_weights_reads_back_and_can_be_restored(
        before in route(), weights in prop::collection::vec(weight(), 1..5),
    ) {
        prop_assume!(has_stable(&before));
        let original = capture_original(&before, None, STABLE, CANARY).unwrap();
        let mut now = before.clone();
        for weight in weights {
            let patch = set_weight(&now, None, STABLE, CANARY, weight, Some(&original)).unwrap();
            apply(&mut now, &patch);
            prop_assert_eq!(canary_weight(&now, None, STABLE, CANARY), Ok(weight));
            let again = set_weight(&now, None, STABLE, CANARY, weight, Some(&original)).unwrap();
            prop_assert_eq!(again, Patch(vec![]));
            prop_assert_eq!(without_backends(&now), without_backends(&before));
        }
        let patch = restore(&now, &original, STABLE, CANARY).unwrap();
        apply(&mut now, &patch);
        prop_assert_eq!(&now, &before);
    }

    #[test]
    fn at_weight_zero_only_a_listed_canary_differs_from_the_original(before in route(), weight in weight()) {
        prop_assume!(has_stable(&before));
        let original = capture_original(&before, None, STABLE, CANARY).unwrap();
        let mut now = before.clone();
        for weight in [weight, Weight::ZERO] {
            let patch = set_weight(&now, None, STABLE, CANARY, weight, Some(&original)).unwrap();
            apply(&mut now, &patch);
        }
        let mut expected = before.clone();
        for rule in expected["spec"]["rules"].as_array_mut().unwrap() {
            let backends = rule["backendRefs"].as_array_mut().unwrap();
            if backends.iter().any(|b| b["name"] == STABLE) {
                for canary in backends.iter_mut().filter(|b| b["name"] == CANARY) {
                    canary["weight"] = 0.into();
                }
            }
        }
        prop_assert_eq!(now, expected);
    }

    #[test]
    fn other_backends_keep_their_share(before in route(), weight in weight()) {
        prop_assume!(has_stable(&before) && !weight.is_zero());
        let mut now = before.clone();
        let patch = set_weight(&now, None, STABLE, CANARY, weight, None).unwrap();
        apply(&mut now, &patch);
        let rules = before["spec"]["rules"].as_array().unwrap();
        let (old, new) = (shares(&before, false), shares(&now, true));
        for (index, rule) in rules.iter().enumerate() {
            if rule["backendRefs"].as_array().unwrap().iter().any(|b| b["name"] == STABLE) {
                for (before, after) in old[index].iter().zip(&new[index]) {
                    prop_assert_eq!(&before.0, &after.0);
                    prop_assert!((before.1 - after.1).abs() < 1e-9, "{before:?} became {after:?}");
                }
            } else {
                prop_assert_eq!(rule, &now["spec"]["rules"][index]);
            }
        }
    }

    #[test]
    fn malformed_objects_are_errors_and_never_panic(text in r#"[\{\}\[\]":,a-z0-9]{0,60}"#, weight in weight()) {
        let junk = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let route = json!({"metadata": {}, "spec": {"rules": [{"backendRefs": junk}]}});
        prop_assert!(set_weight(&route, None, STABLE, CANARY, weight, None).is_err());
    }
}
