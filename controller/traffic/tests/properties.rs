//! Properties of all kinds of route, originals and sequences of weights.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod support;

use json_patch::Patch;
use proptest::prelude::*;
use serde_json::{Value, json};
use serin_core::plan::RouteKind;
use serin_core::units::Weight;
use serin_traffic::{ROUTERS, router_of};

use crate::support::*;

/// The fields with the rules of all kinds that list backends, and the fields with their backends.
const RULE_LISTS: [&str; 6] = ["rules", "http", "tls", "tcp", "routes", "weighted"];
const BACKENDS: [&str; 4] = ["backendRefs", "route", "services", "backends"];

/// The kinds that list backends. `nginx.rs` has the properties of a canary Ingress.
fn kind() -> impl Strategy<Value = RouteKind> {
    let kinds = RouteKind::ALL.into_iter();
    let kinds: Vec<_> = kinds.filter(|kind| *kind != RouteKind::Ingress).collect();
    prop::sample::select(kinds)
}

/// A backend as the Gateway API writes it.
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

/// A route of any kind.
fn route() -> impl Strategy<Value = Value> {
    (kind(), prop::collection::vec(rule(), 1..4)).prop_map(|(kind, mut rules)| {
        let router = router_of(kind);
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
        let spec = match kind {
            RouteKind::VirtualService => virtual_service(&rules),
            RouteKind::TraefikService => {
                json!({"weighted": {"services": rules[0]["backendRefs"], "sticky": null}})
            }
            RouteKind::HttpProxy | RouteKind::IngressRoute => {
                json!({"routes": with_all_weights(&rules, "services", "name")})
            }
            RouteKind::ApisixRoute => {
                json!({"http": with_all_weights(&rules, "backends", "serviceName")})
            }
            _ => json!({"unknown": [1, 2, 3], "rules": rules}),
        };
        json!({
            "apiVersion": format!("{}/{}", router.group(), router.versions()[0]),
            "kind": router.kind(),
            "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "7"},
            "spec": spec,
        })
    })
}

/// The same rules as routes of a VirtualService: one of them for HTTP, TLS and TCP each.
fn virtual_service(rules: &[Value]) -> Value {
    let domains = ["", ".shop", ".shop.svc", ".shop.svc.cluster.local"];
    let mut spec = json!({"hosts": ["checkout.example"]});
    for (index, (rule, list)) in rules.iter().zip(["http", "tls", "tcp"]).enumerate() {
        let backends = rule["backendRefs"].as_array().unwrap();
        let destination = |backend: &Value| {
            let host = format!("{}{}", backend["name"].as_str().unwrap(), domains[index]);
            let mut destination = json!({"destination": {"host": host}, "kept": [index]});
            if let Some(port) = backend.get("port") {
                destination["destination"]["port"] = json!({"number": port});
            }
            // One of several destinations without a weight receives nothing.
            if backends.len() > 1 {
                destination["weight"] = backend.get("weight").unwrap_or(&json!(1)).clone();
            }
            destination
        };
        let destinations: Vec<Value> = backends.iter().map(destination).collect();
        let mut found = json!({"match": [{"port": 443}], "route": destinations});
        if let Some(name) = rule.get("name").filter(|_| list == "http") {
            found["name"] = name.clone();
        }
        spec[list] = json!([found]);
    }
    spec
}

/// The same rules with other names of fields. One of several backends has a weight, because without one
/// it has nothing in an HTTPProxy, and 100 in an ApisixRoute.
fn with_all_weights(rules: &[Value], backends: &str, name: &str) -> Vec<Value> {
    let rule = |rule: &Value| {
        let found = rule["backendRefs"].as_array().unwrap();
        let renamed = found.iter().map(|backend| {
            let mut renamed = json!({"kept": [1]});
            renamed[name] = backend["name"].clone();
            if found.len() > 1 {
                renamed["weight"] = backend.get("weight").unwrap_or(&json!(1)).clone();
            }
            renamed
        });
        let mut result = json!({"match": {"paths": ["/"]}});
        result[backends] = renamed.collect();
        if let Some(name) = rule.get("name") {
            result["name"] = name.clone();
        }
        result
    };
    rules.iter().map(rule).collect()
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![
        3 => (0u32..=100).prop_map(Weight::percent),
        1 => (0u32..=100_000).prop_map(Weight::from_thousandths),
    ]
}

fn has_stable(route: &Value) -> bool {
    canary_weight(route, None).is_ok() || capture_original(route).is_ok()
}

fn apply(route: &mut Value, patch: &Patch) {
    json_patch::patch(route, patch).unwrap();
}

/// A backend that is not managed: its name, its weight, and the total of its rule.
type OtherBackend = (String, u64, u64);

/// The other backends of each rule with the stable Service.
fn others(route: &Value, canary_counts: bool) -> Vec<Vec<OtherBackend>> {
    let rules = router(route).rules(route).unwrap();
    let of_rule = |rule: &serin_traffic::RouteRule| {
        let backends = rule.backends.iter();
        let counted = backends.filter(|backend| canary_counts || backend.service != CANARY);
        let total: u64 = counted.map(|backend| backend.weight).sum();
        let others = rule.backends.iter();
        let others = others.filter(|backend| ![STABLE, CANARY].contains(&&*backend.service));
        others
            .map(|backend| (backend.service.clone(), backend.weight, total))
            .collect()
    };
    let is_split = |rule: &&serin_traffic::RouteRule| {
        rule.backends
            .iter()
            .any(|backend| backend.service == STABLE)
    };
    rules.iter().filter(is_split).map(of_rule).collect()
}

