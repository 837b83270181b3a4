//! Validation of the labels and annotations of one side.

use std::collections::BTreeMap;

use super::object_name::is_object_name;
use super::problem::Problems;
use crate::rollout::RolloutSpec;
use crate::side_metadata::{MAX_ANNOTATION_BYTES, MAX_ENTRIES, SideMetadata, is_reserved};

/// Maximum length in bytes of a label value, and of a key without its prefix.
const MAX_NAME_BYTES: usize = 63;
const OVERLAP_FIX: &str = "use another key, or remove it from the pod template";

/// Checks the metadata of both sides of `spec.strategy`. They are not part of the plan.
pub(super) fn check(spec: &RolloutSpec, problems: &mut Problems) {
    let (canary, blue_green) = (&spec.strategy.canary, &spec.strategy.blue_green);
    let of_canary = canary.iter().flat_map(|canary| {
        [
            ("canary.canaryMetadata", &canary.canary_metadata),
            ("canary.stableMetadata", &canary.stable_metadata),
        ]
    });
    let of_blue_green = blue_green.iter().flat_map(|blue_green| {
        [
            ("blueGreen.previewMetadata", &blue_green.preview_metadata),
            ("blueGreen.activeMetadata", &blue_green.active_metadata),
        ]
    });
    for (field, metadata) in of_canary.chain(of_blue_green) {
        if let Some(metadata) = metadata {
            check_side(spec, &format!("spec.strategy.{field}"), metadata, problems);
        }
    }
}

fn check_side(spec: &RolloutSpec, path: &str, metadata: &SideMetadata, problems: &mut Problems) {
    let template = spec.template.metadata.as_ref();
    let labels = template.and_then(|template| template.labels.as_ref());
    let annotations = template.and_then(|template| template.annotations.as_ref());
    check_map(
        &format!("{path}.labels"),
        metadata.labels.as_ref(),
        labels,
        problems,
    );
    for (key, value) in metadata.labels.iter().flatten() {
        let path = format!("{path}.labels[{key}]");
        if !is_label_value(value) {
            let fix = "use at most 63 letters, digits, dashes, underscores and dots, with a letter or digit at both ends";
            problems.invalid(path.clone(), value, "it is not a valid label value", fix);
        }
        if is_selected(spec, key) {
            let problem = "spec.selector uses this label, so the pods would leave the Rollout";
            problems.invalid(path, value, problem, "use another key");
        }
    }
    let path = format!("{path}.annotations");
    check_map(&path, metadata.annotations.as_ref(), annotations, problems);
    for (key, value) in metadata.annotations.iter().flatten() {
        if value.len() > MAX_ANNOTATION_BYTES {
            let problem = format!("it has {} bytes", value.len());
            let fix = format!("use at most {MAX_ANNOTATION_BYTES} bytes");
            problems.invalid(format!("{path}[{key}]"), value, problem, fix);
        }
    }
}

/// What labels and annotations have in common. `of_template` are those of the pod template.
fn check_map(
    path: &str,
    map: Option<&BTreeMap<String, String>>,
    of_template: Option<&BTreeMap<String, String>>,
    problems: &mut Problems,
) {
    let Some(map) = map else { return };
    if map.len() > MAX_ENTRIES {
        let fix = format!("use at most {MAX_ENTRIES}");
        problems.invalid(path, &map.len(), "there are too many entries", fix);
        return;
    }
    for (key, value) in map {
        let path = format!("{path}[{key}]");
        if is_reserved(key) {
            let problem = "the prefix serin.dev/ and the key pod-template-hash are reserved for the controller";
            problems.invalid(path, value, problem, "use another key");
        } else if !is_key(key) {
            let fix = "use for example role or example.com/role";
            problems.invalid(path, value, "the key is not valid", fix);
        } else if of_template.is_some_and(|template| template.contains_key(key)) {
            let problem = "the pod template has this key already";
            problems.invalid(path, value, problem, OVERLAP_FIX);
        }
    }
}

/// Whether the selector depends on a label.
fn is_selected(spec: &RolloutSpec, key: &str) -> bool {
    let selector = &spec.selector;
    let labels = selector.match_labels.as_ref();
    let mut expressions = selector.match_expressions.iter().flatten();
    labels.is_some_and(|labels| labels.contains_key(key))
        || expressions.any(|requirement| requirement.key == key)
}

