use std::collections::BTreeMap;

use serde_json::json;
use serin_core::guardrail::GuardrailKind::NetworkPolicy;

use super::super::test_facts::{codes, facts as revision, findings, with, without};
use super::*;
use crate::facts::Fact;

fn facts() -> Facts {
    let mut facts = without(revision(), Source::for_guardrail(NetworkPolicy));
    facts.namespace = Fact::Known(NamespaceFacts {
        labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
        ..NamespaceFacts::default()
    });
    with(facts, Source::NetworkPolicies, json!([]))
}

fn passes(source: Source, object: Value, options: Value) -> bool {
    let facts = with(facts(), source, json!([object]));
    codes(NetworkPolicy, options, &facts).is_empty()
}

/// A NetworkPolicy with this spec.
fn policy(spec: Value) -> Value {
    json!({"metadata": {"name": "np", "namespace": "shop"}, "spec": spec})
}

fn of_shop() -> Value {
    json!({"matchLabels": {"app": "checkout"}})
}

#[test]
fn a_namespace_without_policies_is_a_flat_network() {
    let found = findings(NetworkPolicy, json!({}), &facts());
    assert_eq!(found[0].code, HoldCode::NetworkPolicyMissing);
    assert_eq!(found[0].object, "namespace shop");
    assert!(found[0].fix.contains("podSelector"), "{found:?}");
}

