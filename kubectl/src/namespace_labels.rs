//! Labels of a namespace that a policy selects, as far as manifests or the cluster show them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serin_policy::Labels;

/// Label that the API server sets on every namespace: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The selector of a policy, if the labels of the namespace decide it, and these labels. A namespace
/// whose labels are not known is not a reason to leave a policy out. Its name is one of them.
///
/// `namespace` is empty and `known` is `None` if they are not known.
pub fn applicable<'a>(
    selector: Option<&'a LabelSelector>,
    namespace: &str,
    known: Option<&Labels>,
) -> (Option<&'a LabelSelector>, Labels) {
    let mut labels = known.cloned().unwrap_or_default();
    if !namespace.is_empty() {
        labels.insert(NAME_LABEL.to_owned(), namespace.to_owned());
    }
    let is_known = |key: &str| known.is_some() || labels.contains_key(key);
    let selector = selector.filter(|selector| keys(selector).all(is_known));
    (selector, labels)
}

/// The labels that a selector looks at.
fn keys(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    let equal = selector.match_labels.iter().flatten();
    let required = selector.match_expressions.iter().flatten();
    equal
        .map(|(key, _)| key.as_str())
        .chain(required.map(|requirement| requirement.key.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn is_decided(selector: Value, namespace: &str, known: Option<&Labels>) -> bool {
        let selector = serde_json::from_value(selector).unwrap();
        applicable(Some(&selector), namespace, known).0.is_some()
    }

    #[test]
    fn a_selector_is_decided_by_known_labels_or_by_the_name_alone() {
        let by_name = json!({"matchLabels": {NAME_LABEL: "shop"}});
        let by_team = json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]});
        assert!(is_decided(by_name.clone(), "shop", None));
        assert!(!is_decided(by_name, "", None));
        assert!(!is_decided(by_team.clone(), "shop", None));
        assert!(is_decided(by_team, "shop", Some(&Labels::new())));
        let (_, labels) = applicable(None, "shop", Some(&Labels::new()));
        assert_eq!(labels[NAME_LABEL], "shop");
    }
}
