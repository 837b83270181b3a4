//! Rules for chosen requests, by example and by property: they are copies of the rules that are
//! split, they come and go with the patch of the weight, and the original is restored byte for byte.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use serin_core::managed_route::{
    HeaderMatch, ManagedAction, ManagedRoute, RequestMatch, StringMatch,
};
use serin_core::plan::RouteKind;
use serin_core::units::Weight;
use serin_traffic::{OriginalWeights, ROUTERS, is_added_rule};

use crate::support::*;

fn header(name: &str, header: &str, value: StringMatch) -> ManagedRoute {
    ManagedRoute {
        precedence: 0,
        name: name.into(),
        action: ManagedAction::ToCanary,
        matches: vec![RequestMatch {
            headers: vec![HeaderMatch {
                name: header.into(),
                value,
            }],
            ..RequestMatch::default()
        }],
    }
}

fn staff() -> ManagedRoute {
    header("staff", "x-user", StringMatch::Exact("staff".into()))
}

fn testers() -> ManagedRoute {
    ManagedRoute {
        precedence: 1,
        ..header("testers", "x-test", StringMatch::Prefix("t.1".into()))
    }
}

/// Copies 35 % of the requests with GET below `/`.
fn copies() -> ManagedRoute {
    ManagedRoute {
        precedence: 2,
        name: "copies".into(),
        action: ManagedAction::Mirror { percent: 35 },
        matches: vec![RequestMatch {
            method: Some("GET".into()),
            path: Some(StringMatch::Prefix("/".into())),
            headers: Vec::new(),
        }],
    }
}

fn set(
    route: &Value,
    percent: u32,
    managed: &[ManagedRoute],
    original: &OriginalWeights,
) -> Result<Value, String> {
    let (router, weight) = (router(route), Weight::percent(percent));
    let patch = router.set_weight(route, None, SERVICES, weight, managed, Some(original));
    let patch = patch.map_err(|error| error.to_string())?;
    let changed = apply_patch(route, &patch);
    assert_eq!(canary_weight(&changed, None), Ok(weight));
    assert_eq!(found(&changed, managed), Some(managed.to_vec()));
    let again = router.set_weight(&changed, None, SERVICES, weight, managed, Some(original));
    assert!(
        again.unwrap().0.is_empty(),
        "a second write changes nothing"
    );
    Ok(changed)
}

/// The rules that the object has, if they are these.
fn found(route: &Value, candidate: &[ManagedRoute]) -> Option<Vec<ManagedRoute>> {
    let candidates = [candidate.to_vec()];
    let found = router(route).managed_routes(route, None, SERVICES, &candidates);
    found.map(<[ManagedRoute]>::to_vec)
}

fn http_route(rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "41"},
        "spec": {"parentRefs": [{"name": "public"}], "rules": rules},
    })
}

fn backend(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name, "port": 80, "weight": 1})
}

fn plain() -> Value {
    http_route(&json!([
        {"matches": [{"path": {"type": "PathPrefix", "value": "/static"}}],
         "backendRefs": [backend("static")]},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/shop"}}, {"method": "POST"}],
         "filters": [{"type": "RequestHeaderModifier",
                      "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}],
         "backendRefs": [backend(STABLE)], "timeouts": {"request": "3s"}},
    ]))
}

fn virtual_service() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "41"},
        "spec": {"hosts": ["shop.example"], "http": [
            {"name": "static", "route": [{"destination": {"host": "static"}}]},
            {"name": "api", "match": [{"uri": {"prefix": "/api"}}], "timeout": "3s",
             "route": [{"destination": {"host": format!("{STABLE}.shop.svc")}}]},
            {"route": [{"destination": {"host": STABLE}}]},
        ]},
    })
}