#[test]
fn a_network_policy_counts_if_it_selects_the_pods_and_restricts_them() {
    let from = json!([{"from": [{"podSelector": {}}]}]);
    for (spec, expected) in [
        (json!({"podSelector": of_shop(), "ingress": from}), true),
        (json!({"podSelector": {}}), true),
        (json!({"podSelector": {}, "policyTypes": ["Egress"]}), false),
        (
            json!({"podSelector": {"matchLabels": {"app": "x"}}, "ingress": from}),
            false,
        ),
        (json!({"podSelector": of_shop(), "ingress": [{}]}), false),
        (
            json!({"podSelector": of_shop(), "ingress": [{"ports": [{"port": 80}]}]}),
            true,
        ),
    ] {
        let source = Source::NetworkPolicies;
        assert_eq!(
            passes(source, policy(spec.clone()), json!({})),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn egress_and_default_deny_are_demanded_if_configured() {
    let egress = || json!({"egress": true});
    let source = Source::NetworkPolicies;
    let only_ingress = policy(json!({"podSelector": {}}));
    assert!(!passes(source, only_ingress.clone(), egress()));
    let both = json!({"podSelector": of_shop(), "policyTypes": ["Ingress", "Egress"]});
    assert!(passes(source, policy(both.clone()), egress()));
    let deny = || json!({"defaultDeny": true});
    assert!(passes(source, only_ingress, deny()));
    assert!(!passes(source, policy(both), deny()), "other pods are open");
}

#[test]
fn one_open_policy_opens_what_another_closes() {
    let closed = policy(json!({"podSelector": {}}));
    let open = json!({"metadata": {"name": "all"}, "spec": {"podSelector": {}, "ingress": [{}]}});
    let facts = with(facts(), Source::NetworkPolicies, json!([closed, open]));
    let found = findings(NetworkPolicy, json!({}), &facts);
    assert_eq!(found[0].object, "NetworkPolicy all");
}

#[test]
fn policies_of_cilium_count() {
    let source = Source::CiliumPolicies;
    let selector = json!({"matchLabels": {"k8s:app": "checkout"}});
    for (spec, expected) in [
        (
            json!({"endpointSelector": selector, "ingress": [{"fromEndpoints": [{}]}]}),
            true,
        ),
        (json!({"endpointSelector": {}, "ingress": [{}]}), true),
        (
            json!({"endpointSelector": selector, "ingress": [{"fromEntities": ["all"]}]}),
            false,
        ),
        (json!({"endpointSelector": selector, "egress": [{}]}), false),
        (
            json!({"endpointSelector": selector, "ingress": [{}], "enableDefaultDeny": {"ingress": false}}),
            false,
        ),
    ] {
        assert_eq!(
            passes(source, policy(spec.clone()), json!({})),
            expected,
            "{spec}"
        );
    }
    let namespaced = json!({"endpointSelector": {"matchLabels": {
        "k8s:io.kubernetes.pod.namespace": "shop",
        "k8s:io.cilium.k8s.namespace.labels.env": "prod",
    }}, "ingress": [{}]});
    assert!(passes(
        Source::CiliumClusterPolicies,
        policy(namespaced),
        json!({})
    ));
    let several = json!({"metadata": {"name": "np"}, "specs": [
        {"nodeSelector": {}, "ingress": [{}]}, {"endpointSelector": {}, "ingress": [{}]},
    ]});
    assert!(passes(source, several, json!({"defaultDeny": true})));
}

#[test]
fn policies_of_calico_count() {
    let source = Source::CalicoPolicies;
    let allow = json!([{"action": "Allow", "source": {"selector": "app == 'web'"}}]);
    for (spec, expected) in [
        (
            json!({"selector": "app == 'checkout'", "ingress": allow}),
            true,
        ),
        (
            json!({"selector": "app == 'other'", "ingress": allow}),
            false,
        ),
        (json!({"selector": "all()", "types": ["Ingress"]}), true),
        (
            json!({"selector": "all()", "ingress": [{"action": "Allow"}]}),
            false,
        ),
        (json!({"selector": "all()", "types": ["Egress"]}), false),
    ] {
        assert_eq!(
            passes(source, policy(spec.clone()), json!({})),
            expected,
            "{spec}"
        );
    }
    let global = |namespaces: &str| {
        let spec = json!({"namespaceSelector": namespaces, "types": ["Ingress"]});
        passes(Source::CalicoGlobalPolicies, policy(spec), json!({}))
    };
    assert!(global("env == 'prod'") && global("projectcalico.org/name == 'shop'"));
    assert!(!global("env == 'dev'"));
}

#[test]
fn admin_policies_count_if_they_deny() {
    let rule = |action: &str| json!([{"action": action, "from": [{"namespaces": {}}]}]);
    let subject = json!({"namespaces": {"matchLabels": {"env": "prod"}}});
    for (action, expected) in [("Deny", true), ("Allow", false), ("Pass", false)] {
        let spec = json!({"subject": subject, "ingress": rule(action)});
        let source = Source::BaselineAdminPolicies;
        assert_eq!(
            passes(source, policy(spec), json!({})),
            expected,
            "{action}"
        );
    }
    let pods = json!({"pods": {"namespaceSelector": {}, "podSelector": of_shop()}});
    let spec = json!({"subject": pods, "ingress": rule("Deny")});
    assert!(passes(Source::AdminPolicies, policy(spec), json!({})));
}

#[test]
fn a_kind_that_cannot_be_read_is_no_pass_if_it_matters() {
    let forbidden = |facts: Facts| {
        let mut facts = facts;
        let fact = Fact::Forbidden("list ciliumnetworkpolicies".to_owned());
        facts.objects.insert(Source::CiliumPolicies, fact);
        codes(NetworkPolicy, json!({}), &facts)
    };
    assert_eq!(forbidden(facts()), [HoldCode::GuardrailUnknown]);
    let closed = json!([policy(json!({"podSelector": {}}))]);
    let protected = with(facts(), Source::NetworkPolicies, closed);
    assert!(forbidden(protected).is_empty(), "another policy suffices");
}

#[test]
fn a_policy_by_labels_of_a_namespace_that_is_not_known_is_no_pass_and_no_violation() {
    let subject = json!({"namespaces": {"matchLabels": {"env": "prod"}}});
    let deny = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
    let baseline = policy(json!({"subject": subject, "ingress": deny}));
    let mut facts = with(facts(), Source::BaselineAdminPolicies, json!([baseline]));
    facts.namespace = Fact::Forbidden("list namespaces".to_owned());
    let found = findings(NetworkPolicy, json!({}), &facts);
    assert_eq!(found[0].code, HoldCode::GuardrailUnknown);
    assert!(found[0].problem.contains("list namespaces"), "{found:?}");
    // A policy that needs no label suffices.
    let closed = json!([policy(json!({"podSelector": {}}))]);
    let protected = with(facts, Source::NetworkPolicies, closed);
    assert!(codes(NetworkPolicy, json!({}), &protected).is_empty());
}
