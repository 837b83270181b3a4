//! AdminNetworkPolicies and the BaselineAdminNetworkPolicy.

use serde_json::Value;

use super::{Direction, Policy, Subject};
use crate::label_selector;
use crate::template::{items, object_name};

pub(super) fn read(object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    vec![policy("AdminNetworkPolicy", object, subject)]
}

pub(super) fn read_baseline(object: &Value, subject: &Subject<'_>) -> Vec<Policy> {
    vec![policy("BaselineAdminNetworkPolicy", object, subject)]
}

fn policy(kind: &str, object: &Value, subject: &Subject<'_>) -> Policy {
    let spec = &object["spec"];
    let of_namespace =
        |selector: &Value| label_selector::selects(selector, |key| subject.namespace_label(key));
    let namespaces = of_namespace(&spec["subject"]["namespaces"]);
    let pods = &spec["subject"]["pods"];
    let of_pods = of_namespace(&pods["namespaceSelector"])
        && label_selector::selects(&pods["podSelector"], |key| subject.pod_label(key));
    Policy {
        label: format!("{kind} {}", object_name(object)),
        selects_pods: namespaces || of_pods,
        selects_namespace: namespaces,
        ingress: direction(&spec["ingress"], "from"),
        egress: direction(&spec["egress"], "to"),
    }
}

/// These policies deny only what a rule denies, so that rules that allow something protect nothing.
fn direction(rules: &Value, peers: &str) -> Direction {
    let denies = |rule: &&Value| rule["action"] == "Deny";
    let mut denying = items(rules).filter(denies).peekable();
    if denying.peek().is_none() {
        return Direction::NotCovered;
    }
    // A peer that is every namespace is everybody in the cluster.
    let is_everybody = |peer: &Value| label_selector::selects_all(&peer["namespaces"]);
    if denying.any(|rule| items(&rule[peers]).any(is_everybody)) {
        Direction::Closed
    } else {
        Direction::Restricted
    }
}