#[test]
fn a_header_rule_is_a_copy_of_the_split_rule_with_the_canary_alone() {
    let before = plain();
    let original = capture_original(&before).unwrap();
    let changed = set(&before, 0, &[staff()], &original).unwrap();
    let rules = changed["spec"]["rules"].as_array().unwrap();
    assert_eq!(rules[..2], before["spec"]["rules"].as_array().unwrap()[..]);
    let header = json!([{"type": "Exact", "name": "x-user", "value": "staff"}]);
    let expected = json!({
        "name": "serin.dev.staff.1",
        "matches": [
            {"path": {"type": "PathPrefix", "value": "/shop"}, "headers": header},
            {"method": "POST", "headers": header},
        ],
        "filters": before["spec"]["rules"][1]["filters"],
        "backendRefs": [backend(CANARY)],
        "timeouts": {"request": "3s"},
    });
    assert_eq!(rules[2..], [expected]);
    assert_eq!(set(&changed, 0, &[], &original).unwrap(), before);
}

#[test]
fn an_added_rule_does_not_shift_the_others_of_an_http_route_unless_it_mirrors() {
    let before = plain();
    let original = capture_original(&before).unwrap();
    let names = |route: &Value| {
        let rules = route["spec"]["rules"].as_array().unwrap();
        let name = |rule: &Value| rule["name"].as_str().unwrap_or("-").to_owned();
        rules.iter().map(name).collect::<Vec<_>>()
    };
    let both = set(&before, 20, &[staff(), testers()], &original).unwrap();
    assert_eq!(
        names(&both),
        ["-", "-", "serin.dev.staff.1", "serin.dev.testers.1"]
    );
    let mirrored = set(&both, 20, &[staff(), copies()], &original).unwrap();
    assert_eq!(
        names(&mirrored),
        ["-", "serin.dev.staff.1", "serin.dev.copies.1", "-"]
    );
    assert_eq!(set(&mirrored, 0, &[], &original).unwrap(), before);
}

#[test]
fn a_mirror_divides_its_requests_as_the_rule_does_and_copies_them() {
    let before = plain();
    let original = capture_original(&before).unwrap();
    for percent in [0, 20, 50] {
        let changed = set(&before, percent, &[copies()], &original).unwrap();
        let rules = changed["spec"]["rules"].as_array().unwrap();
        let (mirror, source) = (&rules[1], &rules[2]);
        assert_eq!(mirror["backendRefs"], source["backendRefs"]);
        let filters = mirror["filters"].as_array().unwrap();
        assert_eq!(filters[0], source["filters"][0]);
        let mut target = backend(CANARY);
        target.as_object_mut().unwrap().remove("weight");
        assert_eq!(
            filters[1],
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": target, "percent": 35}})
        );
        assert_eq!(
            mirror["matches"],
            json!([{"path": {"type": "PathPrefix", "value": "/shop"}, "method": "GET"}]),
            "no request has two methods"
        );
    }
}

#[test]
fn the_routes_of_a_virtual_service_come_before_those_that_they_are_copies_of() {
    let before = virtual_service();
    let original = capture_original(&before).unwrap();
    let changed = set(&before, 10, &[staff(), copies()], &original).unwrap();
    let routes = changed["spec"]["http"].as_array().unwrap();
    let names: Vec<_> = routes.iter().map(|route| route["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            Some("static"),
            Some("serin.dev.staff.1"),
            Some("serin.dev.copies.1"),
            Some("api"),
            Some("serin.dev.staff.2"),
            Some("serin.dev.copies.2"),
            None,
        ]
    );
    let canary = format!("{CANARY}.shop.svc");
    assert_eq!(
        routes[1],
        json!({
            "name": "serin.dev.staff.1", "timeout": "3s",
            "match": [{"uri": {"prefix": "/api"}, "headers": {"x-user": {"exact": "staff"}}}],
            "route": [{"destination": {"host": canary}}],
        })
    );
    assert_eq!(routes[2]["mirror"], json!({"host": canary}));
    assert_eq!(routes[2]["mirrorPercentage"], json!({"value": 35}));
    assert_eq!(routes[2]["route"], routes[3]["route"]);
    assert_eq!(
        routes[4]["match"],
        json!([{"headers": {"x-user": {"exact": "staff"}}}])
    );
    assert_eq!(
        restore(&changed, &original).map(|patch| apply_patch(&changed, &patch)),
        Ok(before)
    );
}

