//! The hand-written files name fields that exist.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test, outside its functions"
)]

use std::path::Path;

use serde_json::Value;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn rollout_schema() -> Value {
    let crds = serin_crds::crds();
    let crd = crds
        .iter()
        .find(|crd| crd.spec.names.kind == "Rollout")
        .unwrap();
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    schema["openAPIV3Schema"].clone()
}

/// Whether a path of Kustomize leads to a field. The pod spec has no schema.
fn has_field(schema: &Value, path: &str) -> bool {
    let mut schema = schema;
    for segment in path.split('/') {
        if schema["x-kubernetes-preserve-unknown-fields"] == true {
            return true;
        }
        if !schema["additionalProperties"].is_null() {
            return true;
        }
        if schema["type"] == "array" {
            schema = &schema["items"];
        }
        schema = &schema["properties"][segment.trim_end_matches("[]")];
        if schema.is_null() {
            return false;
        }
    }
    true
}

/// The paths of Rollouts in a part of the configuration.
fn paths(part: &Value, found: &mut Vec<String>) {
    match part {
        Value::Array(items) => items.iter().for_each(|item| paths(item, found)),
        Value::Object(fields) => {
            if part["kind"] == "Rollout" && part["path"].is_string() {
                found.push(part["path"].as_str().unwrap().to_owned());
            }
            fields.values().for_each(|field| paths(field, found));
        }
        _ => {}
    }
}

#[test]
fn every_field_of_the_kustomize_configuration_exists() {
    let text = read("kustomize/kustomizeconfig.yaml");
    let configuration: Value = serde_saphyr::from_str(&text).unwrap();
    let mut found = Vec::new();
    paths(&configuration, &mut found);
    assert!(found.len() > 30, "{found:?}");
    let schema = rollout_schema();
    for path in found {
        assert!(has_field(&schema, &path), "{path}");
    }
}

#[test]
fn kustomize_creates_no_template_or_selector() {
    // A Rollout with workloadRef has neither.
    let text = read("kustomize/kustomizeconfig.yaml");
    let without_comments = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    assert!(
        without_comments
            .into_iter()
            .all(|line| !line.contains("create"))
    );
}

#[test]
fn every_field_with_a_merge_key_exists() {
    let schema: Value = serde_json::from_str(&read("kustomize/schema.json")).unwrap();
    let rollout = &schema["definitions"]["dev.serin.v1alpha1.Rollout"];
    let crd = rollout_schema();
    let spec = rollout["properties"]["spec"]["properties"]
        .as_object()
        .unwrap();
    for (field, part) in spec {
        assert!(has_field(&crd, &format!("spec/{field}")), "{field}");
        for name in part["properties"].as_object().into_iter().flatten() {
            assert!(
                has_field(&crd, &format!("spec/{field}/{}", name.0)),
                "{}",
                name.0
            );
        }
    }
    let gvk = &rollout["x-kubernetes-group-version-kind"][0];
    assert_eq!(
        (&gvk["group"], &gvk["kind"]),
        (&"serin.dev".into(), &"Rollout".into())
    );
}
