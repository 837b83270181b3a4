//! Which policies match a Rollout, and in which order they apply.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serin_crds::policy::{FailurePolicy, RolloutPolicySpec};

use crate::resolve::kept_defaults;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A RolloutPolicy, or why its spec cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct PolicyInput<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its precedence.
    pub precedence: i32,
    /// What happens if it cannot be applied.
    pub failure_policy: FailurePolicy,
    /// Its spec, or why it cannot be read.
    pub spec: Result<&'a RolloutPolicySpec, &'a str>,
    /// Size of [`kept_defaults`] in bytes of JSON.
    pub kept_bytes: usize,
}

impl<'a> PolicyInput<'a> {
    /// A policy with a valid spec.
    pub fn new(name: &'a str, spec: &'a RolloutPolicySpec) -> Self {
        Self {
            name,
            precedence: spec.precedence.unwrap_or_default(),
            failure_policy: spec.failure_policy.unwrap_or_default(),
            spec: Ok(spec),
            kept_bytes: kept_defaults(spec).map_or(0, |kept| kept.to_string().len()),
        }
    }

    /// A policy whose spec cannot be read, for this reason. It is required.
    pub fn unreadable(name: &'a str, reason: &'a str) -> Self {
        Self {
            name,
            precedence: 0,
            failure_policy: FailurePolicy::Fail,
            spec: Err(reason),
            kept_bytes: 0,
        }
    }
}

/// Whether the selectors of a policy match a Rollout with these labels in a namespace with these
/// labels. A selector that is unset matches everything.
pub fn matches(
    namespace_selector: Option<&LabelSelector>,
    rollout_selector: Option<&LabelSelector>,
    namespace_labels: &Labels,
    rollout_labels: &Labels,
) -> bool {
    namespace_selector.is_none_or(|selector| selects(selector, namespace_labels))
        && rollout_selector.is_none_or(|selector| selects(selector, rollout_labels))
}

/// Sorts policies by precedence, the highest first, and equal ones by name.
pub fn sort_by_precedence(policies: &mut [PolicyInput<'_>]) {
    policies.sort_by_key(|policy| (Reverse(policy.precedence), policy.name));
}

/// Whether a label selector matches.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut equal = selector.match_labels.iter().flatten();
    let mut required = selector.match_expressions.iter().flatten();
    equal.all(|(key, value)| labels.get(key) == Some(value))
        && required.all(|requirement| is_met(requirement, labels))
}

/// Whether a requirement is met. An unknown operator matches: the policy applies, rather than being
/// left out because of a mistake in it.
fn is_met(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let is_listed = value.is_some_and(|value| {
        let values = requirement.values.as_ref();
        values.is_some_and(|values| values.contains(value))
    });
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "DoesNotExist" => value.is_none(),
        "Exists" => value.is_some(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn a_selector_matches_as_in_kubernetes() {
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"team": "shop"}}), true),
            (json!({"matchLabels": {"team": "pay"}}), false),
            (
                json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["shop"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["shop"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}),
                false,
            ),
        ];
        for (selector, expected) in cases {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            let found = matches(
                Some(&parsed),
                None,
                &labels(&[("team", "shop")]),
                &labels(&[]),
            );
            assert_eq!(found, expected, "{selector}");
        }
    }

    #[test]
    fn policies_are_sorted_by_precedence_and_then_by_name() {
        let spec = |precedence| RolloutPolicySpec {
            precedence,
            ..RolloutPolicySpec::default()
        };
        let (low, none, high) = (spec(Some(-1)), spec(None), spec(Some(7)));
        let mut policies = [
            PolicyInput::new("low", &low),
            PolicyInput::new("b", &none),
            PolicyInput::new("a", &none),
            PolicyInput::new("high", &high),
        ];
        sort_by_precedence(&mut policies);
        let names = policies.map(|policy| policy.name);
        assert_eq!(names, ["high", "a", "b", "low"]);
    }
}
