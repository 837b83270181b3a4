//! Policies of Calico.

use serde_json::Value;

use super::calico_selector::selects;
use super::{Direction, Policy, Subject};
use crate::template::{items, object_name};

/// Label of a pod that is not in its metadata: its namespace.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

pub(super) fn read(object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    vec![policy("NetworkPolicy of Calico", object, subject, true)]
}

pub(super) fn read_global(object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    let selector = object["spec"]["namespaceSelector"]
        .as_str()
        .unwrap_or_default();
    let is_of_namespace = selector.is_empty()
        || selects(selector, |key| match key {
            "projectcalico.org/name" => Some(subject.namespace_name()),
            _ => subject.namespace_label(key),
        });
    vec![policy(
        "GlobalNetworkPolicy",
        object,
        subject,
        is_of_namespace,
    )]
}

fn policy(kind: &str, object: &Value, subject: &Subject<'_>, is_of_namespace: bool) -> Policy {
    let spec = &object["spec"];
    let selector = spec["selector"].as_str().unwrap_or_default().trim();
    let label = |key: &str| match key {
        NAMESPACE_LABEL => Some(subject.namespace_name()),
        _ => subject.pod_label(key),
    };
    let selects_all = selector.is_empty() || selector == "all()";
    let types: Vec<&str> = items(&spec["types"]).filter_map(Value::as_str).collect();
    let covers = |name: &str, is_default: bool| {
        if types.is_empty() {
            is_default
        } else {
            types.contains(&name)
        }
    };
    let has_egress = !spec["egress"].is_null();
    let has_ingress = !spec["ingress"].is_null() || !has_egress;
    Policy {
        label: format!("{kind} {}", object_name(object)),
        selects_pods: is_of_namespace && (selects_all || selects(selector, label)),
        selects_namespace: is_of_namespace && selects_all,
        ingress: direction(covers("Ingress", has_ingress), &spec["ingress"]),
        egress: direction(covers("Egress", has_egress), &spec["egress"]),
    }
}

fn direction(is_covered: bool, rules: &Value) -> Direction {
    if !is_covered {
        return Direction::NotCovered;
    }
    let allows = |rule: &&Value| rule["action"] == "Allow" || rule["action"] == "Pass";
    let mut allowing = items(rules).filter(allows).peekable();
    if allowing.peek().is_none() {
        return Direction::Closed;
    }
    let is_empty = |part: &Value| part.as_object().is_none_or(serde_json::Map::is_empty);
    // A rule without conditions allows everything.
    let is_open = |rule: &Value| {
        is_empty(&rule["source"]) && is_empty(&rule["destination"]) && rule["protocol"].is_null()
    };
    if allowing.any(is_open) {
        Direction::Open
    } else {
        Direction::Restricted
    }
}