/// Whether this is a valid key: a name, with a DNS subdomain and a slash before it or not.
fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_object_name(prefix) && is_name(name),
        None => is_name(key),
    }
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_name(name: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_end = |c: char| c.is_ascii_alphanumeric();
    name.len() <= MAX_NAME_BYTES
        && name.bytes().all(is_inner)
        && name.starts_with(is_end)
        && name.ends_with(is_end)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn errors(strategy: &Value) -> String {
        let spec: RolloutSpec = serde_json::from_value(json!({
            "selector": {
                "matchLabels": {"app": "shop"},
                "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}],
            },
            "template": {
                "metadata": {"labels": {"app": "shop", "team": "x"}, "annotations": {"note": "y"}},
                "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
            },
            "strategy": strategy,
        }))
        .unwrap();
        spec.plan("shop")
            .err()
            .map(|errors| errors.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn labels_and_annotations_of_both_sides_are_accepted() {
        let canary = json!({"labels": {"role": "canary", "example.com/role": ""}, "annotations": {"A_b.c": "any text, of any form"}});
        let stable = json!({"labels": {"role": "stable"}});
        assert_eq!(
            errors(&json!({"canary": {"canaryMetadata": canary, "stableMetadata": stable}})),
            ""
        );
        let blue_green =
            json!({"activeService": "shop", "previewMetadata": canary, "activeMetadata": stable});
        assert_eq!(errors(&json!({"blueGreen": blue_green})), "");
    }

    #[test]
    fn what_could_move_pods_away_or_is_invalid_is_refused() {
        for (metadata, field, problem) in [
            (
                json!({"labels": {"app": "other"}}),
                "labels[app]",
                "spec.selector uses this label",
            ),
            (
                json!({"labels": {"tier": "web"}}),
                "labels[tier]",
                "spec.selector uses this label",
            ),
            (
                json!({"labels": {"team": "z"}}),
                "labels[team]",
                "the pod template has this key already",
            ),
            (
                json!({"annotations": {"note": "z"}}),
                "annotations[note]",
                "the pod template has this key already",
            ),
            (
                json!({"labels": {"serin.dev/revision": "z"}}),
                "labels[serin.dev/revision]",
                "reserved for the controller",
            ),
            (
                json!({"labels": {"pod-template-hash": "z"}}),
                "labels[pod-template-hash]",
                "reserved for the controller",
            ),
            (
                json!({"annotations": {"serin.dev/added-labels": "z"}}),
                "annotations[serin.dev/added-labels]",
                "reserved for the controller",
            ),
            (
                json!({"labels": {"a,b": "z"}}),
                "labels[a,b]",
                "the key is not valid",
            ),
            (
                json!({"labels": {"a": "b c"}}),
                "labels[a]",
                "it is not a valid label value",
            ),
        ] {
            let canary = errors(&json!({"canary": {"canaryMetadata": metadata.clone()}}));
            let path = format!("spec.strategy.canary.canaryMetadata.{field}");
            assert!(
                canary.contains(&path) && canary.contains(problem),
                "{canary}"
            );
            let active = json!({"activeService": "shop", "activeMetadata": metadata});
            let active = errors(&json!({"blueGreen": active}));
            assert!(
                active.contains(&format!("spec.strategy.blueGreen.activeMetadata.{field}")),
                "{active}"
            );
        }
    }

    #[test]
    fn the_number_and_the_size_of_entries_are_limited() {
        let many: BTreeMap<String, String> =
            (0..17).map(|n| (format!("k{n}"), String::new())).collect();
        let found = errors(&json!({"canary": {"stableMetadata": {"annotations": many}}}));
        assert!(
            found.contains("spec.strategy.canary.stableMetadata.annotations: Invalid value: 17"),
            "{found}"
        );
        let long = json!({"annotations": {"a": "x".repeat(1_025)}});
        let found = errors(&json!({"canary": {"stableMetadata": long}}));
        assert!(
            found.contains("it has 1025 bytes; use at most 1024 bytes"),
            "{found}"
        );
    }
}
