//! A network policy selects the pods, so that not everybody can reach them.
//!
//! The policies of each engine are reduced to the same form: whether they select the pods, and what
//! they leave open in each direction.

mod admin;
mod calico;
mod calico_selector;
mod cilium;
mod kubernetes;

use std::cell::Cell;

use serde_json::Value;
use serin_core::hold::HoldCode;
use serin_crds::guardrails::NetworkPolicyGuardrail;

use crate::evaluation::Report;
use crate::facts::{Facts, NamespaceFacts, Source, Unknown};
use crate::template::Template;

/// What a policy does in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// It says nothing.
    NotCovered,
    /// It allows everything.
    Open,
    /// It allows some peers or ports.
    Restricted,
    /// It allows nothing.
    Closed,
}

/// A policy, as far as the guardrail looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    /// Kind and name.
    label: String,
    /// Whether it selects the pods of the revision.
    selects_pods: bool,
    /// Whether it selects all pods of the namespace.
    selects_namespace: bool,
    ingress: Direction,
    egress: Direction,
}

/// What a selector of a policy may look at.
struct Subject<'a> {
    template: Template<'a>,
    /// Empty if it is not known.
    namespace_name: &'a str,
    /// `None` if it is not known. Only the selectors of some policies need its labels.
    namespace: Option<&'a NamespaceFacts>,
    /// Whether a selector has looked at something of the namespace that is not known.
    needs_namespace: Cell<bool>,
}

impl<'a> Subject<'a> {
    fn pod_label(&self, key: &str) -> Option<&'a str> {
        self.template.label(key)
    }

    fn namespace_name(&self) -> &'a str {
        if self.namespace_name.is_empty() {
            self.needs_namespace.set(true);
        }
        self.namespace_name
    }

    fn namespace_label(&self, key: &str) -> Option<&'a str> {
        // The API server sets it on every namespace.
        if key == "kubernetes.io/metadata.name" {
            return Some(self.namespace_name());
        }
        let Some(namespace) = self.namespace else {
            self.needs_namespace.set(true);
            return None;
        };
        namespace.labels.get(key).map(String::as_str)
    }
}

type Read = fn(&Value, &Subject<'_>) -> Vec<Policy>;

/// The kinds of policies with their readers.
const KINDS: [(Source, &str, Read); 7] = [
    (Source::NetworkPolicies, "NetworkPolicies", kubernetes::read),
    (
        Source::CiliumPolicies,
        "CiliumNetworkPolicies",
        cilium::read,
    ),
    (
        Source::CiliumClusterPolicies,
        "CiliumClusterwideNetworkPolicies",
        cilium::read_cluster,
    ),
    (
        Source::CalicoPolicies,
        "NetworkPolicies of Calico",
        calico::read,
    ),
    (
        Source::CalicoGlobalPolicies,
        "GlobalNetworkPolicies of Calico",
        calico::read_global,
    ),
    (Source::AdminPolicies, "AdminNetworkPolicies", admin::read),
    (
        Source::BaselineAdminPolicies,
        "BaselineAdminNetworkPolicies",
        admin::read_baseline,
    ),
];

pub(super) fn check(options: &NetworkPolicyGuardrail, facts: &Facts, report: &mut Report) {
    let subject = Subject {
        template: Template(&facts.template),
        namespace_name: &facts.namespace_name,
        namespace: facts.namespace.known().ok(),
        needs_namespace: Cell::new(false),
    };
    let mut policies = Vec::new();
    let mut unknown = Vec::new();
    for (source, what, read) in &KINDS {
        let fact = facts.objects_of(*source);
        // Every cluster serves NetworkPolicies.
        let objects = if *source == Source::NetworkPolicies {
            fact.known().map(Vec::as_slice)
        } else {
            fact.objects()
        };
        match objects {
            Ok(objects) => {
                policies.extend(objects.iter().flat_map(|object| read(object, &subject)));
            }
            Err(why) => unknown.push((*what, why)),
        }
    }
    let mut problems = Vec::new();
    let is_egress_needed = options.egress == Some(true);
    let directions = [("ingress", true), ("egress", is_egress_needed)];
    for (direction, _) in directions.iter().filter(|(_, is_needed)| *is_needed) {
        let of = |policy: &Policy| {
            if *direction == "ingress" {
                policy.ingress
            } else {
                policy.egress
            }
        };
        problems.extend(direction_problem(direction, &policies, of, facts));
        if options.default_deny == Some(true) {
            problems.extend(default_deny_problem(direction, &policies, of, facts));
        }
    }
    if problems.is_empty() {
        return;
    }
    // What could not be read may be the policy that is missing. Without a cluster, only the
    // manifests that were given are known.
    if let Some((what, why)) = unknown.first() {
        return report.unknown(what, why);
    }
    if subject.needs_namespace.get() {
        let why = facts.namespace.known().err();
        return report.unknown("Namespace", &why.unwrap_or(Unknown::NotAsked));
    }
    for (object, problem, fix) in problems {
        report.add(HoldCode::NetworkPolicyMissing, object, problem, fix);
    }
}

type Problem = (String, String, String);

fn direction_problem(
    direction: &str,
    policies: &[Policy],
    of: impl Fn(&Policy) -> Direction,
    facts: &Facts,
) -> Option<Problem> {
    let name = &facts.namespace_name;
    let selecting = || policies.iter().filter(|policy| policy.selects_pods);
    // The rules of policies add up: one that allows everything opens the pods.
    if let Some(open) = selecting().find(|policy| of(policy) == Direction::Open) {
        return Some((
            open.label.clone(),
            format!("it selects the pods and allows all {direction} traffic"),
            format!("Allow only the peers that need it in the {direction} rules"),
        ));
    }
    let mut closing = selecting().filter(|policy| of(policy) != Direction::NotCovered);
    if closing.next().is_some() {
        return None;
    }
    Some((
        format!("namespace {name}"),
        format!("no network policy restricts the {direction} traffic of the pods"),
        format!(
            "Add a NetworkPolicy to namespace {name} whose podSelector selects the pods, with {direction} \
             rules"
        ),
    ))
}

fn default_deny_problem(
    direction: &str,
    policies: &[Policy],
    of: impl Fn(&Policy) -> Direction,
    facts: &Facts,
) -> Option<Problem> {
    let name = &facts.namespace_name;
    let mut of_namespace = policies.iter().filter(|policy| policy.selects_namespace);
    if of_namespace.any(|policy| of(policy) == Direction::Closed) {
        return None;
    }
    Some((
        format!("namespace {name}"),
        format!("no policy denies {direction} traffic by default"),
        format!(
            "Add a NetworkPolicy with podSelector: {{}} and policyTypes: [{}] and without rules",
            if direction == "ingress" {
                "Ingress"
            } else {
                "Egress"
            }
        ),
    ))
}

#[cfg(test)]
mod tests;
