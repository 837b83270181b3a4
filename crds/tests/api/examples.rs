//! Every file in `examples/`, validated like the API server and the controller do.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use serin_crds::Rollout;

use crate::admission;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn documents(file: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(file).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Whether the controller accepts a Rollout. The error is the message that it reports.
fn validate(rollout: &Value) -> Result<(), String> {
    let rollout: Rollout =
        serde_json::from_value(rollout.clone()).map_err(|error| error.to_string())?;
    let name = rollout.metadata.name.unwrap();
    rollout
        .spec
        .plan(&name)
        .map(drop)
        .map_err(|errors| errors.to_string())
}

#[test]
fn every_valid_example_is_accepted() {
    let files = yaml_files(&examples());
    let valid = files
        .iter()
        .filter(|file| !file.starts_with(examples().join("invalid")));
    let mut rollouts = 0;
    for file in valid {
        let documents = documents(file);
        let has_policy = |document: &Value| document["kind"] == "RolloutPolicy";
        let is_under_policy = documents.iter().any(has_policy);
        for document in documents {
            let name = file.display();
            for field in ["apiVersion", "kind"] {
                assert!(
                    document[field].is_string(),
                    "{name} has a document without {field}"
                );
            }
            if document["apiVersion"] != "serin.dev/v1alpha1" {
                continue;
            }
            assert_eq!(
                admission::refusals(&document, None),
                Vec::<String>::new(),
                "{name}"
            );
            // The crate `serin-policy` tests the Rollouts of files with a policy.
            if document["kind"] != "Rollout" || is_under_policy {
                continue;
            }
            assert_eq!(validate(&document), Ok(()), "{name}");
            rollouts += 1;
        }
    }
    assert!(
        rollouts >= 3,
        "only {rollouts} Rollouts in {}",
        examples().display()
    );
}

#[test]
fn every_invalid_example_gets_its_expected_message() {
    let files = yaml_files(&examples().join("invalid"));
    assert!(files.len() >= 20, "only {} invalid Rollouts", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let header = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key).map(str::trim))
        };
        let (outcome, message) = header("# expect:")
            .and_then(|expect| expect.split_once(": "))
            .unwrap();
        let document = documents(&file).remove(0);
        let refusals = admission::refusals(&document, None).join("\n");
        let name = file.file_stem().unwrap().display();
        match outcome {
            "refused" => {
                assert!(
                    refusals.contains(message),
                    "{name} expects {message:?}, but the API server reports {refusals:?}"
                );
            }
            "InvalidSpec" => {
                assert_eq!(refusals, "", "{name} must be accepted by the API server");
                let problems = validate(&document).err().unwrap_or_default();
                if header("# reported by:").is_some() {
                    assert_eq!(problems, "", "{name}: only the API server must reject it");
                } else {
                    assert!(
                        problems.contains(message),
                        "{name} expects {message:?}, but the plan reports {problems:?}"
                    );
                }
            }
            outcome => panic!("{name} expects the unknown outcome {outcome:?}"),
        }
    }
}

#[test]
fn the_plan_rejects_what_a_validation_rule_rejects() {
    for file in yaml_files(&examples().join("invalid")) {
        let text = fs::read_to_string(&file).unwrap();
        let document = documents(&file).remove(0);
        let by_rule = admission::refusals_by_rule(&document);
        // The controller must also reject a Rollout that was stored under an older CRD.
        if text.contains("# expect: refused") && !by_rule.is_empty() {
            assert!(
                validate(&document).is_err(),
                "{} is rejected only by a rule: {by_rule:?}",
                file.display()
            );
        }
    }
}

