//! A RolloutPolicy repeats fields of a Rollout as defaults, and an AnalysisTemplate repeats fields
//! of objectives and checks as definitions. The types of the fields are shared, but each structure
//! has docs and optional fields of its own. These tests keep names, bounds and docs alike.

use std::collections::BTreeSet;

use serde_json::Value;

/// The schema of `spec` of a resource, or of a field below it.
fn spec_schema(kind: &str, path: &[&str]) -> Value {
    let crds = serin_crds::crds();
    let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    let mut schema = &schema["openAPIV3Schema"]["properties"]["spec"];
    for field in path {
        schema = match *field {
            "[]" => &schema["items"],
            field => &schema["properties"][field],
        };
        assert!(schema.is_object(), "{kind} has no field {field}");
    }
    schema.clone()
}

fn fields(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// A schema without the docs of the field itself.
fn without_docs(schema: &Value) -> Value {
    let mut schema = schema.clone();
    schema.as_object_mut().unwrap().remove("description");
    schema
}

/// The docs of a field on one line.
fn docs(schema: &Value) -> String {
    schema["description"].as_str().unwrap().replace('\n', " ")
}

/// The fields of the original that are not repeated.
fn not_repeated<'a>(repeated: &Value, original: &'a Value) -> BTreeSet<&'a str> {
    let fields = fields(original).map(|(name, _)| name.as_str());
    fields
        .filter(|name| repeated["properties"].get(name).is_none())
        .collect()
}

/// Compares the defaults of an object with the object. Returns the number of compared fields.
fn compare_defaults(defaults: &Value, original: &Value, path: &str) -> usize {
    let mut compared = 0;
    for (name, default) in fields(defaults) {
        let path = format!("{path}.{name}");
        let original = &original["properties"][name];
        assert!(original.is_object(), "{path}: a Rollout has no such field");
        let text = docs(default);
        if without_docs(default) == without_docs(original) {
            compared += 1;
            let is_list = default["type"] == "array" && text.contains("in addition to its own");
            let is_default = text.starts_with(&format!("Default of `{name}`"));
            assert!(is_list || is_default, "{path}: {text}");
            continue;
        }
        assert_eq!(default["type"], "object", "{path} has other bounds");
        assert!(text.starts_with("Defaults of "), "{path}: {text}");
        let rules = |schema: &Value| schema["x-kubernetes-validations"].as_array().cloned();
        let known = rules(original).unwrap_or_default();
        for rule in rules(default).unwrap_or_default() {
            assert!(known.contains(&rule), "{path}: {rule}");
        }
        assert!(default["required"].is_null(), "{path} requires fields");
        compared += compare_defaults(default, original, &path);
    }
    compared
}

#[test]
fn defaults_of_a_policy_have_the_names_and_bounds_of_the_fields_of_a_rollout() {
    let defaults = spec_schema("RolloutPolicy", &["defaults"]);
    let compared = compare_defaults(&defaults, &spec_schema("Rollout", &[]), "defaults");
    assert!(compared >= 25, "{compared}");
}

/// A new field of a Rollout gets a default, or an entry here.
#[test]
fn every_field_of_a_rollout_has_a_default_or_belongs_to_one_rollout() {
    for (path, expected) in [
        (&["strategy"][..], &[][..]),
        (
            &["strategy", "canary"],
            &[
                "antiAffinity",
                "canaryMetadata",
                "canaryService",
                "stableMetadata",
                "stableService",
            ],
        ),
        (
            &["strategy", "blueGreen"],
            &[
                "activeMetadata",
                "activeService",
                "antiAffinity",
                "previewMetadata",
                "previewReplicaCount",
                "previewService",
            ],
        ),
        (&["analysis"], &[]),
    ] {
        let defaults = spec_schema("RolloutPolicy", &[&["defaults"][..], path].concat());
        let original = spec_schema("Rollout", path);
        let without_default = not_repeated(&defaults, &original);
        assert_eq!(
            without_default,
            expected.iter().copied().collect(),
            "{path:?}"
        );
    }
}

/// The start of the docs of a field: what it is, without examples and conditions.
fn subject(docs: &str) -> &str {
    docs.split(['.', ',']).next().unwrap()
}

/// The value that docs name for an unset field, if it is a constant.
fn stated_default(docs: &str) -> Option<&str> {
    let (_, default) = docs.rsplit_once("Defaults to ")?;
    let is_constant = !default.starts_with("that of");
    is_constant.then(|| default.split(". ").next().unwrap())
}

#[test]
fn definitions_have_the_names_bounds_and_docs_of_the_fields_of_a_rollout() {
    for (list, original, own, not_defined) in [
        (
            "objectives",
            &["analysis", "objectives", "[]"],
            &["extends", "name", "parameters"][..],
            &["analysisTemplate", "calibration", "ref"][..],
        ),
        (
            "checks",
            &["analysis", "checks", "[]"],
            &["extends", "name", "parameters"],
            // Requests and Jobs belong to one Rollout.
            &["analysisTemplate", "http", "job", "ref"],
        ),
        (
            "indicators",
            &["analysis", "objectives", "[]"],
            &["extends", "name", "parameters"],
            &[
                "analysisTemplate",
                "calibration",
                "indicatorRef",
                "objective",
                "ref",
                "window",
            ],
        ),
    ] {
        let definition = spec_schema("AnalysisTemplate", &[list, "[]"]);
        let original = spec_schema("Rollout", original);
        for (name, field) in fields(&definition) {
            if own.contains(&name.as_str()) {
                continue;
            }
            let original = &original["properties"][name];
            assert_eq!(
                without_docs(field),
                without_docs(original),
                "{list}[].{name}"
            );
            let (text, full) = (docs(field), docs(original));
            assert_eq!(subject(&text), subject(&full), "{list}[].{name}");
            if let Some(default) = stated_default(&text) {
                assert_eq!(Some(default), stated_default(&full), "{list}[].{name}");
            }
        }
        let name = |schema: &Value| without_docs(&schema["properties"]["name"]);
        assert_eq!(name(&definition), name(&original), "{list}[].name");
        assert_eq!(
            not_repeated(&definition, &original),
            not_defined.iter().copied().collect(),
            "{list}[]"
        );
        // A policy has the same definitions.
        let of_policy = spec_schema("RolloutPolicy", &[list, "[]"]);
        assert_eq!(definition, of_policy, "{list}[]");
    }
}
