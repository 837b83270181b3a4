//! Policies of Cilium.

use serde_json::Value;

use super::{Direction, Policy, Subject};
use crate::label_selector;
use crate::template::{items, object_name};

/// Label that selects the namespace of an endpoint.
const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Prefix of labels of the namespace of an endpoint.
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";

pub(super) fn read(object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    read_as("CiliumNetworkPolicy", object, subject)
}

pub(super) fn read_cluster(object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    read_as("CiliumClusterwideNetworkPolicy", object, subject)
}

fn read_as(kind: &str, object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    let one = (!object["spec"].is_null()).then_some(&object["spec"]);
    let specs = one.into_iter().chain(items(&object["specs"]));
    // A policy with a nodeSelector is for nodes.
    specs
        .filter(|spec| !spec["endpointSelector"].is_null())
        .map(|spec| policy(kind, object, spec, subject))
        .collect()
}

fn policy(kind: &str, object: &Value, spec: &Value, subject: &Subject<'_>) -> Policy {
    let selector = without_prefixes(&spec["endpointSelector"]);
    let label = |key: &str| {
        if key == NAMESPACE_LABEL {
            return Some(subject.namespace_name());
        }
        match key.strip_prefix(NAMESPACE_LABELS) {
            Some(key) => subject.namespace_label(key),
            None => subject.pod_label(key),
        }
    };
    let direction = |name: &str, peers: [&str; 3]| {
        let is_denied_by_default = spec["enableDefaultDeny"][name] != false;
        direction(
            &spec[name],
            &spec[format!("{name}Deny")],
            is_denied_by_default,
            peers,
        )
    };
    Policy {
        label: format!("{kind} {}", object_name(object)),
        selects_pods: label_selector::selects(&selector, label),
        selects_namespace: label_selector::selects_all(&selector),
        ingress: direction("ingress", ["fromEndpoints", "fromEntities", "fromCIDR"]),
        egress: direction("egress", ["toEndpoints", "toEntities", "toCIDR"]),
    }
}

fn direction(
    rules: &Value,
    denied: &Value,
    is_denied_by_default: bool,
    [endpoints, entities, cidr]: [&str; 3],
) -> Direction {
    if !is_denied_by_default || (rules.is_null() && denied.is_null()) {
        return Direction::NotCovered;
    }
    // A rule without peers selects none. Ports alone mean every peer on these ports.
    let has_peers = |rule: &Value| {
        [
            endpoints,
            entities,
            cidr,
            "toPorts",
            "fromCIDRSet",
            "toCIDRSet",
            "toFQDNs",
            "toServices",
        ]
        .iter()
        .any(|field| !rule[*field].is_null())
    };
    let is_open = |rule: &Value| {
        let all_entities = items(&rule[entities]).any(|entity| entity == "all");
        let all_addresses = items(&rule[cidr]).any(|cidr| cidr == "0.0.0.0/0");
        rule["toPorts"].is_null() && (all_entities || all_addresses)
    };
    if items(rules).any(is_open) {
        Direction::Open
    } else if items(rules).any(has_peers) {
        Direction::Restricted
    } else {
        Direction::Closed
    }
}

/// A selector whose keys have no source: `k8s:app` and `any:app` are `app`.
fn without_prefixes(selector: &Value) -> Value {
    let bare = |key: &str| {
        let key = key
            .strip_prefix("k8s:")
            .or_else(|| key.strip_prefix("any:"))
            .unwrap_or(key);
        key.to_owned()
    };
    let mut selector = selector.clone();
    if let Some(labels) = selector["matchLabels"].as_object() {
        let labels: serde_json::Map<String, Value> = labels
            .iter()
            .map(|(key, value)| (bare(key), value.clone()))
            .collect();
        selector["matchLabels"] = Value::Object(labels);
    }
    if let Some(expressions) = selector["matchExpressions"].as_array_mut() {
        for expression in expressions {
            if let Some(key) = expression["key"].as_str().map(bare) {
                expression["key"] = Value::String(key);
            }
        }
    }
    selector
}