#[test]
fn the_full_examples_contain_every_field() {
    let files = ["canary-full.yaml", "blue-green.yaml", "gates.yaml"];
    let texts = files.map(|file| fs::read_to_string(examples().join(file)).unwrap());
    let text = texts.concat();
    let schema = admission::schema_of("Rollout");
    let mut missing = Vec::new();
    fields(&schema["properties"]["spec"], "spec", &mut |path, name| {
        if !text.contains(&format!("{name}:")) && !text.contains(&format!("`{name}`")) {
            missing.push(path.to_owned());
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

/// Calls `visit` with the path and name of each field that Serin defines.
fn fields(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &str)) {
    let properties = schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::iter);
    for (name, property) in properties {
        let path = format!("{path}.{name}");
        visit(&path, name);
        // Kubernetes defines the fields of a pod template and a label selector.
        if path != "spec.template" && path != "spec.selector" {
            fields(
                if property["items"].is_object() {
                    &property["items"]
                } else {
                    property
                },
                &path,
                visit,
            );
        }
    }
}

#[test]
fn a_selector_is_immutable() {
    let old = documents(&examples().join("quickstart.yaml")).remove(0);
    let mut new = old.clone();
    assert_eq!(admission::refusals(&new, Some(&old)), Vec::<String>::new());
    for pointer in [
        "/spec/selector/matchLabels/app",
        "/spec/template/metadata/labels/app",
    ] {
        *new.pointer_mut(pointer).unwrap() = "other".into();
    }
    let refusals = admission::refusals(&new, Some(&old)).join("\n");
    assert!(
        refusals.contains("spec.selector is immutable"),
        "{refusals}"
    );
}

#[test]
fn observing_can_end_but_not_begin() {
    let observing = documents(&examples().join("observe-a-deployment.yaml")).remove(0);
    let mut managing = documents(&examples().join("quickstart.yaml")).remove(0);
    let mut observing_the_same = managing.clone();
    observing_the_same["spec"]["mode"] = "Observe".into();
    assert_eq!(
        admission::refusals(&observing, Some(&observing)),
        Vec::<String>::new()
    );
    assert_eq!(
        admission::refusals(&managing, Some(&observing_the_same)),
        Vec::<String>::new()
    );
    let refusals = admission::refusals(&observing_the_same, Some(&managing)).join("\n");
    assert!(
        refusals.contains("spec.mode cannot become Observe"),
        "{refusals}"
    );
    managing["spec"]["mode"] = "Manage".into();
    let refusals = admission::refusals(&observing_the_same, Some(&managing)).join("\n");
    assert!(
        refusals.contains("spec.mode cannot become Observe"),
        "{refusals}"
    );
}

#[test]
fn a_command_is_immutable_and_an_override_needs_a_reason() {
    let command = |verb: &str| {
        serde_json::json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand", "metadata": {"name": "x"},
            "spec": {"rolloutRef": {"name": "shop"}, "verb": verb},
        })
    };
    assert_eq!(
        admission::refusals(&command("abort"), None),
        Vec::<String>::new()
    );
    let refusals = admission::refusals(&command("promote"), Some(&command("abort"))).join("\n");
    assert!(
        refusals.contains("a RolloutCommand is immutable"),
        "{refusals}"
    );
    let refusals = admission::refusals(&command("override"), None).join("\n");
    assert!(
        refusals.contains("spec.reason is required for override"),
        "{refusals}"
    );
    let mut with_a_reason = command("override");
    with_a_reason["spec"]["reason"] = "the fix of an incident".into();
    assert_eq!(
        admission::refusals(&with_a_reason, None),
        Vec::<String>::new()
    );
    with_a_reason["spec"]["reason"] = "  ".into();
    assert_ne!(
        admission::refusals(&with_a_reason, None),
        Vec::<String>::new()
    );
    with_a_reason["spec"]["reason"] = "a typo".into();
    with_a_reason["spec"]["adoptAnalysis"] = true.into();
    assert_eq!(
        admission::refusals(&with_a_reason, None),
        Vec::<String>::new()
    );
    let mut promotion = command("promote");
    promotion["spec"]["adoptAnalysis"] = true.into();
    let refusals = admission::refusals(&promotion, None).join("\n");
    assert!(
        refusals.contains("spec.adoptAnalysis is permitted for override only"),
        "{refusals}"
    );
    let refusals = admission::refusals(&command("destroy"), None).join("\n");
    assert!(refusals.contains("Unsupported value"), "{refusals}");
}

/// Evaluates an expression over the fields of an object like Flux does.
fn holds(expression: &str, object: &Value) -> bool {
    let field = regex::Regex::new(r"\b(status|metadata)\.").unwrap();
    let rule = field.replace_all(expression, "self.$1.");
    let schema = serde_json::json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-validations": [{"rule": rule, "message": "expression is false"}],
    });
    match kube_cel::Validator::new().validate(&schema, object, None) {
        Ok(()) => true,
        Err(errors) => {
            let messages: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
            assert_eq!(messages, ["expression is false"], "{expression}");
            false
        }
    }
}

#[test]
fn flux_derives_the_right_health_from_each_phase() {
    let documents = documents(&examples().join("gitops/flux/kustomization.yaml"));
    let expressions = &documents[1]["spec"]["healthCheckExprs"][0];
    let rollout = |generation: i64, status: Value| serde_json::json!({"metadata": {"generation": generation}, "status": status});
    let status = |phase: &str| serde_json::json!({"observedGeneration": 2, "phase": phase});
    for (object, expected) in [
        (rollout(1, serde_json::json!({})), "inProgress"),
        (rollout(3, status("Healthy")), "inProgress"),
        (rollout(2, status("Progressing")), "inProgress"),
        (rollout(2, status("Paused")), "inProgress"),
        (rollout(2, status("Degraded")), "failed"),
        (rollout(2, status("Healthy")), "current"),
    ] {
        // Flux evaluates the expressions in this order and uses the first that is true.
        let state = ["inProgress", "failed", "current"]
            .into_iter()
            .find(|state| {
                let expression = expressions[state].as_str().unwrap();
                holds(expression, &object)
            });
        assert_eq!(state, Some(expected), "{object}");
    }
}