#[test]
fn a_rule_that_is_named_has_its_own_added_rules() {
    let before = virtual_service();
    let router = router(&before);
    let weight = Weight::percent(10);
    let patch = router.set_weight(&before, Some("api"), SERVICES, weight, &[staff()], None);
    let changed = apply_patch(&before, &patch.unwrap());
    let rules = changed["spec"]["http"].as_array().unwrap();
    let added = rules
        .iter()
        .filter(|route| route["name"].as_str().is_some_and(is_added_rule));
    assert_eq!(added.count(), 1);
    let candidates = [vec![staff()]];
    let found = router.managed_routes(&changed, Some("api"), SERVICES, &candidates);
    assert_eq!(found, Some(&candidates[0][..]));
}

#[test]
fn a_grpc_route_matches_metadata_as_headers() {
    let mut before = http_route(&json!([
        {"matches": [{"method": {"type": "Exact", "service": "shop.Cart"}}],
         "backendRefs": [backend(STABLE)]},
    ]));
    before["kind"] = "GRPCRoute".into();
    let original = capture_original(&before).unwrap();
    let changed = set(&before, 5, &[staff(), testers()], &original).unwrap();
    let rules = changed["spec"]["rules"].as_array().unwrap();
    assert_eq!(
        rules[1]["matches"][0],
        json!({
            "method": {"type": "Exact", "service": "shop.Cart"},
            "headers": [{"type": "Exact", "name": "x-user", "value": "staff"}],
        })
    );
    assert_eq!(rules[2]["matches"][0]["headers"][0]["value"], r"^t\.1.*$");
    let error = set(&before, 5, &[copies()], &original).unwrap_err();
    assert!(error.contains("match headers only"), "{error}");
}

#[test]
fn what_cannot_be_written_is_refused_with_a_fix() {
    let with_header = http_route(&json!([{
        "matches": [{"headers": [{"type": "Exact", "name": "X-User", "value": "a"}]}],
        "backendRefs": [backend(STABLE)],
    }]));
    let original = capture_original(&with_header).unwrap();
    let error = set(&with_header, 5, &[staff()], &original).unwrap_err();
    assert_eq!(
        error,
        "managed route `staff` cannot be written to HTTPRoute shop/checkout: its rule already \
         matches the header x-user; use another header"
    );
    let mut elsewhere = copies();
    elsewhere.matches[0].path = Some(StringMatch::Prefix("/other".into()));
    elsewhere.matches[0].method = Some("GET".into());
    let error = set(
        &plain(),
        5,
        &[elsewhere],
        &capture_original(&plain()).unwrap(),
    );
    let error = error.unwrap_err();
    assert!(
        error.contains("no request matches both it and a rule that is split"),
        "{error}"
    );
    let many: Vec<Value> = (0..9)
        .map(|index| json!({"name": format!("r{index}"), "backendRefs": [backend(STABLE)]}))
        .collect();
    let many = http_route(&many.into());
    let error = set(&many, 5, &[staff()], &capture_original(&many).unwrap()).unwrap_err();
    assert!(
        error.contains("would have 18 rules, and its kind allows 16"),
        "{error}"
    );
    let mut mirroring = virtual_service();
    mirroring["spec"]["http"][2]["mirror"] = json!({"host": "audit"});
    let error = set(
        &mirroring,
        5,
        &[copies()],
        &capture_original(&mirroring).unwrap(),
    );
    assert!(error.unwrap_err().contains("already has the field mirror"));
}

