//! Anti-affinity between the revisions of a Rollout, in the templates of its ReplicaSets.
//!
//! The term is the same for every pod of a revision and names no other revision, so that a template
//! never changes after its ReplicaSet has been created. It is not part of the revision: the controller
//! leaves it out when it compares templates.

use serde_json::{Value, json};

use crate::names::{REVISION_LABEL, ROLLOUT_LABEL};
use crate::strategy::AntiAffinitySpec;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const TOPOLOGY_KEY: &str = "kubernetes.io/hostname";

/// Adds the anti-affinity of a revision to a pod template. What is in the template stays.
pub fn add(template: &mut Value, spec: &AntiAffinitySpec, rollout: &str, revision: &str) {
    let term = json!({
        "labelSelector": {
            "matchLabels": {ROLLOUT_LABEL: rollout},
            "matchExpressions": [
                {"key": REVISION_LABEL, "operator": "NotIn", "values": [revision]},
            ],
        },
        "topologyKey": TOPOLOGY_KEY,
    });
    let preferred = spec.preferred_during_scheduling_ignored_during_execution;
    let (list, entry) = match preferred {
        Some(preferred) => (
            PREFERRED,
            json!({"weight": preferred.weight, "podAffinityTerm": term}),
        ),
        None => (REQUIRED, term),
    };
    let affinity = object_at(template, "spec")
        .and_then(|spec| object_at(spec, "affinity"))
        .and_then(|affinity| object_at(affinity, "podAntiAffinity"))
        .and_then(Value::as_object_mut);
    // The API server refuses a template with other types at these places.
    let Some(affinity) = affinity else { return };
    let entries = affinity.entry(list).or_insert_with(|| json!([]));
    if let Some(entries) = entries.as_array_mut() {
        entries.push(entry);
    }
}

/// The field of an object, created as an empty object if it is missing.
fn object_at<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let fields = value.as_object_mut()?;
    let field = fields.entry(field).or_insert(Value::Null);
    if field.is_null() {
        *field = json!({});
    }
    Some(field)
}

/// Removes what [`add`] has added to a pod template.
pub fn remove(template: &mut Value) {
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(terms) = affinity
        .get_mut("podAntiAffinity")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let mut is_changed = false;
    terms.retain(|_, list| {
        let Some(entries) = list.as_array_mut() else {
            return true;
        };
        let before = entries.len();
        entries.retain(|entry| !is_between_revisions(entry));
        let is_own = entries.len() < before;
        is_changed |= is_own;
        !(is_own && entries.is_empty())
    });
    if !is_changed {
        return;
    }
    if terms.is_empty() {
        affinity.remove("podAntiAffinity");
    }
    if affinity.is_empty() {
        spec.remove("affinity");
    }
}

/// Whether a term is of the form that [`add`] writes.
fn is_between_revisions(entry: &Value) -> bool {
    let term = entry.get("podAffinityTerm").unwrap_or(entry);
    let selector = &term["labelSelector"];
    let expressions = selector["matchExpressions"].as_array();
    let mut expressions = expressions.into_iter().flatten();
    selector["matchLabels"][ROLLOUT_LABEL].is_string()
        && expressions.any(|expression| {
            expression["key"] == REVISION_LABEL && expression["operator"] == "NotIn"
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::{PreferredAntiAffinity, RequiredAntiAffinity};

    fn required() -> AntiAffinitySpec {
        AntiAffinitySpec {
            required_during_scheduling_ignored_during_execution: Some(RequiredAntiAffinity {}),
            ..AntiAffinitySpec::default()
        }
    }

    fn preferred(weight: i32) -> AntiAffinitySpec {
        AntiAffinitySpec {
            preferred_during_scheduling_ignored_during_execution: Some(PreferredAntiAffinity {
                weight,
            }),
            ..AntiAffinitySpec::default()
        }
    }

    #[test]
    fn the_term_keeps_the_pods_of_other_revisions_away() {
        let mut template = json!({"spec": {"containers": []}});
        add(&mut template, &required(), "shop", "abc");
        assert_eq!(
            template["spec"]["affinity"],
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                "labelSelector": {
                    "matchLabels": {"serin.dev/rollout": "shop"},
                    "matchExpressions": [
                        {"key": "serin.dev/revision", "operator": "NotIn", "values": ["abc"]},
                    ],
                },
                "topologyKey": "kubernetes.io/hostname",
            }]}})
        );
        let mut template = json!({"spec": {}});
        add(&mut template, &preferred(7), "shop", "abc");
        let list = &template["spec"]["affinity"]["podAntiAffinity"][PREFERRED];
        assert_eq!(list[0]["weight"], 7);
        assert_eq!(list[0]["podAffinityTerm"]["topologyKey"], TOPOLOGY_KEY);
    }

    #[test]
    fn a_template_of_the_wrong_types_is_left_to_the_api_server() {
        for before in [
            json!(null),
            json!("x"),
            json!({"spec": 7}),
            json!({"spec": {"affinity": "x"}}),
            json!({"spec": {"affinity": {"podAntiAffinity": []}}}),
            json!({"spec": {"affinity": {"podAntiAffinity": {REQUIRED: "x"}}}}),
        ] {
            let mut template = before.clone();
            add(&mut template, &required(), "shop", "abc");
            remove(&mut template);
            assert_eq!(template, before);
        }
    }

    #[test]
    fn what_was_added_can_be_removed_and_the_rest_stays() {
        let own_term =
            json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"});
        let templates = [
            json!({"spec": {"containers": []}}),
            json!({"spec": {"affinity": {"nodeAffinity": {}}}}),
            json!({"spec": {"affinity": {"podAntiAffinity": {REQUIRED: [own_term]}}}}),
            json!({"spec": {"affinity": {"podAntiAffinity": {PREFERRED: [
                {"weight": 1, "podAffinityTerm": own_term},
            ]}}}}),
        ];
        for before in templates {
            for spec in [required(), preferred(100)] {
                let mut template = before.clone();
                add(&mut template, &spec, "shop", "abc");
                assert_ne!(template, before);
                remove(&mut template);
                assert_eq!(template, before);
                remove(&mut template);
                assert_eq!(template, before, "twice");
            }
        }
    }
}
