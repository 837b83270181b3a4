//! JSON Schemas for editors, from the CustomResourceDefinitions.

use serde_json::{Map, Value, json};

const FOLDER: &str = "gitops/json-schema";

/// The schema of each kind and version: path from the root of the workspace, and content.
///
/// # Errors
/// A schema has no JSON form.
pub fn files() -> Result<Vec<(String, String)>, serde_json::Error> {
    let mut files = Vec::new();
    for crd in serin_crds::crds() {
        let (group, kind) = (&crd.spec.group, &crd.spec.names.kind);
        for version in &crd.spec.versions {
            let schema = serde_json::to_value(&version.schema)?;
            let schema = editor_schema(
                &schema["openAPIV3Schema"],
                kind,
                &format!("{group}/{}", version.name),
            );
            let path = format!("{FOLDER}/{}_{}.json", kind.to_lowercase(), version.name);
            files.push((path, serde_json::to_string_pretty(&schema)? + "\n"));
        }
    }
    Ok(files)
}

/// The schema of the objects that a user writes.
fn editor_schema(schema: &Value, kind: &str, api_version: &str) -> Value {
    let mut properties = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // The controller writes the status.
        if name != "status" {
            properties.insert(name.clone(), draft_07(property));
        }
    }
    properties.insert("apiVersion".to_owned(), json!({"const": api_version}));
    properties.insert("kind".to_owned(), json!({"const": kind}));
    properties.insert("metadata".to_owned(), json!({"type": "object"}));
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": kind,
        "description": schema["description"],
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": properties,
        "additionalProperties": false,
    })
}

/// A structural schema of Kubernetes as JSON Schema. Unknown fields are errors, as for `kubectl apply
/// --validate=strict`.
fn draft_07(schema: &Value) -> Value {
    let mut result = Map::new();
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        match keyword.as_str() {
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                let properties =
                    properties.map(|(name, property)| (name.clone(), draft_07(property)));
                result.insert(keyword.clone(), Value::Object(properties.collect()));
            }
            "items" | "additionalProperties" => {
                result.insert(keyword.clone(), draft_07(value));
            }
            // Extensions of Kubernetes, and number formats that are not part of JSON Schema.
            name if name.starts_with("x-kubernetes-") || name == "format" => {}
            _ => {
                result.insert(keyword.clone(), value.clone());
            }
        }
    }
    if schema["x-kubernetes-int-or-string"] == true {
        result.insert("type".to_owned(), json!(["integer", "string"]));
    }
    let is_closed = schema["properties"].is_object()
        && schema["x-kubernetes-preserve-unknown-fields"] != true
        && schema["additionalProperties"].is_null();
    if is_closed {
        result.insert("additionalProperties".to_owned(), json!(false));
    }
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout() -> Value {
        let files = files().unwrap();
        let (_, text) = files
            .iter()
            .find(|(path, _)| path.ends_with("/rollout_v1alpha1.json"))
            .unwrap();
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_kind_has_a_schema_without_extensions_of_kubernetes() {
        let files = files().unwrap();
        assert_eq!(files.len(), serin_crds::crds().len());
        for (path, text) in files {
            assert!(!text.contains("x-kubernetes-"), "{path}");
        }
    }

    #[test]
    fn unknown_fields_are_errors_but_not_in_a_pod_template() {
        let schema = rollout();
        assert_eq!(schema["additionalProperties"], false);
        let spec = &schema["properties"]["spec"];
        assert_eq!(spec["additionalProperties"], false);
        assert!(spec["properties"]["replicas"]["description"].is_string());
        let pod = &spec["properties"]["template"]["properties"]["spec"];
        assert!(pod["additionalProperties"].is_null(), "{pod}");
        assert!(schema["properties"]["status"].is_null());
    }

    #[test]
    fn numbers_or_percentages_have_both_types() {
        let canary = &rollout()["properties"]["spec"]["properties"]["strategy"]["properties"];
        let surge = &canary["canary"]["properties"]["maxSurge"];
        assert_eq!(surge["type"], json!(["integer", "string"]));
    }
}
