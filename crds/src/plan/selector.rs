//! Checks that the selector matches the labels of the template.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

use super::problem::Problems;
use crate::names::GROUP;
use crate::rollout::RolloutSpec;

const LABELS: &str = "spec.template.metadata.labels";

pub(super) fn check_selector(spec: &RolloutSpec, problems: &mut Problems) {
    let no_labels = BTreeMap::new();
    let labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.as_ref())
        .unwrap_or(&no_labels);
    let match_labels = spec.selector.match_labels.as_ref().unwrap_or(&no_labels);
    let expressions = spec
        .selector
        .match_expressions
        .as_deref()
        .unwrap_or_default();
    if match_labels.is_empty() && expressions.is_empty() {
        let fix =
            "set spec.selector.matchLabels to a label of the template, for example {app: NAME}";
        problems.required(
            "spec.selector",
            "an empty selector selects every pod in the namespace",
            fix,
        );
    }
    let is_reserved = |key: &str| {
        key.split_once('/')
            .is_some_and(|(prefix, _)| prefix == GROUP)
    };
    for key in match_labels.keys().filter(|key| is_reserved(key)) {
        let path = format!("spec.selector.matchLabels[{key}]");
        problems.invalid(
            path,
            &match_labels[key],
            "labels with the prefix serin.dev/ are reserved for the controller",
            "remove it",
        );
    }
    for (key, value) in labels.iter().filter(|(key, _)| is_reserved(key)) {
        problems.invalid(
            format!("{LABELS}[{key}]"),
            value,
            "labels with the prefix serin.dev/ are reserved for the controller",
            "remove it",
        );
    }
    for (key, value) in match_labels {
        let fix = format!("add {key}: {value} to {LABELS}");
        match labels.get(key) {
            Some(found) if found == value => {}
            Some(found) => problems.invalid(
                format!("{LABELS}[{key}]"),
                found,
                "it does not match spec.selector",
                fix,
            ),
            None => problems.required(format!("{LABELS}[{key}]"), "spec.selector requires it", fix),
        }
    }
    for (index, requirement) in expressions.iter().enumerate() {
        check_expression(index, requirement, labels, problems);
    }
}

fn check_expression(
    index: usize,
    requirement: &LabelSelectorRequirement,
    labels: &BTreeMap<String, String>,
    problems: &mut Problems,
) {
    let path = format!("spec.selector.matchExpressions[{index}]");
    let values = requirement.values.as_deref().unwrap_or_default();
    let found = labels.get(&requirement.key);
    let matches = match requirement.operator.as_str() {
        "In" => found.is_some_and(|value| values.contains(value)),
        "NotIn" => found.is_none_or(|value| !values.contains(value)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        operator => {
            let path = format!("{path}.operator");
            return problems.invalid(
                path,
                &operator,
                "it is not a known operator",
                "use In, NotIn, Exists or DoesNotExist",
            );
        }
    };
    let needs_values = matches!(requirement.operator.as_str(), "In" | "NotIn");
    if needs_values == values.is_empty() {
        let fix = "In and NotIn need at least one value; Exists and DoesNotExist take none";
        problems.invalid(
            format!("{path}.values"),
            &values,
            "the number of values does not match the operator",
            fix,
        );
    } else if !matches {
        let fix = format!(
            "change the label {} in {LABELS}, or the selector",
            requirement.key
        );
        problems.invalid(
            path,
            requirement,
            "the template's labels do not match it",
            fix,
        );
    }
}