fn rules_mut(route: &mut Value) -> Vec<&mut Value> {
    let spec = route["spec"].as_object_mut().unwrap();
    let lists = spec
        .iter_mut()
        .filter(|(field, _)| RULE_LISTS.contains(&field.as_str()));
    lists
        .flat_map(|(_, list)| match list {
            Value::Array(rules) => rules.iter_mut().collect(),
            rule => vec![rule],
        })
        .collect()
}

fn backends_mut(rule: &mut Value) -> Option<&mut Vec<Value>> {
    let field = BACKENDS
        .into_iter()
        .find(|field| rule.get(*field).is_some())?;
    rule[field].as_array_mut()
}

fn without_backends(route: &Value) -> Value {
    let mut rest = route.clone();
    for rule in rules_mut(&mut rest) {
        backends_mut(rule).unwrap().clear();
    }
    rest
}

fn is_service(backend: &Value, service: &str) -> bool {
    let host = backend.pointer("/destination/host").and_then(Value::as_str);
    let name = [&backend["name"], &backend["serviceName"]];
    let name = name.into_iter().find_map(Value::as_str).or(host).unwrap();
    name.split('.').next() == Some(service)
}

proptest! {
    #[test]
    fn any_sequence_of_weights_reads_back_and_can_be_restored(
        before in route(), weights in prop::collection::vec(weight(), 1..5),
    ) {
        prop_assume!(has_stable(&before));
        let original = capture_original(&before).unwrap();
        let mut now = before.clone();
        for weight in weights {
            let patch = set_weight(&now, None, weight, Some(&original)).unwrap();
            apply(&mut now, &patch);
            prop_assert_eq!(canary_weight(&now, None), Ok(weight));
            let again = set_weight(&now, None, weight, Some(&original)).unwrap();
            prop_assert_eq!(again, Patch(vec![]));
            prop_assert_eq!(without_backends(&now), without_backends(&before));
        }
        let patch = restore(&now, &original).unwrap();
        apply(&mut now, &patch);
        prop_assert_eq!(&now, &before);
    }

    #[test]
    fn at_weight_zero_only_a_listed_canary_differs_from_the_original(before in route(), weight in weight()) {
        prop_assume!(has_stable(&before));
        let original = capture_original(&before).unwrap();
        let mut now = before.clone();
        for weight in [weight, Weight::ZERO] {
            let patch = set_weight(&now, None, weight, Some(&original)).unwrap();
            apply(&mut now, &patch);
        }
        let mut expected = before.clone();
        for rule in rules_mut(&mut expected) {
            let backends = backends_mut(rule).unwrap();
            if backends.iter().any(|backend| is_service(backend, STABLE)) {
                for canary in backends.iter_mut().filter(|backend| is_service(backend, CANARY)) {
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
        let patch = set_weight(&now, None, weight, None).unwrap();
        apply(&mut now, &patch);
        let (old, new) = (others(&before, false), others(&now, true));
        let (mut before, mut now) = (before, now);
        let rules = rules_mut(&mut before).into_iter().zip(rules_mut(&mut now));
        for (rule, rule_now) in rules {
            let backends = backends_mut(rule).unwrap();
            if !backends.iter().any(|backend| is_service(backend, STABLE)) {
                prop_assert_eq!(rule, rule_now);
            }
        }
        for (old, new) in old.iter().zip(&new) {
            for ((name, weight, total), (name_now, weight_now, total_now)) in old.iter().zip(new) {
                prop_assert_eq!(name, name_now);
                prop_assert_eq!(weight * total_now, weight_now * total, "of {}", name);
            }
        }
    }

    // The admission policy of the chart permits no other change.
    #[test]
    fn a_patch_tests_the_version_and_changes_only_backends(before in route(), weight in weight()) {
        prop_assume!(has_stable(&before) && !weight.is_zero());
        let patch = set_weight(&before, None, weight, None).unwrap();
        let patch = serde_json::to_value(&patch).unwrap();
        let operations = patch.as_array().unwrap();
        prop_assert_eq!(
            &operations[0],
            &json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"})
        );
        for operation in operations.iter().filter(|operation| operation["op"] != "test") {
            let path: Vec<&str> = operation["path"].as_str().unwrap().split('/').collect();
            prop_assert_eq!(path[1], "spec");
            prop_assert!(RULE_LISTS.contains(&path[2]), "{}", operation);
            // A single rule has no index.
            let backends = if path[2] == "weighted" { path[3] } else { path[4] };
            prop_assert!(BACKENDS.contains(&backends), "{}", operation);
        }
    }

    #[test]
    fn malformed_objects_are_errors_and_never_panic(text in r#"[\{\}\[\]":,a-z0-9]{0,60}"#, weight in weight()) {
        let junk = serde_json::from_str(&text).unwrap_or(Value::String(text));
        for router in ROUTERS {
            let mut route = json!({
                "apiVersion": format!("{}/v1", router.group()), "kind": router.kind(),
                "metadata": {}, "spec": {},
            });
            for list in RULE_LISTS {
                let rule = json!({
                    "backendRefs": junk, "route": junk, "services": junk, "backends": junk,
                });
                route["spec"][list] = if list == "weighted" { rule } else { json!([rule]) };
            }
            prop_assert!(set_weight(&route, None, weight, None).is_err());
            for list in RULE_LISTS {
                route["spec"][list] = junk.clone();
            }
            prop_assert!(set_weight(&route, None, weight, None).is_err());
        }
    }
}
