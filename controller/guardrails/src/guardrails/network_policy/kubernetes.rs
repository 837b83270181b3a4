//! NetworkPolicies of Kubernetes.

use serde_json::Value;

use super::{Direction, Policy, Subject};
use crate::label_selector;
use crate::template::{items, object_name};

pub(super) fn read(object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    let spec = &object["spec"];
    // A selector that is left out selects everything.
    let everything = Value::Object(serde_json::Map::new());
    let selector = match &spec["podSelector"] {
        Value::Null => &everything,
        selector => selector,
    };
    let types: Vec<&str> = items(&spec["policyTypes"])
        .filter_map(Value::as_str)
        .collect();
    let covers = |name: &str, is_default: bool| {
        if types.is_empty() {
            is_default
        } else {
            types.contains(&name)
        }
    };
    vec![Policy {
        label: format!("NetworkPolicy {}", object_name(object)),
        selects_pods: label_selector::selects(selector, |key| subject.pod_label(key)),
        selects_namespace: label_selector::selects_all(selector),
        ingress: direction(covers("Ingress", true), &spec["ingress"], "from"),
        egress: direction(
            covers("Egress", !spec["egress"].is_null()),
            &spec["egress"],
            "to",
        ),
    }]
}

fn direction(is_covered: bool, rules: &Value, peers: &str) -> Direction {
    if !is_covered {
        return Direction::NotCovered;
    }
    let is_empty = |list: &Value| items(list).next().is_none();
    if is_empty(rules) {
        return Direction::Closed;
    }
    // A rule without peers and ports allows everything.
    let is_open = |rule: &Value| is_empty(&rule[peers]) && is_empty(&rule["ports"]);
    if items(rules).any(is_open) {
        Direction::Open
    } else {
        Direction::Restricted
    }
}
