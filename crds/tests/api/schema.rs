//! The `CustomResourceDefinitions` as a whole: what a person reads in `kubectl explain`, and what
//! an API server accepts.

use serde_json::Value;

/// Calls `see` with every schema in a `CustomResourceDefinition` and its path.
fn walk(schema: &Value, path: &str, see: &mut impl FnMut(&str, &Value)) {
    see(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), see);
    }
    for (key, at) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&schema[key], &format!("{path}{at}"), see);
        }
    }
}

fn each(mut see: impl FnMut(&str, &Value)) {
    for crd in serin_crds::crds() {
        let schema = crd.spec.versions[0]
            .schema
            .as_ref()
            .unwrap()
            .open_api_v3_schema
            .as_ref()
            .unwrap();
        walk(
            &serde_json::to_value(schema).unwrap(),
            &crd.spec.names.kind,
            &mut see,
        );
    }
}

#[test]
fn every_field_is_described() {
    each(|path, schema| {
        let is_field = !path.ends_with("[]") && !path.ends_with("{}");
        let described = schema["description"]
            .as_str()
            .is_some_and(|text| !text.trim().is_empty());
        assert!(described || !is_field, "{path} has no description");
    });
}

#[test]
fn every_schema_is_structural() {
    each(|path, schema| {
        let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
        assert!(typed, "{path} has no type");
        for key in ["$ref", "oneOf", "anyOf", "allOf", "not", "definitions"] {
            assert!(schema.get(key).is_none(), "{path} has {key}");
        }
    });
}

#[test]
fn nothing_is_nullable_or_unsigned_and_replicas_alone_has_a_default() {
    let mut defaults = Vec::new();
    each(|path, schema| {
        defaults.extend(
            schema
                .get("default")
                .map(|default| format!("{path} {default}")),
        );
        assert!(
            schema.get("nullable").is_none(),
            "{path} is nullable: `field:` without a value would read as absent"
        );
        let format = schema["format"].as_str().unwrap_or("int32");
        assert!(
            ["int32", "int64", "double", "date-time"].contains(&format),
            "{path} has the format {format}"
        );
    });
    // argo-rollouts #119: without it `/scale` is an error where the field is left out, and an
    // autoscaler never takes over.
    assert_eq!(
        defaults.len(),
        1,
        "the user's spec is never written: {defaults:?}"
    );
    assert!(
        defaults[0].ends_with("spec.replicas 1") || defaults[0].ends_with("replicas 1"),
        "{defaults:?}"
    );
}

#[test]
fn every_rule_says_what_to_do() {
    each(|path, schema| {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            assert!(
                rule["message"].as_str().is_some_and(|text| text.len() > 20),
                "{path}: {rule}"
            );
        }
    });
}

#[test]
fn each_definition_fits_into_an_annotation() {
    for crd in serin_crds::crds() {
        let bytes = serde_json::to_string(&crd).unwrap().len();
        // `kubectl apply` keeps the whole object in an annotation of 256 KiB.
        assert!(
            bytes < 262_144 / 2,
            "{} has {bytes} bytes",
            crd.spec.names.kind
        );
    }
}

// flagger #1363: a CustomResourceDefinition that a GitOps tool replaces takes every object of it
// along.
#[test]
fn no_tool_prunes_or_replaces_a_definition() {
    for crd in serin_crds::crds() {
        let annotations = crd.metadata.annotations.unwrap();
        assert_eq!(
            annotations["argocd.argoproj.io/sync-options"],
            "Prune=false,Delete=false,Replace=false"
        );
        assert_eq!(annotations["helm.sh/resource-policy"], "keep");
        assert_eq!(annotations["kustomize.toolkit.fluxcd.io/prune"], "disabled");
    }
}
