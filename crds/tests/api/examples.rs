//! Every file in `examples/`, as an API server and the controller would take it.

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

/// The plan of a Rollout, or what the controller tells of it.
fn plan(rollout: &Value) -> Result<(), String> {
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
fn every_good_example_is_taken_in() {
    let files = yaml_files(&examples());
    let good = files
        .iter()
        .filter(|file| !file.starts_with(examples().join("invalid")));
    let mut rollouts = 0;
    for file in good {
        for document in documents(file) {
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
            assert_eq!(plan(&document), Ok(()), "{name}");
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
fn every_bad_example_is_refused_with_the_message_it_expects() {
    let files = yaml_files(&examples().join("invalid"));
    assert!(files.len() >= 20, "only {} malformed Rollouts", files.len());
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
                    "{name} expects {message:?} of the API server, which says {refusals:?}"
                );
            }
            "InvalidSpec" => {
                assert_eq!(refusals, "", "{name} must be taken in by the API server");
                let told = plan(&document).err().unwrap_or_default();
                if header("# told by:").is_some() {
                    assert_eq!(told, "", "{name} must be left to the API server");
                } else {
                    assert!(
                        told.contains(message),
                        "{name} expects {message:?}, and the plan says {told:?}"
                    );
                }
            }
            outcome => panic!("{name} expects the unknown outcome {outcome:?}"),
        }
    }
}

#[test]
fn what_the_api_server_refuses_by_rule_the_plan_refuses_too() {
    for file in yaml_files(&examples().join("invalid")) {
        let text = fs::read_to_string(&file).unwrap();
        let document = documents(&file).remove(0);
        let by_rule = admission::refusals_by_rule(&document);
        // A Rollout that was stored by an older definition must not get past the controller either.
        if text.contains("# expect: refused") && !by_rule.is_empty() {
            assert!(
                plan(&document).is_err(),
                "{} is refused by rule alone: {by_rule:?}",
                file.display()
            );
        }
    }
}

#[test]
fn the_long_example_shows_every_field() {
    let text = fs::read_to_string(examples().join("canary-full.yaml")).unwrap();
    let schema = admission::schema_of("Rollout");
    let mut missing = Vec::new();
    fields(&schema["properties"]["spec"], "spec", &mut |path, name| {
        if !text.contains(&format!("{name}:")) && !text.contains(&format!("`{name}`")) {
            missing.push(path.to_owned());
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

/// Calls `see` with the path and name of each field that is Serin's own.
fn fields(schema: &Value, path: &str, see: &mut impl FnMut(&str, &str)) {
    let properties = schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::iter);
    for (name, property) in properties {
        let path = format!("{path}.{name}");
        see(&path, name);
        // What a pod template and a label selector hold is Kubernetes'.
        if path != "spec.template" && path != "spec.selector" {
            fields(
                if property["items"].is_object() {
                    &property["items"]
                } else {
                    property
                },
                &path,
                see,
            );
        }
    }
}

#[test]
fn a_selector_cannot_be_changed() {
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
        refusals.contains("spec.selector cannot be changed"),
        "{refusals}"
    );
}

#[test]
fn a_command_cannot_be_changed() {
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
        refusals.contains("a command cannot be changed"),
        "{refusals}"
    );
    let refusals = admission::refusals(&command("override"), None).join("\n");
    assert!(
        refusals.contains("spec.reason must say why the freeze is lifted"),
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
    let refusals = admission::refusals(&command("destroy"), None).join("\n");
    assert!(refusals.contains("Unsupported value"), "{refusals}");
}

/// Whether an expression over an object's fields holds, as Flux evaluates it.
fn holds(expression: &str, object: &Value) -> bool {
    let field = regex::Regex::new(r"\b(status|metadata)\.").unwrap();
    let rule = field.replace_all(expression, "self.$1.");
    let schema = serde_json::json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-validations": [{"rule": rule, "message": "it does not hold"}],
    });
    match kube_cel::Validator::new().validate(&schema, object, None) {
        Ok(()) => true,
        Err(errors) => {
            let told: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
            assert_eq!(told, ["it does not hold"], "{expression}");
            false
        }
    }
}

#[test]
fn flux_sees_each_rollout_in_one_state_and_the_right_one() {
    let documents = documents(&examples().join("gitops/flux/kustomization.yaml"));
    let expressions = &documents[1]["spec"]["healthCheckExprs"][0];
    let rollout = |generation: i64, status: Value| serde_json::json!({"metadata": {"generation": generation}, "status": status});
    let seen = |phase: &str| serde_json::json!({"observedGeneration": 2, "phase": phase});
    for (object, expected) in [
        (rollout(1, serde_json::json!({})), "inProgress"),
        (rollout(3, seen("Healthy")), "inProgress"),
        (rollout(2, seen("Progressing")), "inProgress"),
        (rollout(2, seen("Paused")), "inProgress"),
        (rollout(2, seen("Degraded")), "failed"),
        (rollout(2, seen("Healthy")), "current"),
    ] {
        // Flux asks in this order and takes the first that holds.
        let state = ["inProgress", "failed", "current"]
            .into_iter()
            .find(|state| {
                let expression = expressions[state].as_str().unwrap();
                holds(expression, &object)
            });
        assert_eq!(state, Some(expected), "{object}");
    }
}
