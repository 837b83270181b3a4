//! The CRDs have a description for every field and a schema that the API server accepts.

use serde_json::Value;

/// Calls `visit` with every schema in a schema, and its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for (key, at) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&schema[key], &format!("{path}{at}"), visit);
        }
    }
}

fn for_each_schema(mut visit: impl FnMut(&str, &Value)) {
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
            &mut visit,
        );
    }
}

#[test]
fn every_field_has_a_description() {
    for_each_schema(|path, schema| {
        let is_field = !path.ends_with("[]") && !path.ends_with("{}");
        let described = schema["description"]
            .as_str()
            .is_some_and(|text| !text.trim().is_empty());
        assert!(described || !is_field, "{path} has no description");
    });
}

#[test]
fn every_schema_is_structural() {
    for_each_schema(|path, schema| {
        let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
        assert!(typed, "{path} has no type");
        for key in ["$ref", "oneOf", "anyOf", "allOf", "not", "definitions"] {
            assert!(schema.get(key).is_none(), "{path} has {key}");
        }
    });
}

#[test]
fn the_status_permits_values_of_later_versions() {
    for_each_schema(|path, schema| {
        let limits = ["enum", "maxLength", "maxItems", "maximum", "pattern"];
        for limit in limits.iter().filter(|_| path.starts_with("Rollout.status")) {
            assert!(
                schema.get(limit).is_none(),
                "{path} has {limit}: an older CRD would refuse the status of a newer controller"
            );
        }
    });
}

// With an owner for each field, `metadata.managedFields` becomes larger than the status.
#[test]
fn every_status_has_one_owner_as_a_whole() {
    for_each_schema(|path, schema| {
        let is_status = path
            .split_once('.')
            .is_some_and(|(_, field)| field == "status");
        if is_status {
            assert_eq!(schema["x-kubernetes-map-type"], "atomic", "{path}");
        }
    });
}

#[test]
fn no_field_is_nullable_or_unsigned_and_only_replicas_has_a_default() {
    let mut defaults = Vec::new();
    for_each_schema(|path, schema| {
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
    // argo-rollouts #119: without a default, `/scale` fails if the field is unset, so an autoscaler
    // can never take over.
    assert_eq!(
        defaults.len(),
        1,
        "a default changes the user's spec: {defaults:?}"
    );
    assert!(
        defaults[0].ends_with("spec.replicas 1") || defaults[0].ends_with("replicas 1"),
        "{defaults:?}"
    );
}

#[test]
fn every_rule_has_a_message() {
    for_each_schema(|path, schema| {
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
fn every_crd_fits_into_an_annotation() {
    for crd in serin_crds::crds() {
        let bytes = serde_json::to_string(&crd).unwrap().len();
        // `kubectl apply` stores the whole object in an annotation of at most 256 KiB.
        assert!(
            bytes < 262_144 / 4 * 3,
            "{} has {bytes} bytes",
            crd.spec.names.kind
        );
    }
}

// flagger #1363: if a GitOps tool replaces a CRD, all of its objects are deleted.
#[test]
fn the_crds_forbid_pruning_and_replacement() {
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

/// Schemas of a spec without bounds, with the reason.
const UNBOUNDED: [(&str, &str); 4] = [
    (
        "Rollout.spec.template.spec",
        "unknown fields are preserved; the plan limits the size of a template",
    ),
    (
        "Rollout.spec.template.spec.containers[]",
        "unknown fields are preserved; the plan limits the size of a template",
    ),
    (
        "Rollout.spec.analysis.checks[].job.template.spec",
        "unknown fields are preserved; the plan limits the size of the template of a Job",
    ),
    (
        "RolloutPolicy.spec.defaults.analysis.checks[].job.template.spec",
        "unknown fields are preserved; the plan limits the size of the template of a Job",
    ),
];

/// The bounds that a schema needs but does not have.
fn missing_bounds(schema: &Value) -> Vec<&'static str> {
    let is_int_or_string = schema["x-kubernetes-int-or-string"] == true;
    let needed: &[&str] = match schema["type"].as_str() {
        _ if is_int_or_string => &["maxLength", "maximum"],
        Some("string") if schema["enum"].is_array() => &[],
        Some("string") => &["maxLength"],
        Some("array") => &["maxItems"],
        Some("integer" | "number") => &["maximum"],
        Some("object") if schema["additionalProperties"].is_object() => &["maxProperties"],
        Some("object") if schema["x-kubernetes-preserve-unknown-fields"] == true => {
            &["known fields"]
        }
        Some("object" | "boolean") => &[],
        _ => &["a type"],
    };
    needed
        .iter()
        .copied()
        .filter(|bound| schema.get(*bound).is_none())
        .collect()
}

// A value without a bound fills etcd and the memory of every program that watches these objects.
#[test]
fn every_value_of_a_spec_has_a_bound() {
    let mut unbounded = Vec::new();
    let mut checked = 0;
    for_each_schema(|path, schema| {
        if !path
            .split_once('.')
            .is_some_and(|(_, field)| field.starts_with("spec"))
        {
            return;
        }
        checked += 1;
        let is_exempt = UNBOUNDED.iter().any(|(exempt, _)| *exempt == path);
        let missing = missing_bounds(schema);
        assert!(
            !is_exempt || !missing.is_empty(),
            "{path} is bounded, so that it needs no exemption"
        );
        if !is_exempt {
            unbounded.extend(missing.iter().map(|bound| format!("{path}: {bound}")));
        }
    });
    assert!(checked > 100, "only {checked} schemas were checked");
    assert_eq!(unbounded, Vec::<String>::new());
}