#[test]
fn every_other_kind_refuses_a_rule_and_names_those_that_can_hold_it() {
    for router in ROUTERS {
        let backends = json!([{"name": STABLE, "serviceName": STABLE, "port": 80}]);
        let rules = json!([{"backendRefs": backends, "services": backends, "backends": backends}]);
        let mut route = json!({
            "apiVersion": format!("{}/{}", router.group(), router.versions()[0]),
            "kind": router.kind(),
            "metadata": {"namespace": "shop", "name": "checkout", "resourceVersion": "1",
                         "annotations": {"nginx.ingress.kubernetes.io/canary": "true"}},
            "spec": {"rules": rules, "routes": rules, "http": rules, "weighted": {"services": backends},
                     "defaultBackend": {"service": {"name": CANARY}}},
        });
        if router.route_kind() == RouteKind::Ingress {
            route["spec"]["rules"] = json!([]);
        }
        if router.route_kind().has_managed_routes() {
            continue;
        }
        let weight = Weight::percent(5);
        let result = router.set_weight(&route, None, SERVICES, weight, &[staff()], None);
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("managed route `staff` cannot be written"),
            "{error}"
        );
        assert!(error.contains("use an HTTPRoute"), "{error}");
    }
}

#[test]
fn a_changed_missing_or_foreign_rule_is_found_and_put_back() {
    for before in [plain(), virtual_service()] {
        let list = if before["kind"] == "HTTPRoute" {
            "rules"
        } else {
            "http"
        };
        let original = capture_original(&before).unwrap();
        let managed = [staff(), copies()];
        let good = set(&before, 20, &managed, &original).unwrap();
        let rules = good["spec"][list].as_array().unwrap();
        let is_added = |rule: &Value| rule["name"].as_str().is_some_and(is_added_rule);
        let at = rules.iter().position(is_added).unwrap();
        let mut edits: Vec<Value> = Vec::new();
        let mut edit = |change: &dyn Fn(&mut Vec<Value>)| {
            let mut route = good.clone();
            change(route["spec"][list].as_array_mut().unwrap());
            edits.push(route);
        };
        edit(&|rules| rules[at]["timeouts"] = json!({"request": "9s"}));
        edit(&|rules| drop(rules.remove(at)));
        edit(&|rules| rules.swap(at, at + 1));
        edit(&|rules| {
            let mut foreign = rules[at].clone();
            foreign["name"] = "serin.dev.other.1".into();
            rules.push(foreign);
        });
        edit(&|rules| {
            let moved = rules.remove(at);
            rules.push(moved);
        });
        for route in edits {
            assert_eq!(found(&route, &managed), None, "{route}");
            assert_eq!(set(&route, 20, &managed, &original), Ok(good.clone()));
            assert_eq!(set(&route, 0, &[], &original), Ok(before.clone()));
            let patch = restore(&route, &original).unwrap();
            assert_eq!(apply_patch(&route, &patch), before);
        }
        let mut applied = before.clone();
        applied["metadata"]["resourceVersion"] = "50".into();
        assert_eq!(
            found(&applied, &managed),
            Some(Vec::new()),
            "an apply removes the rules"
        );
    }
}

#[test]
fn a_rule_of_an_earlier_plan_is_removed() {
    let before = plain();
    let original = capture_original(&before).unwrap();
    let earlier = set(&before, 5, &[testers()], &original).unwrap();
    assert_eq!(found(&earlier, &[staff()]), None);
    let now = set(&earlier, 5, &[staff()], &original).unwrap();
    assert_eq!(now, set(&before, 5, &[staff()], &original).unwrap());
}

#[test]
fn a_rule_that_the_user_adds_during_a_release_is_kept() {
    let before = virtual_service();
    let original = capture_original(&before).unwrap();
    let mut changed = set(&before, 20, &[staff()], &original).unwrap();
    let mut expected = before.clone();
    let added = json!({"name": "new", "match": [{"uri": {"prefix": "/new"}}],
                       "route": [{"destination": {"host": "static"}}]});
    for route in [&mut changed, &mut expected] {
        route["spec"]["http"]
            .as_array_mut()
            .unwrap()
            .push(added.clone());
    }
    let changed = set(&changed, 50, &[staff()], &original).unwrap();
    assert_eq!(set(&changed, 0, &[], &original), Ok(expected));
}

/// A path of a match.
fn path() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["PathPrefix", "Exact"]);
    let value = prop::sample::select(vec!["/", "/shop", "/shop/cart", "/other"]);
    (kind, value).prop_map(|(kind, value)| json!({"type": kind, "value": value}))
}

