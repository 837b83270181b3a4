//! Labels and annotations of the pods of one side.

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::rollout::RolloutDraft;

/// Converts the metadata in `field` of a strategy into `target`. Keys that the pod template has, or
/// that the selector needs, are left out: Serin never changes a key of the template.
pub(crate) fn convert(strategy: &mut Fields, field: &str, target: &str, draft: &mut RolloutDraft) {
    let Some(mut metadata) = strategy.object(field) else {
        return;
    };
    let template = draft.spec.get("template").cloned().unwrap_or_default();
    let selector = draft.spec.get("selector").cloned().unwrap_or_default();
    let mut converted = Map::new();
    for map in ["labels", "annotations"] {
        let path = metadata.path(map);
        let Some(Value::Object(mut entries)) = metadata.take(map) else {
            continue;
        };
        let own = &template["metadata"][map];
        let is_taken = |key: &str| !own[key].is_null() || is_selected(&selector, key);
        let taken: Vec<String> = entries
            .keys()
            .filter(|key| is_taken(key))
            .cloned()
            .collect();
        for key in taken {
            entries.remove(&key);
            draft.notes.lost(
                format!("{path}[{key}]"),
                "the pod template has this key, which Argo Rollouts and OpenKruise replace on the \
                 pods of one side and Serin never changes",
                "remove the key from the pod template, and convert it again",
            );
        }
        if !entries.is_empty() {
            converted.insert(map.to_owned(), Value::Object(entries));
        }
    }
    metadata.finish(&mut draft.notes);
    if !converted.is_empty() {
        draft.canary.insert(target.to_owned(), json!(converted));
    }
}

/// Whether a selector depends on a label.
fn is_selected(selector: &Value, key: &str) -> bool {
    let expressions = selector["matchExpressions"].as_array();
    let mut expressions = expressions.into_iter().flatten();
    !selector["matchLabels"][key].is_null()
        || expressions.any(|expression| expression["key"] == key)
}
