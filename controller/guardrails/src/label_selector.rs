//! Label selectors of Kubernetes over the labels of a pod or a namespace.

use serde_json::Value;

use crate::template::{fields, items};

/// Whether a label selector selects an object. `label` looks up one of its labels.
///
/// An empty selector selects everything. A selector that is absent (`null`) selects no object. Callers
/// for which it means everything check that first. An operator that Kubernetes does not have selects
/// nothing.
pub(crate) fn selects<'a>(selector: &Value, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    if !selector.is_object() {
        return false;
    }
    let mut equal = fields(&selector["matchLabels"]).into_iter().flatten();
    let has_labels = equal.all(|(key, value)| {
        let wanted = value.as_str();
        wanted.is_some() && label(key) == wanted
    });
    let mut expressions = items(&selector["matchExpressions"]);
    has_labels && expressions.all(|expression| meets(expression, &label))
}

fn meets<'a>(expression: &Value, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
    let Some(key) = expression["key"].as_str() else {
        return false;
    };
    let found = label(key);
    let is_listed =
        || found.is_some_and(|found| items(&expression["values"]).any(|value| value == found));
    match expression["operator"].as_str() {
        Some("In") => is_listed(),
        Some("NotIn") => !is_listed(),
        Some("Exists") => found.is_some(),
        Some("DoesNotExist") => found.is_none(),
        _ => false,
    }
}

/// Whether the selector is present and selects everything.
pub(crate) fn selects_all(selector: &Value) -> bool {
    let is_empty = |part: &Value| match part {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    selector.is_object()
        && is_empty(&selector["matchLabels"])
        && is_empty(&selector["matchExpressions"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_selects_as_in_kubernetes() {
        let label = |key: &str| match key {
            "app" => Some("shop"),
            "tier" => Some("web"),
            _ => None,
        };
        for (selector, expected) in [
            (json!({}), true),
            (json!(null), false),
            (json!({"matchLabels": {"app": "shop"}}), true),
            (json!({"matchLabels": {"app": "other"}}), false),
            (json!({"matchLabels": {"app": 1}}), false),
            (expression("tier", "In", &["web", "api"]), true),
            (expression("tier", "NotIn", &["web"]), false),
            (expression("team", "NotIn", &["web"]), true),
            (expression("team", "Exists", &[]), false),
            (expression("team", "DoesNotExist", &[]), true),
            (expression("tier", "Near", &["web"]), false),
        ] {
            assert_eq!(selects(&selector, label), expected, "{selector}");
        }
        assert!(selects_all(&json!({})) && !selects_all(&json!(null)));
        assert!(!selects_all(&json!({"matchLabels": {"app": "shop"}})));
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
    }
}