fn rule(index: usize) -> impl Strategy<Value = Value> {
    let matches = prop::collection::vec(path(), 0..3);
    let service = prop::sample::select(vec![STABLE, STABLE, "static"]);
    let listed = prop::option::weighted(0.2, 1u64..9);
    (matches, service, listed, any::<bool>()).prop_map(move |(paths, service, listed, is_named)| {
        let mut backends = vec![backend(service)];
        backends.extend(listed.map(|weight| {
            let mut canary = backend(CANARY);
            canary["weight"] = weight.into();
            canary
        }));
        let mut rule = json!({"backendRefs": backends, "kept": index});
        if !paths.is_empty() {
            let matches = paths.into_iter().map(|path| json!({"path": path}));
            rule["matches"] = matches.collect();
        }
        if is_named {
            rule["name"] = format!("rule-{index}").into();
        }
        rule
    })
}

/// An HTTPRoute, or the same rules as a VirtualService.
fn any_route() -> impl Strategy<Value = Value> {
    let rules = (rule(0), rule(1), rule(2), 1usize..4);
    (rules, any::<bool>()).prop_map(|((one, two, three, count), is_istio)| {
        let rules: Vec<Value> = [one, two, three].into_iter().take(count).collect();
        if !is_istio {
            return http_route(&rules.into());
        }
        let routes = rules.into_iter().map(|mut rule| {
            let fields = rule.as_object_mut().unwrap();
            let matches = fields.remove("matches");
            let backends = fields.remove("backendRefs").unwrap();
            let uri = |found: &Value| {
                let exact = found["path"]["type"] == "Exact";
                let field = if exact { "exact" } else { "prefix" };
                json!({"uri": {field: found["path"]["value"]}})
            };
            let matches = matches.map(|all| all.as_array().unwrap().iter().map(uri).collect());
            fields.extend(matches.map(|all: Vec<Value>| ("match".to_owned(), all.into())));
            let backends = backends.as_array().unwrap();
            let is_single = backends.len() == 1;
            let destination = |backend: &Value| {
                let mut found = json!({"destination": {"host": backend["name"]}});
                if !is_single {
                    found["weight"] = backend["weight"].clone();
                }
                found
            };
            let route: Vec<Value> = backends.iter().map(destination).collect();
            fields.insert("route".to_owned(), route.into());
            rule
        });
        let mut service = virtual_service();
        service["spec"]["http"] = routes.collect();
        service
    })
}

fn any_set() -> impl Strategy<Value = Vec<ManagedRoute>> {
    prop::sample::subsequence(vec![staff(), testers(), copies()], 0..=3)
}

proptest! {
    #[test]
    fn any_sequence_of_weights_and_rules_reads_back_and_can_be_restored(
        before in any_route(),
        changes in prop::collection::vec((0u32..=100, any_set()), 1..5),
        is_aborted in any::<bool>(),
    ) {
        prop_assume!(capture_original(&before).is_ok());
        let original = capture_original(&before).unwrap();
        let mut now = before.clone();
        for (percent, managed) in changes {
            let Ok(changed) = set(&now, percent, &managed, &original) else {
                continue;
            };
            let unmanaged = |route: &Value| {
                let list = if route["kind"] == "HTTPRoute" { "rules" } else { "http" };
                let rules = route["spec"][list].as_array().unwrap().iter();
                let is_added = |rule: &&Value| rule["name"].as_str().is_some_and(is_added_rule);
                let kept = rules.filter(|rule| !is_added(rule)).map(|rule| rule["kept"].clone());
                kept.collect::<Vec<_>>()
            };
            prop_assert_eq!(unmanaged(&changed), unmanaged(&before));
            now = changed;
        }
        if is_aborted {
            now = set(&now, 0, &[], &original).unwrap();
        }
        let patch = restore(&now, &original).unwrap();
        prop_assert_eq!(apply_patch(&now, &patch), before);
    }
}
